"""Open loop: what is sent when depends on the schedule alone, never on the broker."""

from __future__ import annotations

import select
import time
from array import array
from collections.abc import Callable, Sequence
from time import monotonic_ns

import msgspec

from portask.measuring.openloop import DRAIN_SECONDS, LATE_NS, LATE_SHARED_NS, MARGIN_NS, WARM_UP, judge
from portask_lab.loadgen.consumer import TimedConsumer
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches
from portask_lab.workloads import WrongResult

_BURST_BYTES = 64 * 1024
_AGAIN_NS = 500_000
"""How soon the kernel is asked again to take what it did not."""


class Outcome(msgspec.Struct):
    """What an open-loop run found; everything from the window after the warm-up.

    Attributes:
        rate: Messages a second that were due.
        achieved: Messages a second that arrived.
        latencies: ns, one a message.
        lateness: ns from intended to actual send, one a batch.
        sent: Messages sent in the whole run.
        received: Messages received in the whole run.
        backlog: Most messages under way at once within the window.
        seconds: Length of the window.
        deliveries: Messages in a delivered batch → how often.
        invalid: Why the run must not count; empty when it may.
    """

    rate: float
    achieved: float
    latencies: array[int]
    lateness: array[int]
    sent: int
    received: int
    backlog: int
    seconds: float
    deliveries: dict[int, int]
    invalid: str = ""

    def microseconds(self, share: float) -> float:
        """A percentile of the latency."""
        return percentile(sorted(self.latencies), share) / 1000


def verdict(due: int, arrived: int, lateness: Sequence[int], limit: int = LATE_NS) -> str:
    """Why a run is void, if it is; see `judge`. ``lateness``: ns from intended to actual send, one a send."""
    late = sum(value > limit for value in lateness)
    return judge(due, arrived, len(lateness), late=late, worst=max(lateness, default=0), limit=limit)


Stream = tuple[Publisher, Batches]
"""What one producer sends: over a connection of its own, or on a channel of one that several share."""


def run(
    streams: Sequence[Stream],
    consumer: TimedConsumer,
    schedule: array[int],
    *,
    spin: bool = True,
    window: Callable[[], None] = lambda: None,
) -> Outcome:
    """Sends one batch at each time of ``schedule``, the streams taking turns, and receives them all.

    Args:
        streams: In the order of their numbers; alike but for these.
        consumer: Subscribed to all of them, with room for the whole schedule.
        schedule: ns from the start, ascending; at least two moments.
        spin: Spin while something is under way or due. Without, only sleep: for measuring CPU.
        window: Called when the window begins and again when the schedule ends.

    Raises:
        ValueError: the schedule is too short.
        WrongResult: something was lost, repeated, reordered or altered.
        PortaskError: the broker refused something or hung up.
    """
    total = len(schedule)
    if total < 2 or schedule[-1] <= schedule[0]:
        raise ValueError("a schedule of fewer than two moments has no rate: measure longer")
    first = next((number for number, at in enumerate(schedule) if at >= WARM_UP * schedule[-1]), 0)
    lateness = array("q", bytes(8 * total))
    lanes = [(publisher, batches.frame) for publisher, batches in streams]
    turns = len(lanes)
    lines = _Lines(list(dict.fromkeys(publisher for publisher, _ in streams)), consumer)
    wait = lines.spin if spin else lines.sleep
    start = monotonic_ns() + 20_000_000
    dues = array("q", (start + at for at in schedule))
    dues.append(1 << 62)
    number = backlog = 0
    due = dues[0]
    opened = False
    while number < total:
        now = monotonic_ns()
        if now >= due:
            if not opened and number >= first:
                window()
                opened = True
                now = monotonic_ns()
            publisher, frame = lanes[number % turns]
            out = frame(number // turns, due)
            lateness[number] = now - due
            number += 1
            due = dues[number]
            # More than one is due: they share a system call, but for the one that opens the window.
            if now >= due and turns == 1:
                out = bytearray(out)
                while now >= due and len(out) < _BURST_BYTES and (opened or number != first):
                    out += frame(number, due)
                    lateness[number] = now - due
                    number += 1
                    due = dues[number]
            publisher.send(out)
            if publisher.blocked:
                lines.stuck[publisher] = None
            if opened:
                backlog = max(backlog, number - consumer.batches)
        wait(due if number < total else now, number > consumer.batches)
    end = dues[total - 1] + (schedule[-1] - schedule[0]) // (total - 1)
    while (now := monotonic_ns()) < end:
        wait(end, number > consumer.batches)
    window()
    _drain(lines, consumer, total)
    lines.poller.close()
    backlog *= streams[0][1].count
    limit = LATE_NS if spin else LATE_SHARED_NS
    return _outcome(consumer, streams[0][1], dues, lateness, first, end, backlog, limit)


class _Lines:
    """All sockets of a run.

    Attributes:
        stuck: Publishers with bytes that the kernel did not take.
    """

    def __init__(self, publishers: Sequence[Publisher], consumer: TimedConsumer) -> None:
        self.stuck: dict[Publisher, None] = {}
        self.poller = select.epoll()
        self._publishers = publishers
        self._readers = {publisher.sock.fileno(): publisher.read for publisher in publishers}
        self._readers[consumer.sock.fileno()] = consumer.read
        for fd in self._readers:
            self.poller.register(fd, select.EPOLLIN)

    @property
    def acked(self) -> int:
        """Publishes that were acknowledged."""
        return sum(publisher.acked for publisher in self._publishers)

    def take(self) -> None:
        """Takes in what is there, and sends on what waits."""
        readers = self._readers
        for fd, _ in self.poller.poll(0):
            readers[fd]()
        if self.stuck:
            for publisher in self.stuck:
                publisher.flush()
            self.stuck = {publisher: None for publisher in self.stuck if publisher.blocked}

    def spin(self, until: int, under_way: bool) -> None:
        """Takes what is there; sleeps only when nothing is under way and the next send is far."""
        if not under_way:
            idle = until - monotonic_ns() - MARGIN_NS
            if idle > 0:
                time.sleep(idle / 1e9)
        self.take()

    def sleep(self, until: int, under_way: bool) -> None:
        """Sleeps until something comes or is due: select on the epoll set, whose own timeout is in ms, not in µs."""
        pause = max(0, until - monotonic_ns())
        select.select((self.poller,), (), (), min(pause, _AGAIN_NS if self.stuck else pause) / 1e9)
        self.take()


def _drain(lines: _Lines, consumer: TimedConsumer, total: int) -> None:
    """Waits for what is under way, acks included; relays give none."""
    limit = monotonic_ns() + int(DRAIN_SECONDS * 1e9)
    while consumer.batches < total or 0 < lines.acked < total:
        if monotonic_ns() > limit:
            missing = total - consumer.batches
            what = (
                f"{missing} of {total} batches never arrived"
                if missing
                else "publishes were never acknowledged"
            )
            raise WrongResult(f"{what} within {DRAIN_SECONDS:g} s")
        lines.sleep(monotonic_ns() + 1_000_000, True)


def _outcome(  # noqa: PLR0917 - each is needed and named where it is called
    consumer: TimedConsumer,
    batches: Batches,
    dues: array[int],
    lateness: array[int],
    first: int,
    end: int,
    backlog: int,
    limit: int,
) -> Outcome:
    total = len(lateness)
    begin = dues[first]
    latency = consumer.latency
    arrived = consumer.arrived
    within = sum(begin <= at < end for at in arrived)
    found = array("q", (taken - offset for taken in latency[first:total] for offset in batches.offsets))
    seconds = (end - begin) / 1e9
    late = lateness[first:]
    return Outcome(
        rate=(total - first) * batches.count / seconds,
        achieved=within * batches.count / seconds,
        latencies=found,
        lateness=late,
        sent=total * batches.count,
        received=consumer.messages,
        backlog=backlog,
        seconds=seconds,
        deliveries=dict(sorted(consumer.deliveries.items())),
        invalid=verdict(total - first, within, late, limit),
    )
