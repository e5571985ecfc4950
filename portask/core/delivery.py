"""Who gets what at the end of a turn.

Two ways lead to a subscriber. A cursor that stands at the tail gets the arriving batches themselves: the same bytes
behind new stamps, never read back. A cursor that is behind, or for which several batches of one record arrived in
one turn, reads from the storage, which gathers those: so a consumer that lags reads few, large batches, and catching
up gets cheaper the further it is behind.

Nothing is sent without credit, nor to a connection whose output is congested; such a cursor just stays
behind and is looked at again when credit arrives. The broker's memory is never used to wait for a consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from portask.contracts import Storage
from portask.core.partitions import Cursor, Partition, Subscription
from portask.core.session import Session
from portask.errors import LocalProtocolError, OffsetOutOfRange, PortaskError, StorageUnavailable
from portask.messages import Buffer, RecordBatch
from portask.wire import batches, control
from portask.wire.frames import REPLY, Opcode

Piece = tuple[int, int, int, list[Buffer]]
"""One batch to deliver: the offset behind it, its records and bytes, and its buffers; none of these if it expired."""

_DELIVER = int(Opcode.DELIVER)  # members of an enumeration are slow to look up

READ_LIMIT = 256 * 1024
"""Bytes that one cursor reads a turn: large enough to be cheap, small enough that others get their turn soon."""


class Delivery:
    """Moves batches from turns and storage to cursors.

    Attributes:
        behind: Cursors that should read from the storage at the next occasion.
        later: Cursors whose storage did not answer: they try again with the broker's next look at its timers.
    """

    def __init__(self, storage: Storage, mark: Callable[[Session], None]) -> None:
        self._storage = storage
        self._mark = mark
        self.behind: dict[Cursor, None] = {}
        self.later: dict[Cursor, None] = {}
        # What this `catch_up` read, for other cursors at the same place. Never kept: it may be trimmed meanwhile.
        self._reads: dict[tuple[Partition, int], list[Piece]] | None = None

    def fresh(self, partition: Partition, now: int) -> None:
        """Serves the cursors of a partition that got batches in this turn."""
        arrived = partition.fresh
        base = arrived[0][0] if go_as_they_came(arrived) else -1
        pieces: list[Piece] = []
        for cursor in partition.cursors:
            if cursor.reading or not cursor.subscription.ready():
                continue
            if cursor.offset != base:
                self.behind[cursor] = None
                continue
            if not pieces:
                # the arriving bytes behind new stamps: not even copied
                pieces = [
                    (first + batch.count, batch.count, len(batch.data), stamped(batch, first, now))
                    for first, batch in arrived
                ]
            self._deliver(cursor, pieces)
        arrived.clear()

    def catch_up(self, now: int) -> None:
        """One read for every cursor that is behind and may go on."""
        waiting, self.behind = self.behind, {}
        self._reads = {}
        for cursor in waiting:
            if not cursor.reading and cursor.subscription.ready() and cursor.offset < cursor.partition.next:
                self._read(cursor, now)
        self._reads = None

    def nudge(self, subscription: Subscription) -> None:
        """The subscription may go on: credit came, or its connection has room again."""
        if subscription.ready():
            for cursor in subscription.cursors:
                if cursor.offset < cursor.partition.next:
                    self.behind[cursor] = None

    def try_again(self) -> None:
        """Cursors whose storage did not answer may ask once more."""
        self.behind.update(self.later)
        self.later.clear()

    def move(self, cursor: Cursor, offset: int) -> None:
        """The cursor goes on there, and the client is told: retention overtook it, or the log lost its end."""
        session = cursor.subscription.session
        if session.gone:
            return
        cursor.offset = offset
        key = cursor.partition.key
        body = control.Assigned(key.topic, key.partition, cursor.delivery, offset)
        session.connection.send_control(Opcode.SUBSCRIBE, body, 0, cursor.subscription.channel, REPLY)
        self._mark(session)
        self.behind[cursor] = None

    def _read(self, cursor: Cursor, now: int) -> None:
        partition = cursor.partition
        known = self._reads.get((partition, cursor.offset)) if self._reads is not None else None
        if known is not None:
            self._deliver(cursor, known)
            return
        cursor.reading = True
        offset = cursor.offset

        def done(found: Sequence[Buffer], error: PortaskError | None) -> None:
            cursor.reading = False
            if cursor not in partition.cursors:
                return  # it unsubscribed meanwhile
            if cursor.offset != offset:
                self.behind[cursor] = None  # it was moved meanwhile
            elif isinstance(error, OffsetOutOfRange):
                self.move(cursor, error.first)
            elif isinstance(error, StorageUnavailable):
                self.later[cursor] = None
            elif error is not None:
                cursor.subscription.session.refuse(error, 0)
                self._mark(cursor.subscription.session)
            else:
                pieces = [_piece(batch, now) for batch in found]
                if self._reads is not None:
                    self._reads[partition, offset] = pieces
                self._deliver(cursor, pieces)

        self._storage.read(partition.key, offset, min(READ_LIMIT, max(cursor.subscription.bytes, 1)), done)

    def _deliver(self, cursor: Cursor, pieces: list[Piece]) -> None:
        """Sends the pieces, which lie one after the other from the cursor on, as far as credit and the frame allow."""
        if not pieces:
            return  # the storage shows less than it acknowledged; it says when there is more
        subscription = cursor.subscription
        end, count, size, parts = pieces[0] if len(pieces) == 1 else _together(subscription, pieces)
        if count:
            self._send(cursor, parts, count, size, end)
        else:
            cursor.offset = end  # all of it has expired
        if cursor.offset < cursor.partition.next and subscription.ready():
            self.behind[cursor] = None

    def _send(self, cursor: Cursor, parts: list[Buffer], count: int, size: int, end: int) -> None:
        subscription = cursor.subscription
        session = subscription.session
        self._mark(session)
        try:
            session.connection.send_parts(_DELIVER, parts, size, 0, cursor.delivery)
        except LocalProtocolError as error:
            text = f"a batch of {cursor.partition.key} cannot be delivered: {error}; connect with a larger max_frame"
            session.refuse(LocalProtocolError(text), 0)
            return
        cursor.offset = end
        subscription.messages -= count
        subscription.bytes -= size


def go_as_they_came(arrived: list[tuple[int, RecordBatch]]) -> bool:
    """Whether the batches of a turn may go out without being read back.

    Not batches of one record: the storage gathers those, and fewer go out. Nor batches between which something else
    was stored: brokers may share a storage.
    """
    end = arrived[0][0]
    for base, batch in arrived:
        if base != end or (batch.count == 1 and len(arrived) > 1):
            return False
        end += batch.count
    return True


def stamped(batch: RecordBatch, base: int, now: int) -> list[Buffer]:
    """The bytes of a batch behind a new stamp, without a copy."""
    return [batches.stamp(base, now), memoryview(batch.data)[batches.STAMP_SIZE :]]


def _piece(batch: Buffer, now: int) -> Piece:
    base, time, count, ttl = batches.peek(batch)
    if ttl and batches.expires_at(time, ttl) <= now:
        return base + count, 0, 0, []
    return base + count, count, len(batch), [batch]


def _together(subscription: Subscription, pieces: list[Piece]) -> Piece:
    """As many of the first pieces as go into one frame."""
    room = subscription.session.connection.max_batch
    messages, most = subscription.messages, subscription.bytes
    parts: list[Buffer] = []
    end = count = size = 0
    for stop, records, length, buffers in pieces:
        if parts and (count >= messages or size >= most or size + length > room):
            break
        parts += buffers
        count += records
        size += length
        end = stop
    return end, count, size, parts
