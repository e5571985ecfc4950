"""A group whose members are spread over brokers: what this one does of the work in a partition.

Over a storage that brokers share (`portask.contracts.SharedGroups`) nobody owns a partition. A broker whose members
have room claims records for them, at most as many as they take now: fresh ones, or before those what a broker held
that is gone. What it claimed is its own to deliver, to take back and to give up, by the rules of `portask.core.groups`;
what it still holds it reports as often as any group is saved. When its last member leaves it gives everything back.

So a record is at one broker at a time, a slow member holds up what it has and no more, and a broker that dies leaves
records that others deliver again once it has not been heard of for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.contracts import Grant
from portask.core import group_state
from portask.core.groups import Share
from portask.core.ranges import Range
from portask.errors import PortaskError

if TYPE_CHECKING:
    from portask.core.coordinator import Coordinator
    from portask.core.groups import Group
    from portask.core.partitions import Partition

MOST = 4096
"""Records that are claimed at a time."""


class GrantedShare(Share):
    """This broker's part of a share.

    ``next`` is behind all that it ever was granted; what it may deliver is waiting, always.

    Attributes:
        claimable: There may be something to claim.
        claiming: A claim is under way.
        reserved: Records that were claimed, or are being claimed, and not delivered yet.
        covered: Number of the last grant that is in `outstanding`.
    """

    __slots__ = ("_reported", "claimable", "claiming", "covered", "reserved")

    def __init__(self, hub: Coordinator, group: Group, partition: Partition) -> None:
        super().__init__(hub, group, partition, 0)
        self.verified = True
        self.claimable = True
        self.claiming = False
        self.reserved = 0
        self.covered = 0
        self._reported = (0, 0, 0, 0)

    @property
    def pending(self) -> bool:
        """Whether there is something to deliver, or to claim."""
        return self.waiting() is not None or (self.claimable and not self.claiming)

    @property
    def fresh(self) -> int:
        """Nothing is delivered that was not granted."""
        return 0

    def wanted(self) -> int:
        """How many records to claim: what members have room for beside what was claimed for them elsewhere."""
        room = sum(seat.member.room for seat in self.free_seats())
        room -= sum(share.reserved for share in self.group.shares.values() if isinstance(share, GrantedShare))
        return min(MOST, room, max(1, self.partition.next - self.next))

    def delivered(self) -> None:
        """What was claimed is delivered as far as it can be: others of the group may claim."""
        self.reserved = 0
        for share in self.group.shares.values():
            if share.pending and share.free_seat() is not None:
                self._hub.behind[share] = None

    def take(self, grant: Grant) -> None:
        """What was claimed waits to be delivered.

        Raises:
            StorageError: it is a state that cannot be read here.
        """
        self.covered = grant.number
        if grant.state is None:
            self._add(grant.first, grant.last, 0)
        else:
            for first, last, deliveries in group_state.decode(grant.state).ranges:
                self._add(first, last, deliveries)

    def _add(self, first: int, last: int, deliveries: int) -> None:
        added = Range(first, last, deliveries)
        if self.outstanding.insert(added):
            self.next = max(self.next, last + 1)
            self.make_ready(added)

    def holding(self) -> tuple[bytes | None, int]:
        """What this broker still has, and the last grant in it."""
        return (group_state.encode(self) if len(self.outstanding) else None, self.covered)

    def counted(self) -> tuple[int, int, int, int]:
        """What happened since this was asked last, as `group_state.State` counts it."""
        now = (self.acknowledged, self.redelivered, self.dead_lettered, self.skipped)
        before, self._reported = self._reported, now
        return tuple(count - old for count, old in zip(now, before, strict=True))  # type: ignore[return-value]

    def uncount(self, counts: tuple[int, int, int, int]) -> None:
        """They were not told after all."""
        kept = (count - missed for count, missed in zip(self._reported, counts, strict=True))
        self._reported = tuple(kept)  # type: ignore[assignment]

    def forget(self) -> None:
        """What this broker had is others'."""
        for each in self.outstanding.clear():
            if each.seat is not None:
                each.seat.member.in_flight -= len(each)
                self._hub.freed[each.seat.member] = None
                each.seat = None
        self.dying.clear()
        self._hub.dying.pop(self, None)
        self._hub.behind.pop(self, None)


def claimed(share: GrantedShare, grant: Grant | None, error: PortaskError | None) -> PortaskError | None:
    """A claim was answered; returns what went wrong with it."""
    share.claiming = False
    share.claimable = grant is not None  # after an error the storage says when there is something again
    if grant is None:
        share.delivered()
    if error is not None:
        return error
    if grant is not None:
        try:
            share.take(grant)
        except PortaskError as unreadable:
            return unreadable
    return None
