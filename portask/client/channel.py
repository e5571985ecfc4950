"""One partition that this client publishes to: batches on their way, in order, until they are acknowledged.

Every batch stays here until its ack, so that a lost connection costs nothing: on the next one the channel is
opened again and all that is unacknowledged is sent again, in its old order, before anything new. What was
stored but whose ack got lost is then stored twice; that is what "at least once" means.

A batch past its deadline fails and will not be sent again. If it is under way its place in line stays,
because acks are cumulative: the broker counts it.
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
    PortaskError,
    RemoteProtocolError,
    RequestTimeout,
)
from portask.messages import TopicPartition
from portask.wire import control
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.client.publisher import Publisher

Settle = Callable[[int, PortaskError | None], None]
"""``settle(base_offset, None)`` or ``settle(-1, error)``; called exactly once."""


class Outgoing:
    """One batch on its way.

    Attributes:
        data: The batch; emptied once it is settled.
        count: Messages in it.
        size: Bytes it takes of the client's budget.
        settle: Told how it ended; ``None`` once it was.
        serial: Its place in the order of this channel.
        deadline: Loop time at which it fails.
        correlation: Of its last PUBLISH.
    """

    __slots__ = ("correlation", "count", "data", "deadline", "serial", "settle", "size")

    def __init__(self, data: bytes, count: int, size: int, settle: Settle, deadline: float) -> None:
        self.data = data
        self.count = count
        self.size = size
        self.settle: Settle | None = settle
        self.deadline = deadline
        self.serial = 0
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
        while self.waiting and len(self.unacked) < most:
            outgoing = self.waiting.popleft()
            if len(outgoing.data) > limit:
                self._settle(outgoing, -1, too_large(len(outgoing.data), limit))
                continue
            outgoing.correlation = link.next_correlation()
            link.send(Opcode.PUBLISH, outgoing.data, outgoing.correlation, self.number)
            self.unacked.append(outgoing)

    # ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, link: Link, partitions: int = 0) -> asyncio.Future[Frame]:
        """Asks the broker to open the channel; the topic is created, with ``partitions`` of them, if it is new."""
        self.state = ChannelState.OPENING
        body = control.encode(control.Open(self.key.topic, self.key.partition, partitions))
        timeout = self._publisher.options.request_timeout
        about = f"OPEN of {self.key}"
        future = link.request(Opcode.OPEN, body, channel=self.number, timeout=timeout, about=about)
        future.add_done_callback(lambda reply: self._opened(link, reply))
        return future

    def _opened(self, link: Link, reply: asyncio.Future[Frame]) -> None:
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
            self._settle(unacked.popleft(), offset, None)
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
            self.waiting = deque(sorted([*self.waiting, outgoing], key=lambda waiting: waiting.serial))
            return True
        self._settle(outgoing, -1, error)
        self.pump()
        self._tell_room()
        return True

    def link_lost(self) -> None:
        """Everything unacknowledged goes back in line, in order."""
        self.state = ChannelState.CLOSED
        again = [outgoing for outgoing in self.unacked if outgoing.settle is not None]
        self.unacked.clear()
        self.waiting = deque(sorted([*again, *self.waiting], key=lambda outgoing: outgoing.serial))
        self._tell_room()

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
            self._settle(
                outgoing, -1, RequestTimeout(f"could not be sent to {self.key} within {timeout:g} s")
            )
        self._tell_room()

    def fail(self, error: PortaskError) -> None:
        """Nothing in line will be stored."""
        lost = [*self.unacked, *self.waiting]
        self.unacked.clear()
        self.waiting.clear()
        for outgoing in lost:
            self._settle(outgoing, -1, error)
        self._tell_room()

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
