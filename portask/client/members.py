"""A subscription as a member of a durable group: what arrives is leased, and given up, renewed or acknowledged.

Every record here is in one of three hands. **Waiting**: in the queue, or behind the message that the application has;
the application never saw it. **In hand**: the application has it. **Settled**: acknowledged or refused.

- What waits is renewed, once in a third of ``ack_wait``, for as long as the application goes on: so a record may wait
  here longer than ``ack_wait``, and one that the application needs long for does not cost those behind it. An
  application that asked for nothing for two thirds of ``ack_wait`` seems to hang: then what waits is returned to the
  broker, which gives it to others and does not count it as delivered.
- What is in hand is not renewed: it is the application's to acknowledge in time, or to `Leased.extend`.
- With ``auto_ack`` a message is acknowledged when the application asks for the next one, a batch when it asks for the
  next batch. Asking is the only sign of having finished: the message that the application leaves with is not
  acknowledged.

Acknowledgements are gathered: they leave within `ACK_DELAY`, or when half the credit is settled, or when nothing waits
any more. What was settled and not sent when a connection is lost is delivered again; so is what waits and what is in
hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from portask.client.leases import Mailbox, MemberPosition, Membership, Range, without
from portask.client.positions import Position
from portask.client.results import Delivered, DeliveredBatch
from portask.client.subscription import PINNED, Item, Subscription
from portask.errors import PortaskError, RemoteProtocolError
from portask.messages import Message, TopicPartition
from portask.wire import batches, control, windows
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.client.link import Link
    from portask.client.subscriber import Subscriber

ACK_DELAY = 0.005
"""Seconds that an acknowledgement may wait for others."""
_TEND_MOST = 0.25  # seconds between looks at what is held
_RANGES = 1000  # in one frame
_UNREADABLE_DELAY = 1.0  # seconds until a batch that cannot be decoded here is tried elsewhere
_NOWHERE = 1 << 63  # an offset above all others


class GroupSubscription(Subscription):
    """See the module. Made by `portask.client.Client.subscribe` with ``group``.

    Attributes:
        group: Its name.
        auto_ack: Whether asking for what follows acknowledges.
        at: The offset in hand, all before it in its batch is done; set by message iterators on other threads. -1
            if an iterator here knows, or if the whole batch is in hand.
        given_up: For the same: from this offset on the rest of the batch was returned, and is not to be used.
        mailbox: For what is said of leases on other threads.
    """

    def __init__(self, subscriber: Subscriber, number: int, membership: Membership, **options: Any) -> None:
        super().__init__(subscriber, number, **options)
        self.group = membership.group
        self.auto_ack = membership.auto_ack
        self.at = -1
        self.given_up = _NOWHERE
        self._membership = membership
        self._loop = asyncio.get_running_loop()
        self.mailbox = Mailbox(self._loop)
        self._ack_wait = 0.0  # seconds, once the broker said it
        self._settled = 0  # records settled since the last frame about them
        self._unsent: dict[MemberPosition, None] = {}
        self._done_to = 0  # all below this offset of the item in hand is settled by auto_ack
        self._refused: list[Range] = []  # of the item in hand: auto_ack must not take it back
        self._asked_at = self._renewed_at = self._loop.time()
        self._last_hand: int | None = None
        self._flush_due: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._opened: tuple[bytes, Sequence[Message]] = (b"", ())

    # ── what the application says of records ──────────────────────────────────────────────────────────────────────

    def settle(self, position: MemberPosition, first: int, last: int) -> None:
        """Records are done."""
        if not self._is_present(position):
            return
        acked = position.acked
        self._unsent[position] = None
        if acked and acked[-1][1] + 1 == first:
            acked[-1] = (acked[-1][0], last)
        else:
            acked.append((first, last))
        self._settled += last - first + 1
        if self._settled * 2 >= self.credit_messages or len(acked) >= _RANGES:
            self._flush()
        elif self._flush_due is None:
            self._flush_due = self._loop.call_later(ACK_DELAY, self._flush)

    def refuse(self, position: MemberPosition, first: int, last: int, delay: int, reason: str) -> None:
        """Records are not done."""
        self._refused.append((first, last))
        if self._is_present(position):
            self._subscriber.send(
                Opcode.NACK, control.Nack([(first, last)], delay, reason=reason), position.delivery
            )

    def renew(self, position: MemberPosition, first: int, last: int) -> None:
        """Records take longer."""
        if self._is_present(position):
            self._subscriber.send(Opcode.ACK, control.Ack([(first, last)], extend=True), position.delivery)

    def _is_present(self, position: MemberPosition) -> bool:
        """Whether the broker still knows the lease: not from before the connection was lost, nor after the end."""
        return self._positions.get(position.key) is position and not self._ended

    def _flush(self) -> None:
        """Sends what was settled."""
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        self._settled = 0
        unsent, self._unsent = self._unsent, {}
        for position in unsent:
            acked, position.acked = position.acked, []
            if self._is_present(position):
                self._subscriber.send(Opcode.ACK, control.Ack(acked), position.delivery)

    # ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def next_batch(self) -> DeliveredBatch | None:
        """See `Subscription.next_batch`; asking is what acknowledges the message or batch before, with ``auto_ack``."""
        self._asked_at = self._loop.time()
        if self._batch is not None:
            self._settle_to(self._batch.base_offset + self._index)
        return await super().next_batch()

    async def get(self, timeout: float | None = None) -> Delivered:  # noqa: ASYNC109 - as in Subscription
        """See `Subscription.get`; asking acknowledges the message before, with ``auto_ack``."""
        delivered = await super().get(timeout)
        self._asked_at = self._loop.time()
        if self._batch is None:
            self.at = delivered.offset  # the last of its batch, and the only one in hand
        return delivered

    def _open(self, item: Item) -> DeliveredBatch:
        position, batch, skip, stop, deliveries = item
        assert isinstance(position, MemberPosition)  # noqa: S101 - for the type checker: we made it
        base = batch.base_offset
        self._done_to = base + skip
        self.at, self.given_up = -1, _NOWHERE
        self._refused.clear()
        self._tend_soon()
        try:
            messages = self._messages(item)
        except PortaskError as error:
            reason = f"cannot be decoded: {error}"
            delay = round(_UNREADABLE_DELAY * 1000)
            self.refuse(position, base + skip, base + stop - 1, delay, reason)
            raise
        key = position.key
        return DeliveredBatch(
            key.topic,
            key.partition,
            base + skip,
            messages[skip:stop],
            batch.append_time,
            deliveries,
            position,
        )

    def _messages(self, item: Item) -> Sequence[Message]:
        """All messages of the batch. One that is shared out in several windows is decoded once."""
        batch = item.batch
        if item.stop - item.skip == batch.count:
            return self._subscriber.decoder.decode(batch)
        face = bytes(memoryview(batch.data)[: batches.BATCH_HEADER_SIZE]) + str(item.position.key).encode()
        if self._opened[0] != face:
            self._opened = face, self._subscriber.decoder.decode(batch)
        return self._opened[1]

    def _settle_to(self, offset: int) -> None:
        """With ``auto_ack``, all of the item in hand that lies below ``offset`` is done."""
        self.mailbox.listen()  # what was refused before the application went on must not be acknowledged
        if self._current is None or offset <= self._done_to:
            return
        position, first = self._current.position, self._done_to
        self._done_to = offset
        if self.auto_ack and isinstance(position, MemberPosition):
            for low, high in without(first, offset - 1, self._refused):
                self.settle(position, low, high)

    def _in_hand(self) -> int | None:
        """The offset of the message that an iterator gave last; ``None`` if the whole batch was given."""
        if self.at >= 0:
            return self.at
        if self._batch is not None:
            return self._batch.base_offset + self._index - 1
        return None

    def _consumed(self) -> None:
        assert self._current is not None  # noqa: S101 - for the type checker: the caller looked
        if self.at >= 0:
            self._give_up_rest(tell=True)  # an iterator that was left in the middle of a batch
        _, batch, skip, stop, _ = self._current
        self._settle_to(batch.base_offset + stop)
        self._current = None
        self._give_back(stop - skip, len(batch.data))
        self._return_credit_if_due()

    def _ran_dry(self) -> None:
        self._flush()
        self._return_credit_if_due()

    def _return_credit(self, *, final: bool = False) -> None:
        self._flush()
        super()._return_credit(final=final)

    # ── what waits ────────────────────────────────────────────────────────────────────────────────────────────────

    def _tend_soon(self) -> None:
        if self._watch is None and not self._ended:
            self._watch = self._loop.call_later(min(_TEND_MOST, (self._ack_wait or 1.0) / 6), self._tend)

    def _tend(self) -> None:
        """Settles what an iterator went past, renews what waits, or returns it."""
        self._watch = None
        now = self._loop.time()
        hand = self._in_hand()
        if hand is not None:
            if hand != self._last_hand:
                self._asked_at, self._last_hand = now, hand
            self._settle_to(hand)
        if self._ack_wait:
            if now - self._asked_at >= self._ack_wait * 2 / 3:
                self._return_waiting()
            elif now - self._renewed_at >= self._ack_wait / 3:
                self._renewed_at = now
                self._say_waiting(lambda ranges: (Opcode.ACK, control.Ack(ranges, extend=True)))
        if self._queue or self._current is not None:
            self._tend_soon()

    def _waiting(self) -> Iterator[tuple[MemberPosition, int, int]]:
        """What the application never saw."""
        hand = self._in_hand()
        if self._current is not None and hand is not None:
            position, batch, _, stop, _ = self._current
            if hand + 1 < batch.base_offset + stop:
                yield cast("MemberPosition", position), hand + 1, batch.base_offset + stop - 1
        for position, batch, skip, stop, _ in self._queue:
            yield cast("MemberPosition", position), batch.base_offset + skip, batch.base_offset + stop - 1

    def _say_waiting(self, frame: Callable[[list[Range]], tuple[Opcode, control.Ack | control.Nack]]) -> None:
        """Sends a frame a partition, or a few, about what waits."""
        found: dict[MemberPosition, list[Range]] = {}
        for position, first, last in self._waiting():
            ranges = found.setdefault(position, [])
            if ranges and ranges[-1][1] + 1 == first:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((first, last))
        for position, ranges in found.items():
            if self._is_present(position):
                for start in range(0, len(ranges), _RANGES):
                    opcode, body = frame(ranges[start : start + _RANGES])
                    self._subscriber.send(opcode, body, position.delivery)

    def _return_waiting(self) -> None:
        """What waits is for others."""
        self._say_waiting(lambda ranges: (Opcode.NACK, control.Nack(ranges, returned=True)))
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        for _, batch, skip, stop, _ in self._queue:
            self._give_back(stop - skip, len(batch.data))
        self._queue.clear()
        self._give_up_rest(tell=False)

    def _give_up_rest(self, *, tell: bool) -> None:
        """Ends the item in hand behind the message in hand."""
        hand = self._in_hand()
        if self._current is None or hand is None:
            return
        position, batch, skip, stop, _ = self._current
        end = batch.base_offset + stop
        if hand + 1 >= end:
            return
        if tell and self._is_present(cast("MemberPosition", position)):
            body = control.Nack([(hand + 1, end - 1)], returned=True)
            self._subscriber.send(Opcode.NACK, body, position.delivery)
        self.given_up = hand + 1
        self._current = self._current._replace(stop=max(skip, hand + 1 - batch.base_offset))
        self._give_back(end - hand - 1, 0)
        if self._batch is not None:
            self.at = hand
            self._batch = None  # a message iterator sees that and goes on with what comes next

    # ── what the subscriber calls ─────────────────────────────────────────────────────────────────────────────────

    def begin(self, link: Link) -> None:
        """Subscribes on a new link. The broker gave what waits here to others."""
        self._forget_waiting()
        self._positions.clear()
        self._unsent.clear()
        self._settled = 0
        self._asked_at = self._renewed_at = self._loop.time()
        super().begin(link)

    def _fill(self, body: control.Subscribe) -> None:
        asked = self._membership
        body.group, body.max_in_flight = asked.group, self.credit_messages
        body.ack_wait, body.max_deliveries = asked.ack_wait, asked.max_deliveries
        body.dead_letter = asked.dead_letter

    def _agreed(self, frame: Frame) -> None:
        try:
            self._ack_wait = max(0, control.decode(frame.body, control.Assigned).ack_wait) / 1000
        except RemoteProtocolError as error:
            self.end(error)

    def assigned(self, body: control.Assigned) -> Position:
        """The member takes part in a partition."""
        key = TopicPartition(body.topic, body.partition)
        position = self._positions[key] = MemberPosition(self, key, body.offset, body.delivery)
        return position

    def arrived(self, position: Position, body: memoryview) -> None:
        """A DELIVER frame with a window.

        Raises:
            RemoteProtocolError: the window and the batches do not belong together.
            BatchError: it is damaged.
        """
        if self._ended:
            return
        whole = len(body.obj) if isinstance(body.obj, (bytes, bytearray)) else len(body)
        window, rest = windows.split(body)
        items = []
        expected = window.first
        for batch in batches.split(rest, self._subscriber.max_raw):
            base = batch.base_offset
            skip, stop = expected - base, min(batch.count, window.last + 1 - base)
            if not 0 <= skip < stop:
                expected = -1
                break
            if len(batch.data) * PINNED < whole:
                batch.data = bytes(batch.data)
            items.append(Item(position, batch, skip, stop, window.deliveries))
            expected = base + stop
        if expected != window.last + 1:
            raise RemoteProtocolError(
                f"the records {window.first} to {window.last} did not come with their window"
            )
        for item in items:
            self._held[0] += item.stop - item.skip
            self._held[1] += len(item.batch.data)
        position.next = max(position.next, expected)
        self._queue += items
        self._tend_soon()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._asked_at = self._loop.time()
            waiter.set_result(None)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def acknowledge(self) -> None:
        """Tells the broker what was done, and returns what waits: the connection is about to end."""
        hand = self._in_hand()
        if hand is not None:
            self._settle_to(hand)
        self._return_waiting()
        super().acknowledge()

    async def close(self) -> None:
        """Leaves the group, once what was settled is said and what waits is returned. Idempotent.

        What is in hand and not acknowledged is delivered again. Bounded by the request timeout.
        """
        if not self._ended:
            self.acknowledge()
        await super().close()

    def end(self, error: PortaskError | None) -> None:
        """See `Subscription.end`."""
        for timer in (self._watch, self._flush_due):
            if timer is not None:
                timer.cancel()
        self._watch = self._flush_due = None
        super().end(error)
