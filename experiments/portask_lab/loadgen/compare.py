"""``python -m portask_lab.loadgen.compare [VARIANT] [RATE]``: one generator process or two?

Runs both arrangements in turn against fresh brokers and prints their latencies: publisher and consumer taking turns
in one thread, as `portask_lab.loadgen.openloop` does it; and each in a process of its own. It is the evidence for
the choice, on any machine.
"""

from __future__ import annotations

import os
import select
import sys
from array import array
from time import monotonic_ns

from portask.measuring import schedule
from portask.measuring.openloop import DRAIN_SECONDS, WARM_UP
from portask_lab.loadgen import broker, openloop
from portask_lab.loadgen.consumer import TimedConsumer
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.processes import Child

_ROUNDS = 5
_SECONDS = 1.0
_SIZE = 64
_TOPIC = "lab"


def one(child: Child, times: array[int]) -> list[int]:
    """Both in this thread; ns from the intended time, sorted, without the warm-up."""
    publisher, consumer = (
        Publisher(child.port, _TOPIC),
        TimedConsumer(child.port, _TOPIC, 1, _SIZE, len(times)),
    )
    found = openloop.run([(publisher, Batches(_SIZE))], consumer, times)
    publisher.close()
    consumer.close()
    return sorted(found.latencies)


def two(child: Child, times: array[int]) -> list[int]:
    """The publisher in a process of its own; both spin."""
    publisher, consumer = (
        Publisher(child.port, _TOPIC),
        TimedConsumer(child.port, _TOPIC, 1, _SIZE, len(times)),
    )
    start = monotonic_ns() + 50_000_000
    pid = os.fork()
    if pid == 0:
        _publish(publisher, start, times)
        os._exit(0)
    poller = select.poll()
    poller.register(consumer.sock, select.POLLIN)
    deadline = start + int((_SECONDS + DRAIN_SECONDS) * 1e9)
    while consumer.batches < len(times) and monotonic_ns() < deadline:
        if poller.poll(0):
            consumer.read()
    os.waitpid(pid, 0)
    publisher.close()
    consumer.close()
    return sorted(consumer.latency[int(WARM_UP * len(times)) :])


def _publish(publisher: Publisher, start: int, times: array[int]) -> None:
    poller = select.poll()
    poller.register(publisher.sock, select.POLLIN)
    source = Batches(_SIZE)
    for number, at in enumerate(times):
        while monotonic_ns() < start + at:
            if poller.poll(0):
                publisher.read()
        publisher.send(source.frame(number, start + at))
        publisher.flush()


def main() -> None:
    """Prints a line a round and arrangement, µs."""
    variant = sys.argv[1] if len(sys.argv) > 1 else "epoll"
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 1000
    times = schedule.constant(rate, _SECONDS)
    for _ in range(_ROUNDS):
        for name, run in (("one process", one), ("two processes", two)):
            with broker.start(variant) as child:
                found = run(child, times)
            shown = "  ".join(f"{label} {percentile(found, share) / 1000:9.1f}" for label, share in _SHARES)
            sys.stdout.write(f"{variant} {rate:,.0f}/s  {name:13}  {shown}\n")


_SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))

if __name__ == "__main__":
    main()
