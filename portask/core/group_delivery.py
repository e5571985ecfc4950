"""Which member gets which records: batches from the storage, cut into windows.

A window is a range of neighbouring records for one member. The batches around it are sent whole (the same bytes to
every member, `portask.wire.windows`), so a window that ends inside a batch costs the rest of it on the wire. Windows
are therefore as large as sharing allows: what there is to do, divided by the members that have room, at most
`WINDOW_LIMIT`; and they end with a batch where one ends near by. A member alone gets all that it has credit for.

Members that have room are served in turn. A window is never larger than the member's credit in messages and never
larger than what it may have in flight; its bytes may take the credit in bytes below zero, as for any subscription.

As for other subscriptions, one read is made a turn and a partition, and what arrives for members at the tail is not
read back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from portask.contracts import Grant, SharedGroups, Storage
from portask.core.delivery import READ_LIMIT, go_as_they_came, stamped
from portask.core.grants import GrantedShare, claimed
from portask.core.groups import Seat, Share
from portask.core.partitions import Partition
from portask.core.session import Session
from portask.errors import LocalProtocolError, OffsetOutOfRange, PortaskError, StorageUnavailable
from portask.messages import Buffer
from portask.wire import batches, windows
from portask.wire.frames import WINDOW, WINDOW_SIZE, Opcode

log = structlog.get_logger("portask.broker")

WINDOW_LIMIT = 512
"""Records that a window is meant to have at most while several members share; up to twice that to end with a batch."""


class Piece(NamedTuple):
    """One batch of what was read: its first offset, the one behind its last, its size in bytes, and its buffers."""

    base: int
    end: int
    size: int
    parts: list[Buffer]
    expired: bool


class Cut(NamedTuple):
    """What one window takes: its last offset, bytes, and the buffers."""

    last: int
    size: int
    parts: list[Buffer]


class GroupDelivery:
    """Moves batches from turns and storage to members.

    Attributes:
        behind: Shares that should be looked at in this turn.
        later: Shares whose storage did not answer: they try again with the broker's next look at its timers.
    """

    def __init__(self, storage: Storage, mark: Callable[[Session], None], behind: dict[Share, None]) -> None:
        self._storage = storage
        self._mark = mark
        self.behind = behind
        self.later: dict[Share, None] = {}

    def fresh(self, partition: Partition, now: int) -> None:
        """A partition got batches in this turn. Those that are not gathered go to members at the tail as they came."""
        arrived = partition.fresh
        for share in partition.shares:
            if isinstance(share, GrantedShare):
                share.claimable = True
                if share.free_seat() is not None:
                    self.behind[share] = None
                continue
            if share.reading or not share.verified:
                continue
            base = arrived[0][0] if arrived and go_as_they_came(arrived) else -1
            if share.next == base and share.waiting() is None:
                # no look at the TTL: they have just come
                pieces = [
                    Piece(
                        first, first + batch.count, len(batch.data), stamped(batch, first, now), expired=False
                    )
                    for first, batch in arrived
                ]
                self._share_out(share, pieces, base, now)
            elif share.free_seat() is not None:
                self.behind[share] = None

    def _claim(self, share: GrantedShare) -> None:
        """Asks for records that no other broker has."""
        storage, count = self._storage, share.wanted()
        if not isinstance(storage, SharedGroups) or count <= 0:
            return
        share.claiming = True
        share.reserved = count
        group, key = share.group.name, share.partition.key

        def done(grant: Grant | None, error: PortaskError | None) -> None:
            failure = claimed(share, grant, error)
            if failure is not None:
                log.error("a group gets no records", group=group, partition=str(key), reason=str(failure))
            if share.pending and share.free_seat() is not None:
                self.behind[share] = None

        storage.claim(group, key, count, done)

    def try_again(self) -> None:
        """Shares whose storage did not answer may ask once more."""
        self.behind.update(self.later)
        self.later.clear()

    def catch_up(self, now: int) -> None:
        """One read for every share that has something to deliver and somebody to deliver it to."""
        waiting = list(self.behind)
        self.behind.clear()
        for share in waiting:
            if not share.reading and share.verified and share.pending:
                seats = share.free_seats()
                if not seats:
                    continue
                if isinstance(share, GrantedShare) and share.waiting() is None:
                    self._claim(share)
                else:
                    self._read(share, max(seat.member.subscription.bytes for seat in seats), now)

    def _read(self, share: Share, size: int, now: int) -> None:
        waiting = share.waiting()
        offset = share.next if waiting is None else waiting.first
        share.reading = True

        def done(found: Sequence[Buffer], error: PortaskError | None) -> None:
            share.reading = False
            if isinstance(share, GrantedShare):
                share.reserved = 0
            if isinstance(error, OffsetOutOfRange):
                _catch_out(share, offset, error)
            elif isinstance(error, StorageUnavailable):
                self.later[share] = None
                return
            elif error is not None:
                where = str(share.partition.key)
                log.error("a group cannot read", group=share.group.name, partition=where, reason=str(error))
                for session in {seat.member.subscription.session for seat in share.seats}:
                    session.refuse(error, 0)
                    self._mark(session)
                return
            elif not found:
                return  # the storage shows less than it acknowledged; it says when there is more
            else:
                self._share_out(share, [_piece(batch, now) for batch in found], offset, now)
            if isinstance(share, GrantedShare):
                share.delivered()
            if share.pending and share.free_seat() is not None:
                self.behind[share] = None

        self._storage.read(share.partition.key, offset, min(READ_LIMIT, max(1, size)), done)

    def _share_out(self, share: Share, pieces: list[Piece], start: int, now: int) -> None:
        """Gives what was read from the offset ``start`` on to members with room, window by window."""
        seats = share.free_seats()
        target = _target(share, len(seats)) if seats else 0
        at = 0
        while seats:
            waiting = share.waiting()
            first, end = (
                (waiting.first, waiting.last + 1) if waiting else (share.next, share.next + share.fresh)
            )
            if first >= end or not start <= first < pieces[-1].end:
                return  # nothing to do, or to be done with the next read
            if at and first < pieces[at - 1].end:
                at = 0  # a range came back meanwhile
            while pieces[at].end <= first:
                at += 1
            piece = pieces[at]
            if first < piece.base:
                share.skip(first, min(piece.base, end) - 1)
            elif piece.expired:
                share.skip(first, min(piece.end, end) - 1)
            else:
                seat = seats.pop(0)
                cut = _cut(seat, pieces[at:], first, end, target)
                deliveries = waiting.deliveries + 1 if waiting else 1
                if self._send(seat, cut, first, deliveries):
                    share.deliver(seat, first, cut.last, now)
                    if seat.member.room > 0:
                        seats.append(seat)

    def _send(self, seat: Seat, cut: Cut, first: int, deliveries: int) -> bool:
        subscription = seat.member.subscription
        session = subscription.session
        self._mark(session)
        try:
            session.connection.send_parts(
                Opcode.DELIVER,
                [windows.pack(first, cut.last, deliveries), *cut.parts],
                WINDOW_SIZE + cut.size,
                0,
                seat.delivery,
                WINDOW,
            )
        except LocalProtocolError as error:
            text = f"a batch of {seat.share.partition.key} cannot be delivered: {error}"
            session.refuse(LocalProtocolError(f"{text}; connect with a larger max_frame"), 0)
            return False
        subscription.messages -= cut.last - first + 1
        subscription.bytes -= cut.size
        return True


def _catch_out(share: Share, offset: int, error: OffsetOutOfRange) -> None:
    """What the group wants to read is not there: retention was faster, or the log lost its end."""
    if offset < error.first:
        before = share.skipped
        share.skip_missing(error.first)
        log.warning(
            "records were gone before a group saw them",
            group=share.group.name,
            partition=str(share.partition.key),
            records=share.skipped - before,
            next=error.first,
        )
    else:
        lost = share.verify(error.next)
        log.error(
            "the log lost its end", group=share.group.name, partition=str(share.partition.key), records=lost
        )


def _piece(batch: Buffer, now: int) -> Piece:
    base, time, count, ttl = batches.peek(batch)
    expired = bool(ttl) and batches.expires_at(time, ttl) <= now
    return Piece(base, base + count, len(batch), [batch], expired)


def _target(share: Share, free: int) -> int:
    """Records that a window should have: a fair part of what there is now."""
    waiting = share.waiting()
    backlog = max(len(waiting) if waiting else 0, share.fresh)
    if len(share.seats) == 1:
        return backlog
    return max(1, min(WINDOW_LIMIT, -(-backlog // free)))


def _cut(seat: Seat, pieces: Sequence[Piece], first: int, end: int, target: int) -> Cut:
    """A window from ``first`` on, which lies in the first piece; it ends before ``end`` and before any gap."""
    subscription = seat.member.subscription
    room = seat.member.room
    target = min(target, room)
    most = min(room, 2 * target) if target == WINDOW_LIMIT else target
    frame = subscription.session.connection.max_batch
    parts: list[Buffer] = []
    position, size = first, 0
    for piece in pieces:
        if piece.base > position or piece.expired or position >= end:
            break
        if parts and (size >= subscription.bytes or size + piece.size > frame):
            break
        stop = min(piece.end, end)
        count = position - first
        whole = stop - first
        if whole > target and count and count * 2 >= target:
            break  # the batch before ends near enough
        parts += piece.parts
        size += piece.size
        if whole > most:
            position = first + target
            break
        position = stop
        if whole >= target:
            break
    return Cut(position - 1, size, parts)
