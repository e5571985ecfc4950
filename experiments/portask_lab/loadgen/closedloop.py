"""Closed loop: as fast as it goes with a bounded number of batches under way, counted where they arrive.

Every publisher keeps up to ``in_flight`` batches on the way to the slowest consumer. What comes back makes
room for the next, so a queue inside the broker cannot pass for throughput.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic_ns

import msgspec

from portask_lab.loadgen.consumer import CountingConsumer
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Ring
from portask_lab.loadgen.processes import thread_busy
from portask_lab.workloads import WrongResult

WARM_UP = 0.25
"""Share of the time that is discarded. Fixed."""
_BURST_BYTES = 64 * 1024
"""About what one publisher hands to the kernel at once, before everybody's sockets are looked at again."""
_DRAIN_NS = 5_000_000_000


class Throughput(msgspec.Struct):
    """What a closed-loop run found.

    Attributes:
        rate: Messages a second, over all consumers, after the warm-up.
        seconds: Length of the window.
        received: Messages received in the whole run, over all consumers.
        in_flight: Most messages that one publisher had under way.
        deliveries: Messages in a delivered batch → how often.
        busy: Share of the window that the generator's thread was on a core or waited for one.
    """

    rate: float
    seconds: float
    received: int
    in_flight: int
    deliveries: dict[int, int]
    busy: float = 0.0


def run(
    publishers: Sequence[tuple[Publisher, Ring]],
    consumers: Sequence[CountingConsumer],
    seconds: float,
    in_flight: int,
    *,
    paired: bool = False,
    start: int = 0,
    window: Callable[[], None] = lambda: None,
) -> Throughput:
    """Publishes for ``seconds`` and receives everything.

    Args:
        publishers: Each with its ring, longer than ``in_flight``; in the order of their numbers.
        consumers: Each subscribed to all of it.
        seconds: Including the warm-up.
        in_flight: Batches of one publisher that may be under way.
        paired: Each consumer is subscribed to the publisher in its place, whose number is 0, and to no other.
        start: When to begin, ``CLOCK_MONOTONIC`` ns: for several processes that are to do it together. At once by
            default.
        window: Called when the window begins and when it ends.

    Raises:
        WrongResult: something was lost, repeated, reordered or altered.
        PortaskError: the broker refused something or hung up.
    """
    poller = select.epoll()
    readers = {consumer.sock.fileno(): consumer.read for consumer in consumers}
    readers |= {publisher.sock.fileno(): publisher.read for publisher, _ in publishers}
    for fd in readers:
        poller.register(fd, select.EPOLLIN)
    sent = [0] * len(publishers)

    def taken(place: int) -> int:
        """Batches of a publisher that everybody has who is to have them."""
        return consumers[place].taken[0] if paired else min(consumer.taken[place] for consumer in consumers)

    start = start or monotonic_ns()
    time.sleep(max(0, start - monotonic_ns()) / 1e9)
    opens, ends = start + int(WARM_UP * seconds * 1e9), start + int(seconds * 1e9)
    began = at_begin = 0
    busy = 0.0
    with poller:
        while (now := monotonic_ns()) < ends:
            if not began and now >= opens:
                window()
                busy, began, at_begin = thread_busy(), monotonic_ns(), _received(consumers)
            for fd, _ in poller.poll(0 if _publish(publishers, taken, sent, in_flight) else 0.001):
                readers[fd]()
        at_end = _received(consumers)
        busy = (thread_busy() - busy) / (now - began)
        window()
        deadline = now + _DRAIN_NS
        while any(taken(place) != number for place, number in enumerate(sent)):
            if monotonic_ns() > deadline:
                raise WrongResult(
                    f"of {sent} batches sent only {[consumer.taken for consumer in consumers]} arrived"
                )
            for publisher, _ in publishers:
                publisher.flush()
            for fd, _ in poller.poll(0.001):
                readers[fd]()
    count = publishers[0][1].count
    due = [number * count for number in sent] if paired else [sum(sent) * count] * len(consumers)
    if [consumer.messages for consumer in consumers] != due:
        raise WrongResult("a consumer received more or fewer messages than were sent")
    span = (now - began) / 1e9
    deliveries = sum((consumer.deliveries for consumer in consumers), Counter[int]())
    return Throughput(
        (at_end - at_begin) / span,
        span,
        _received(consumers),
        in_flight * count,
        dict(sorted(deliveries.items())),
        busy,
    )


def _publish(
    publishers: Sequence[tuple[Publisher, Ring]],
    taken: Callable[[int], int],
    sent: list[int],
    in_flight: int,
) -> bool:
    """Tops up what is under way; whether there may be more to send at once."""
    eager = False
    for place, (publisher, ring) in enumerate(publishers):
        publisher.flush()
        if publisher.blocked:
            continue
        number = sent[place]
        free = taken(place) + in_flight - number
        if free > 0:
            frames = ring.frames(number, min(free, max(1, _BURST_BYTES // ring.frame_size)))
            publisher.send(frames)
            sent[place] = number + len(frames) // ring.frame_size
            eager = eager or sent[place] < number + free
    return eager


def _received(consumers: Sequence[CountingConsumer]) -> int:
    return sum(consumer.messages for consumer in consumers)
