"""How the lab measures, in plain words, for the end of each report."""

_TEXT = """
A block runs every variant once, in a random order, each in a fresh process. Many blocks follow each other, so
that a machine that drifts does so for all variants alike.

The reference runs a second time in each block under another name (the A/A control). What the two differ by is
this machine's noise floor. An effect inside it is called indistinguishable, whatever its p-value.

A process stands for itself by the median of its samples. An effect is the ratio to the reference within a
block, averaged over blocks. Its 95% interval is a bootstrap over blocks, widened as Student's t asks where they
are few; one block has no interval. Verdicts are corrected for the number of variants (Holm).

A criterion passes when the whole interval lies on the good side of the mark, fails when it lies on the other,
and is inconclusive when it straddles the mark. It is judged on the worst of its cases.

A variant is measured only after its conformance suite passed. Consumers check count, order and content in
every run; a run that lost, reordered or altered anything is a failure, never a figure.

Variants that the noise floor cannot tell apart are ordered by simplicity: standard library, then fewer
dependencies, then pure Python.

A rule fixed beforehand voids a whole block, never one arm, when the machine was disturbed. The ledger counts
these blocks.

Warm-up is discarded by a fixed rule; drift that remains is reported as no steady state.

Latency is open loop: it counts from the time at which a message should have been sent, so a stall also counts
for the messages that waited behind it. A measurement is void when under 99% of the rate was reached or the
generator itself ran late.

Throughput is counted where messages arrive. CPU is the broker's own time over all its processes and threads,
as the kernel counts it. Memory is private memory of the whole process, not what an allocator believes.

Nothing is timed under a profiler. Floors (an empty loop, a raw relay) and ceilings (a plain copy) are printed
beside the figures, never subtracted.
"""

METHOD = tuple(" ".join(paragraph.split()) for paragraph in _TEXT.strip().split("\n\n"))
"""One paragraph each."""
