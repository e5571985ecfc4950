"""Durable groups: members share the records of partitions, and each record is done once somebody acknowledged it.

Members do not own partitions. A `Share` is what a group knows of one partition, and hands out ranges of its records to
whichever member has credit: so a group may have more members than partitions, and a slow member gets less.

The life of a record in a share::

                     deliver                    ack (by anybody who ever got it)
    at or above next ───────▶ in flight ──────────────────────────────────────────▶ below committed,
                                │  ▲                                             ▲  or between ranges
             nack, no ack in    │  │ deliver                  ack, or published  │
             time, member left  ▼  │                         as a dead letter    │
                              waiting ──▶ delivered too often: a dead letter ────┘

Deliveries are at least once: a record comes again when its member did not say in time that it is done. What comes again
is counted (`Share.redelivered`). Nothing leaves the picture above but by an ack, by becoming a dead letter, or because
the storage no longer has it (counted, too).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import msgspec

from portask.core.ranges import BURYING, NEVER, Outstanding, Range
from portask.errors import NotPermitted
from portask.wire.connection import State

if TYPE_CHECKING:
    from portask.core.coordinator import Coordinator
    from portask.core.partitions import Partition, Subscription

DEAD = ".dead"
"""What a topic's name gets for its dead letters unless the group names a topic."""


class Settings(msgspec.Struct, frozen=True):
    """What the members of a group agree on: taken from the first.

    Attributes:
        ack_wait: µs that a member may take to acknowledge, or to say that it still works.
        max_deliveries: How often a record is delivered before it is a dead letter; 0 for no limit.
        dead_letter: The topic for dead letters; empty for the record's own topic and `DEAD`.
    """

    ack_wait: int = 30_000_000
    max_deliveries: int = 0
    dead_letter: str = ""

    def dead_letters_of(self, topic: str) -> str:
        """Where dead letters of ``topic`` go."""
        return self.dead_letter or topic + DEAD

    def avoids(self, topic: str) -> bool:
        """Whether a filter should pass over the topic: dead letters of this group would come back to it."""
        if not self.max_deliveries:
            return False
        return topic == self.dead_letter if self.dead_letter else topic.endswith(DEAD)


class Group:
    """A name, and what belongs to it.

    Attributes:
        shares: By topic and partition.
        members: Those that are subscribed now.
        given: What of the settings its first member here asked for.
    """

    __slots__ = ("given", "members", "name", "settings", "shares")

    def __init__(self, name: str, settings: Settings, given: Mapping[str, object] | None = None) -> None:
        self.name = name
        self.settings = settings
        self.given = given or {}
        self.shares: dict[Partition, Share] = {}
        self.members: dict[Member, None] = {}


def check_agreement(group: Group, settings: Settings, given: Mapping[str, object]) -> None:
    """Sees whether what a member asked for is what the group has.

    Raises:
        NotPermitted: it is not; the text says which.
    """
    for key, value in given.items():
        agreed = getattr(settings, key)
        if value != agreed:
            unit = " µs" if key == "ack_wait" else ""
            raise NotPermitted(
                f"the group {group.name!r} has {key}={agreed!r}{unit}, and {value!r} was asked for: "
                "leave it out, or drop the group first"
            )


class Member:
    """One subscription as a member of a group.

    Attributes:
        limit: Most records that it may have in flight.
        in_flight: How many it has.
        seats: One for each partition that it takes part in.
    """

    __slots__ = ("group", "in_flight", "limit", "seats", "subscription")

    def __init__(self, group: Group, subscription: Subscription, limit: int) -> None:
        self.group = group
        self.subscription = subscription
        self.limit = limit or NEVER
        self.in_flight = 0
        self.seats: list[Seat] = []

    @property
    def room(self) -> int:
        """How many records may be delivered to it now."""
        subscription = self.subscription
        if not subscription.ready() or subscription.session.connection.state is not State.OPEN:
            return 0
        return max(0, min(subscription.messages, self.limit - self.in_flight))


class Seat:
    """A member's place at a share.

    Attributes:
        delivery: The channel of its DELIVER frames.
    """

    __slots__ = ("delivery", "member", "share")

    def __init__(self, member: Member, share: Share, delivery: int) -> None:
        self.member = member
        self.share = share
        self.delivery = delivery


class Share:
    """A group in one partition. Its methods take the time where they need it, µs.

    Attributes:
        next: The first offset that no member got yet.
        outstanding: What lies below `next` and is not acknowledged.
        seats: The members that take part; rotated as they are served.
        reading: A read is under way in the storage.
        verified: `next` was compared with what the storage has.
        acknowledged: Records, since the group was made; likewise the three that follow.
        redelivered: Counted each time.
        dead_lettered: Given up.
        skipped: The storage no longer had them.
        unsaved: Changes since the state was saved, in records.
    """

    __slots__ = (
        "_hub",
        "_ready",
        "acknowledged",
        "dead_lettered",
        "dying",
        "group",
        "next",
        "outstanding",
        "partition",
        "reading",
        "redelivered",
        "seats",
        "skipped",
        "unsaved",
        "verified",
    )

    def __init__(self, hub: Coordinator, group: Group, partition: Partition, next_offset: int) -> None:
        self._hub = hub
        self._ready: list[tuple[int, int, Range]] = []
        self.group = group
        self.partition = partition
        self.next = next_offset
        self.outstanding = Outstanding()
        self.dying: list[Range] = []
        self.seats: list[Seat] = []
        self.reading = False
        self.verified = False
        self.acknowledged = self.redelivered = self.dead_lettered = self.skipped = 0
        self.unsaved = 0

    @property
    def committed(self) -> int:
        """All before this offset is done."""
        first = self.outstanding.first
        return self.next if first is None else first

    @property
    def lag(self) -> int:
        """Records that are not done."""
        return self.outstanding.records + self.fresh

    # ── what is next ──────────────────────────────────────────────────────────────────────────────────────────────

    def waiting(self) -> Range | None:
        """The range to deliver again now: the one with the lowest offsets."""
        ready = self._ready
        while ready:
            found = ready[0][2]
            if found.due == 0 and found.seat is None:
                return found
            heappop(ready)
        return None

    @property
    def fresh(self) -> int:
        """Records from `next` on."""
        return max(0, self.partition.next - self.next)

    @property
    def pending(self) -> bool:
        """Whether there is something to deliver."""
        return self.fresh > 0 or self.waiting() is not None

    def free_seats(self) -> list[Seat]:
        """The seats of members that have room, the one that waits longest first."""
        return [seat for seat in self.seats if seat.member.room > 0]

    def free_seat(self) -> Seat | None:
        """The first of them."""
        for seat in self.seats:
            if seat.member.room > 0:
                return seat
        return None

    # ── what happens to records ───────────────────────────────────────────────────────────────────────────────────

    def deliver(self, seat: Seat, first: int, last: int, now: int) -> Range:
        """Gives the records to a member: of the range that `waiting` gave, or from `next` on."""
        due = now + self.group.settings.ack_wait
        if first >= self.next:
            taken = Range(first, last, 1, seat, due)
            self.outstanding.append(taken)
            self.next = last + 1
        else:
            (taken,) = self._cut(first, last)
            taken.seat = seat
            taken.due = due
            taken.deliveries += 1
            if taken.deliveries > 1:
                self.redelivered += len(taken)
        seat.member.in_flight += len(taken)
        self._hub.set_timer(self, taken)
        seats = self.seats
        if seats[-1] is not seat:  # it was served: the others come first
            seats.remove(seat)
            seats.append(seat)
        return taken

    def acknowledge(self, first: int, last: int) -> None:
        """The records are done, whoever has them now. Those that are done already make no difference."""
        self.acknowledged += self._finish(first, last)

    def burying(self, first: int, last: int) -> None:
        """The records, given up before, are written as dead letters."""
        for each in self._cut(first, last):
            each.due = BURYING

    def bury(self, first: int, last: int) -> None:
        """The records are stored as dead letters."""
        self.dead_lettered += self._finish(first, last)

    def bury_later(self, first: int, last: int, when: int) -> None:
        """The records, given up before, could not be stored as dead letters."""
        for each in self._cut(first, last):
            if each.due >= NEVER:
                each.due = when
                self._hub.set_timer(self, each)

    def skip(self, first: int, last: int) -> None:
        """The storage has the records no more, or must not give them: they count as done."""
        if last >= self.next:
            begin = max(first, self.next)
            self.skipped += last - begin + 1
            self.next = last + 1
            self._changed(last - begin + 1)
        self.skipped += self._finish(first, last)

    def extend(self, seat: Seat, first: int, last: int, now: int) -> None:
        """The member still works on the records; only on those that it has."""
        due = now + self.group.settings.ack_wait
        for each in self._cut(first, last):
            if each.seat is seat:
                each.due = due  # its timer sees that when it goes off

    def give_back(
        self,
        seat: Seat,
        first: int,
        last: int,
        now: int,
        *,
        delay: int = 0,
        counted: bool = True,
        reason: str = "",
    ) -> None:
        """A member does not want the records; only those that it has are meant."""
        for each in self._cut(first, last):
            if each.seat is seat:
                if not counted:
                    each.deliveries -= 1
                self.fail(each, now, delay, reason)

    def leave(self, seat: Seat, now: int) -> None:
        """A member is gone: what it has may be delivered to others at once."""
        self.seats.remove(seat)
        for each in [each for each in self.outstanding if each.seat is seat]:
            self.fail(each, now, 0, "its member left")
        self.outstanding.merge()

    def fail(self, failed: Range, now: int, delay: int, reason: str) -> None:
        """A delivery did not lead to an acknowledgement: the records come again, or are given up."""
        if failed.seat is not None:
            failed.seat.member.in_flight -= len(failed)
            self._hub.freed[failed.seat.member] = None
            failed.seat = None
        failed.reason = reason
        self._changed(len(failed))
        most = self.group.settings.max_deliveries
        if most and failed.deliveries >= most:
            self.give_up(failed)
        elif delay:
            failed.due = now + delay
            self._hub.set_timer(self, failed)
        else:
            self.make_ready(failed)

    def give_up(self, failed: Range) -> None:
        """The records are to be dead letters."""
        failed.due = NEVER
        self.dying.append(failed)
        self._hub.dying[self] = None

    def make_ready(self, found: Range) -> None:
        """The records may be delivered again."""
        found.due = 0
        heappush(self._ready, (found.first, id(found), found))
        self._hub.behind[self] = None

    def skip_missing(self, first: int) -> None:
        """The storage has nothing before ``first`` any more."""
        for each in list(self.outstanding):
            if each.seat is None and each.first < first:
                self.skip(each.first, min(each.last, first - 1))
        if self.fresh and self.next < first:
            self.skip(self.next, first - 1)

    def restore(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """The outstanding ranges of a saved state, ``(first, last, deliveries)`` in order: all may be delivered."""
        for first, last, deliveries in ranges:
            found = Range(first, last, deliveries)
            self.outstanding.append(found)
            self.make_ready(found)

    def verify(self, end: int) -> int:
        """Compares with the end of the log, once. Returns how many records of the group's state the log has lost.

        A log that lost its end gives its offsets out again: whatever the group knows of them is about other records.
        """
        self.verified = True
        lost = self.next - end
        if lost > 0:
            self._finish(end, self.next - 1)
            self.next = end
            self._changed(lost)
        return max(0, lost)

    def _finish(self, first: int, last: int) -> int:
        touched, born = self.outstanding.remove(first, last)
        if born is not None:
            self._register(born)
        total = 0
        for found, count in touched:
            total += count
            if found.seat is not None:
                found.seat.member.in_flight -= count
                self._hub.freed[found.seat.member] = None
        if total:
            self._changed(total)
        return total

    def _cut(self, first: int, last: int) -> list[Range]:
        """The ranges of exactly these records; those at the edges are split."""
        for offset in (first, last + 1):
            born = self.outstanding.split(offset)
            if born is not None:
                self._register(born)
        return self.outstanding.within(first, last)

    def _register(self, born: Range) -> None:
        if born.due == 0:
            self.make_ready(born)
        elif born.due == NEVER:
            self.dying.append(born)
        elif born.due != BURYING:
            self._hub.set_timer(self, born)

    def _changed(self, records: int) -> None:
        self.unsaved += records
        self._hub.changed(self)
