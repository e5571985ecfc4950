"""One partition that this client publishes to: batches on their way, in order, until they are acknowledged.

Every batch stays here until its ack, so that a lost connection costs nothing: on the next one the channel is
opened again and all that is unacknowledged is sent again, in its old order, before anything new. What was
stored but whose ack got lost is then stored twice; that is what "at least once" means.

A batch past its deadline fails and will not be sent again. If it is under way its place in line stays,
because acks are cumulative: the broker counts it.

**Numbers.** An idempotent client numbers each batch when it is sent for the first time, and sends the same bytes again:
the broker then knows what it has. It stores nothing over a gap (`portask.core.producers`). So when a numbered batch is
refused, those under way behind it are refused too, `OutOfSequence`; they go back in line. Once nothing is under way the
channel is opened again, saying which number is next: what lies before is acknowledged or given up, and the line goes
on. The same is said on the next link after a batch was given up, or when the link leads to another broker, which never
saw what the first one has. An `OutOfSequence` that nothing of this explains is told to the application: the
broker lost records, or somebody else uses the producer's id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from portask.client.link import Link
from portask.errors import (
    BatchTooLarge,
    Draining,
    NotConnected,
    OutOfSequence,
    PortaskError,
    RemoteProtocolError,
    RequestTimeout,
)
from portask.messages import TopicPartition
from portask.wire import batches, control, sequences
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.client.publisher import Publisher

Settle = Callable[[int, PortaskError | None], None]
"""``settle(base_offset, None)`` or ``settle(-1, error)``; called exactly once. ``settle(-1, None)``: it is stored,
and the broker no longer knows where."""


class Outgoing:
    """One batch on its way.

    Attributes:
        data: The batch; emptied once it is settled.
        count: Messages in it.
        size: Bytes it takes of the client's budget.
        settle: Told how it ended; ``None`` once it was.
        serial: Its place in the order of this channel.
        sequence: The number of its first message, once it has one; 0 before.
        deadline: Loop time at which it fails.
        correlation: Of its last PUBLISH.
    """

    __slots__ = ("correlation", "count", "data", "deadline", "sequence", "serial", "settle", "size")

    def __init__(self, data: bytes, count: int, size: int, settle: Settle, deadline: float) -> None:
        self.data = data
        self.count = count
        self.size = size
        self.settle: Settle | None = settle
        self.deadline = deadline
        self.serial = 0
        self.sequence = 0
        self.correlation = 0


class ChannelState(Enum):
    """Whether the broker knows the channel on the present link."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"


class Channel:
    """One partition's line of batches.

    Attributes:
        number: The wire's channel number.
        key: Topic and partition.
        state: On the present link.
        partitions: How many the topic has, once the broker said so; 0 before.
        unacked: Sent on the present link, oldest first.
        waiting: To be sent.
    """

    __slots__ = (
        "_explains",
        "_gap",
        "_last",
        "_publisher",
        "_room",
        "_serial",
        "key",
        "number",
        "partitions",
        "state",
        "unacked",
        "waiting",
    )

    def __init__(self, publisher: Publisher, number: int, key: TopicPartition) -> None:
        self._publisher = publisher
        self._room: deque[Callable[[], None]] = deque()
        self._serial = 0
        self._last: int | None = None  # the newest number
        self._gap = False  # a numbered batch was given up: nothing new goes out before that is said
        self._explains = False  # OPEN says which number is next
        self.number = number
        self.key = key
        self.state = ChannelState.CLOSED
        self.partitions = 0
        self.unacked: deque[Outgoing] = deque()
        self.waiting: deque[Outgoing] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another batch would go out soon, rather than wait behind others."""
        return len(self.unacked) + len(self.waiting) < self._publisher.options.max_in_flight

    def when_room(self, call: Callable[[], None]) -> None:
        """``call()`` once, as soon as `has_room` or the channel failed."""
        self._room.append(call)

    async def room(self) -> None:
        """Returns as soon as `has_room`.

        Raises:
            RequestTimeout: no batch was acknowledged for so long.
        """
        timeout = self._publisher.options.request_timeout
        while not self.has_room:
            waiter: asyncio.Future[None] = self._publisher.loop.create_future()
            self.when_room(lambda waiter=waiter: None if waiter.done() else waiter.set_result(None))  # type: ignore[misc]
            try:
                async with asyncio.timeout(timeout):
                    await waiter
            except TimeoutError:
                raise RequestTimeout(f"no ack from {self.key} within {timeout:g} s") from None

    def send(self, outgoing: Outgoing) -> None:
        """Puts a batch in line. The caller flushes the link."""
        self._serial += 1
        outgoing.serial = self._serial
        self.waiting.append(outgoing)
        self.pump()

    def pump(self) -> None:
        """Sends what may be sent now; opens the channel first if the link does not know it."""
        link = self._publisher.link
        if not self.waiting or link is None or not link.usable:
            return
        if self.state is not ChannelState.OPEN:
            if self.state is ChannelState.CLOSED:
                self.open(link)
            return
        limit = link.connection.max_batch
        most = self._publisher.options.max_in_flight
        numbering = self._publisher.producer_id
        while self.waiting and len(self.unacked) < most and not self._gap:
            outgoing = self.waiting.popleft()
            if len(outgoing.data) > limit:
                self._give_up(outgoing, too_large(len(outgoing.data), limit))
                continue
            if numbering and not outgoing.sequence:
                self._number(outgoing)
            outgoing.correlation = link.next_correlation()
            link.send(Opcode.PUBLISH, outgoing.data, outgoing.correlation, self.number)
            self.unacked.append(outgoing)
        self._close_gap(link)

    def _number(self, outgoing: Outgoing) -> None:
        """The next numbers, for good."""
        publisher = self._publisher
        first = self._next
        outgoing.sequence = first
        outgoing.data = batches.numbered(
            outgoing.data, publisher.producer_id, publisher.options.producer_epoch, first
        )
        self._last = sequences.last_of(first, outgoing.count)

    @property
    def _next(self) -> int:
        return 1 if self._last is None else sequences.following(self._last)

    @property
    def _going_on(self) -> int:
        """The number of the next batch that will be sent, once nothing is under way."""
        return self.waiting[0].sequence or self._next if self.waiting else self._next

    def _close_gap(self, link: Link) -> None:
        """Says where it goes on, as soon as the broker has answered everything."""
        if self._gap and not self.unacked and self.state is ChannelState.OPEN and link.usable:
            self.open(link)

    # ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, link: Link, partitions: int = 0) -> asyncio.Future[Frame]:
        """Asks the broker to open the channel; the topic is created, with ``partitions`` of them, if it is new."""
        self.state = ChannelState.OPENING
        body = control.Open(self.key.topic, self.key.partition, partitions)
        going_on = self._going_on
        if self._publisher.producer_id and (self._explains or self._last is None):
            body.producer = self._publisher.producer_id
            body.epoch = self._publisher.options.producer_epoch
            body.sequence = 0 if self._last is None else going_on
        timeout = self._publisher.options.request_timeout
        about = f"OPEN of {self.key}"
        future = link.request(
            Opcode.OPEN, control.encode(body), channel=self.number, timeout=timeout, about=about
        )
        future.add_done_callback(lambda reply: self._opened(link, reply, going_on))
        return future

    def _opened(self, link: Link, reply: asyncio.Future[Frame], going_on: int) -> None:
        if link is not self._publisher.link:
            return  # lost meanwhile: `link_lost` has put everything back in line
        try:
            self.partitions = control.decode(reply.result().body, control.Open).partitions
        except (NotConnected, Draining):
            self.state = ChannelState.CLOSED  # the next link opens it again
            return
        except PortaskError as error:
            self.state = ChannelState.CLOSED
            self.fail(error)
            return
        self.state = ChannelState.OPEN
        if going_on == self._going_on:
            self._gap = False  # otherwise more was given up meanwhile, and is said now
        self.pump()
        link.write()

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def acked(self, correlation: int, offsets: list[int]) -> None:
        """A cumulative ack for the oldest ``len(offsets)`` batches.

        Raises:
            RemoteProtocolError: it does not fit what was sent.
        """
        unacked = self.unacked
        count = len(offsets)
        if not 0 < count <= len(unacked) or unacked[count - 1].correlation != correlation:
            raise RemoteProtocolError(
                f"PUBACK {correlation} with {count} offsets does not fit what was published to {self.key}"
            )
        for offset in offsets:
            self._settle(unacked.popleft(), offset if offset != control.UNKNOWN_OFFSET else -1, None)
        if not self._gap:
            self._explains = False  # the broker goes by what it just acknowledged
        self.pump()
        self._tell_room()

    def refused(self, correlation: int, error: PortaskError) -> bool:
        """The broker refused one batch; whether it was one of ours."""
        for outgoing in self.unacked:
            if outgoing.correlation == correlation:
                break
        else:
            return False
        self.unacked.remove(outgoing)
        if isinstance(error, Draining) and self._publisher.reconnects:
            # Not stored, and the broker is leaving: it goes to the next one, in its old place.
            self._back_in_line(outgoing)
            return True
        if isinstance(error, OutOfSequence) and self._gap and outgoing.settle is not None:
            self._back_in_line(outgoing)  # for what was given up before it, not for its own sake
        else:
            self._give_up(outgoing, error)
        self.pump()
        self._tell_room()
        return True

    def _back_in_line(self, *again: Outgoing) -> None:
        self.waiting = deque(sorted([*again, *self.waiting], key=lambda outgoing: outgoing.serial))

    def link_lost(self) -> None:
        """Everything unacknowledged goes back in line, in order."""
        self.state = ChannelState.CLOSED
        again = [outgoing for outgoing in self.unacked if outgoing.settle is not None]
        if len(again) < len(self.unacked):
            self.moved()
        self.unacked.clear()
        self._back_in_line(*again)
        self._tell_room()

    def moved(self) -> None:
        """The broker of the next link may not have seen all numbers before those that it will get."""
        self._explains = True

    def expire(self, now: float) -> None:
        """Fails what is past its deadline."""
        timeout = self._publisher.options.request_timeout
        for outgoing in self.unacked:
            if outgoing.deadline > now:
                break
            self._settle(
                outgoing,
                -1,
                RequestTimeout(f"no ack from {self.key} within {timeout:g} s; it may have been stored"),
            )
        while self.waiting and self.waiting[0].deadline <= now:
            outgoing = self.waiting.popleft()
            self._give_up(outgoing, RequestTimeout(f"could not be sent to {self.key} within {timeout:g} s"))
        self._tell_room()

    def fail(self, error: PortaskError) -> None:
        """Nothing in line will be stored."""
        lost = [*self.unacked, *self.waiting]
        self.unacked.clear()
        self.waiting.clear()
        for outgoing in lost:
            self._give_up(outgoing, error)
        self._tell_room()

    def _give_up(self, outgoing: Outgoing, error: PortaskError) -> None:
        """It is not stored, or nobody will know."""
        if outgoing.sequence:
            self._gap = self._explains = True
        self._settle(outgoing, -1, error)

    def _settle(self, outgoing: Outgoing, offset: int, error: PortaskError | None) -> None:
        settle = outgoing.settle
        if settle is None:
            return  # it had run out of time
        outgoing.settle = None
        outgoing.data = b""
        self._publisher.settled(outgoing)
        settle(offset, error)

    def _tell_room(self) -> None:
        while self._room and self.has_room:
            self._room.popleft()()


def too_large(size: int, limit: int) -> BatchTooLarge:
    """What to say of a batch that the broker does not take."""
    return BatchTooLarge(
        f"{size:,} bytes in one frame are above the broker's limit of {limit:,}: send smaller messages, "
        "or raise limits.max_frame_bytes there"
    )
