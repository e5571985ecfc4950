"""The lab's own load generator: lean, open loop, and honest about itself.

**What it must be.** Faster than what it measures, by a margin; on a schedule that the broker cannot slow
down; and able to tell that it was at fault. Three rules follow.

1. *The intended send time is what counts.* Every message carries the moment (``CLOCK_MONOTONIC``, ns) at which
   it was to be sent; latency is the moment of its arrival minus that. A generator that waits for a slow broker
   and then counts from the actual send would leave out exactly the waiting that a user sees ("coordinated
   omission").
2. *Everything that arrives is proven.* Count, order (a sequence number in the payload, dense offsets from
   the broker) and content (the batch's CRC32C, which the producer computed). A run that lost, repeated,
   reordered or altered anything raises `WrongResult`: it has no figures.
3. *It declares its own run invalid* when fewer than 99% of the messages that were due in the window arrived
   in it, or when more than 1% of the sends began over 1 ms late. Smaller delays of its own only make the
   figures worse, since they are part of the latency; they are reported.

**One process, one thread.** Publisher and consumer are two connections of one thread that spins between them.
On two cores that leaves one whole core to the broker. With two processes that spin, three that can run share
two cores: the broker waits for one of them to be descheduled, and at 10,000 messages a second its p99 becomes
that of the scheduler, milliseconds. ``python -m portask_lab.loadgen.compare`` shows it on any machine.

**Sleep, then spin.** A sleeping process wakes some 100 µs late, on a core with cold caches; a virtual core that
halted may come back milliseconds late. So the generator sleeps only when nothing is under way and the next send
is more than `portask.measuring.openloop.MARGIN_NS` away; else it spins. Where the broker's CPU is measured it
only sleeps: a spinning neighbour would change the clock speed and make the machine's busy time meaningless.

**Batches are encoded before the run.** Sending one stamps the times, the sequence number and two checksums
into a template, about 2 µs; receiving costs about 2 µs a batch. Neither builds messages, so the figures are
the broker's.

Only set-up (handshake, OPEN, SUBSCRIBE) goes through `portask.wire.connection`.
"""
