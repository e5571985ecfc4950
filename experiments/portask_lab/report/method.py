"""How the lab measures, in plain words, for the end of each report."""

_TEXT = """
A block runs every variant once, in a random order, each in a fresh process. Many blocks follow each other, so
that a machine that drifts does so for all variants alike.

The reference runs a second time in each block under another name (the A/A control). What the two differ by is
this machine's noise floor. An effect inside it is called indistinguishable, whatever its p-value.

A process stands for itself by the median of its samples. An effect is the ratio to the reference within a
block, averaged over blocks. Its 95% interval is a bootstrap over blocks, widened as Student's t asks where they
are few; one block has no interval. Times, rates and shares are positive, and so are their intervals: scatter is
taken between logarithms. Verdicts are corrected for the number of variants (Holm).

A criterion passes when the whole interval lies on the good side of the mark, fails when it lies on the other,
and is inconclusive when it straddles the mark. Where few processes give a wide interval or none, it fails all
the same when every single one of them missed the mark by a factor that was written down beforehand: two, unless
the criteria file says otherwise. There is no such short cut to passing. It is judged on the worst of its cases.

Memory of queued messages is private memory, which files are not. So each figure says where the messages were
found to lie, and the criterion's line is the best variant that holds them in RAM; those in files stand apart.

A variant is measured only after its conformance suite passed. Consumers check count, order and content in
every run; a run that lost, reordered or altered anything is a failure, never a figure. A measurement is void,
and nobody's failure, when the generator ran late or the load was not reached.

Variants that the noise floor, or the interval of their ratio, cannot tell apart are ordered by simplicity:
standard library, then fewer dependencies, then pure Python, then the reference, then fewer lines.

Winners were the best of several, which flatters them. Before they go into a configuration, the whole broker made
of them runs beside the reference broker, in fresh rounds that had no say in the choice. It is confirmed when a
figure is better and none is worse.

A suite has a time, and begins no block that would overrun it. With fewer valid blocks by then than it wants, the
run is incomplete.

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
