"""The groups of a broker: who is a member, what is due when, and when a group's state is saved.

**Time.** Every range that waits for a moment (a member's time to acknowledge, the delay of a NACK) has an entry in one
heap. Entries are not taken out when a range is finished: they are passed over when their time comes, and the heap is
swept when it has doubled. So an acknowledgement costs nothing here.

**Saving.** State is saved `SAVE_AFTER` µs after something changed, or once `SAVE_RECORDS` records did, and when a group
loses its last member or the broker drains. So after a crash a group delivers again what it delivered or acknowledged in
the last `SAVE_AFTER` µs and what was in flight, as far as the storage kept its state; it never skips a record. A new
group's place is saved before its first member is told: what is published after that belongs to the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import structlog

from portask.contracts import LATEST, GroupState, SharedGroups
from portask.core import group_state
from portask.core.dead_letters import DeadLetters, Rewrite
from portask.core.grants import GrantedShare
from portask.core.groups import Group, Member, Seat, Settings, Share, check_agreement
from portask.core.partitions import Partition, Subscription
from portask.core.ranges import NEVER, Range
from portask.errors import NotPermitted, PortaskError, UnknownGroup, UnknownPartition
from portask.messages import TopicPartition

if TYPE_CHECKING:
    from portask.core.broker import Broker

log = structlog.get_logger("portask.broker")

SAVE_AFTER = 100_000
"""µs that a change waits to be saved."""
SAVE_EACH = 500
"""µs that it waits longer for every share that the last saving saved: with thousands it must not take all the time."""
SAVE_RECORDS = 20_000
"""Records of one share that may change before it is saved at once."""
_SWEEP_AT = 1024

Saved = Callable[[PortaskError | None], None]


class Coordinator:
    """Belongs to one broker.

    Attributes:
        groups: By name.
        share_count: How many shares they have that are this broker's alone.
        behind: Shares that may have something to deliver.
        dying: Shares with records that are to be dead letters.
        freed: Members that have less in flight than before.
        due: When `tick` should be called, µs; `NEVER` if nothing waits.
        shared: The storage, if other brokers have members, too.
    """

    def __init__(self, broker: Broker, rewrite: Rewrite | None) -> None:
        self._broker = broker
        storage = broker.storage
        self._store = storage if isinstance(storage, GroupState) else None
        self.shared = storage if isinstance(storage, SharedGroups) else None
        if self.shared is not None:
            self.shared.regranted = self._regranted
        self.groups: dict[str, Group] = {}
        self.share_count = 0
        self.behind: dict[Share, None] = {}
        self.dying: dict[Share, None] = {}
        self.freed: dict[Member, None] = {}
        self.delivery = broker.group_delivery_type(storage, broker.mark, self.behind)
        self.dead_letters = DeadLetters(broker, self, rewrite) if rewrite is not None else None
        self.due = NEVER
        self._timers: list[tuple[int, int, Range, Share]] = []
        self._numbers = count()
        self._sweep_at = _SWEEP_AT
        self._unsaved: dict[Share, None] = {}
        self._save_at = NEVER
        self._save_after = SAVE_AFTER

    @property
    def busy(self) -> bool:
        """Whether another turn should follow at once."""
        return bool(self.groups and (self.behind or self.dying or self.freed))

    # ── members ───────────────────────────────────────────────────────────────────────────────────────────────────

    def enter(
        self, name: str, ack_wait: int | None, max_deliveries: int | None, dead_letter: str | None
    ) -> Group:
        """The group, made if it is new. Arguments that are given must agree with it; ``ack_wait`` in µs.

        Raises:
            NotPermitted: they do not, or there can be no such group here.
        """
        if self._store is None and self.shared is None:
            raise NotPermitted("this broker's storage does not keep groups: subscribe without one")
        asked = {"ack_wait": ack_wait, "max_deliveries": max_deliveries, "dead_letter": dead_letter}
        given = {key: value for key, value in asked.items() if value is not None}
        known = self.groups.get(name)
        if known is None:
            settings = self._broker.settings_elsewhere(name)
            if settings is None:
                settings = Settings(**given)  # type: ignore[arg-type]  # each value has the type of its key
            if settings.max_deliveries and self.dead_letters is None:
                raise NotPermitted(
                    "this broker was made without a way to write dead letters: leave max_deliveries out"
                )
            known = Group(name, settings, given)
            check_agreement(known, settings, given)
            self.groups[name] = known
            self._broker.group_is_here(name, settings)
            return known
        check_agreement(known, known.settings, given)
        return known

    def open(self, group: Group, partition: Partition, offset: int, done: Saved) -> None:
        """Sees to the share, new at ``offset`` unless the group has it. Calls ``done`` once its place is saved."""
        if partition in group.shares:
            done(None)
        elif self.shared is not None:
            self._take_part(self.shared, group, partition, offset, done)
        elif self.share_count >= self._broker.options.max_group_partitions:
            done(
                NotPermitted(
                    f"all groups together have {self.share_count:,} partitions, and may have no more "
                    "(limits.max_group_partitions): drop groups that nobody needs"
                )
            )
        else:
            share = group.shares[partition] = Share(self, group, partition, offset)
            share.verified = True
            self.share_count += 1
            self._save(share, done)

    def _take_part(
        self, shared: SharedGroups, group: Group, partition: Partition, offset: int, done: Saved
    ) -> None:
        """This broker has members, as others may have."""

        def begun(found: bytes, error: PortaskError | None) -> None:
            try:
                if error is not None:
                    raise error
                settings = group_state.decode_settings(found)
                if settings != group.settings:  # somebody elsewhere was first
                    check_agreement(group, settings, group.given)
                    group.settings = settings
                    self._broker.group_agreed(group.name, settings)
            except PortaskError as refusal:
                done(refusal)
                return
            share = group.shares.get(partition)
            if share is None:
                share = group.shares[partition] = GrantedShare(self, group, partition)
            done(None)
            if isinstance(share, GrantedShare) and not share.seats:
                self._give_back(share)  # who wanted it has left meanwhile

        shared.begin(group.name, partition.key, group_state.encode_settings(group.settings), offset, begun)

    def _regranted(self, name: str, key: TopicPartition, lost: bool) -> None:
        """There may be something to claim for a group; or what it had here is others'."""
        group = self.groups.get(name)
        topic = self._broker.topics.get(key.topic)
        if group is None or topic is None:
            return
        partition = topic.partitions[key.partition]
        share = group.shares.get(partition)
        if not isinstance(share, GrantedShare):
            return
        if not lost:
            self._claim_again(share)
            return
        share.forget()

        def back(error: PortaskError | None) -> None:
            if error is not None:
                log.error("a group gets no records", group=name, partition=str(key), reason=str(error))
            else:
                self._claim_again(share)

        if self.shared is not None:
            self._take_part(self.shared, group, partition, 0, back)

    def _claim_again(self, share: GrantedShare) -> None:
        share.claimable = True
        self.behind[share] = None
        if not self._broker.in_turn:
            self._broker.wake()

    def seat(self, member: Member, share: Share, delivery: int) -> Seat:
        """A member takes part in a share."""
        seat = Seat(member, share, delivery)
        member.seats.append(seat)
        share.seats.insert(0, seat)
        share.partition.shares[share] = None
        if share.pending:
            self.behind[share] = None
        return seat

    def verify(self, share: Share, end: int) -> None:
        """Compares a share that was restored with the log, once both are known."""
        lost = 0 if share.verified else share.verify(end)
        if lost:
            log.error(
                "the log lost records that a group had seen",
                group=share.group.name,
                partition=str(share.partition.key),
                records=lost,
            )

    def join(self, group: Group, subscription: Subscription, limit: int) -> Member:
        """A new member, still without a seat."""
        member = Member(group, subscription, limit)
        group.members[member] = None
        return member

    def leave(self, member: Member) -> None:
        """The member is gone; what it has goes to others."""
        group = member.group
        if group.members.pop(member, member) is member:
            return
        for seat in member.seats:
            share = seat.share
            share.leave(seat, self._broker.now)
            if not share.seats:
                share.partition.shares.pop(share, None)
                self.behind.pop(share, None)
                self.delivery.later.pop(share, None)
                if isinstance(share, GrantedShare):
                    self._give_back(share)
                elif share in self._unsaved:
                    self._save(share)
        member.seats.clear()
        if not group.members and not group.shares:
            self._forget(group.name)  # nothing of it was ever saved
        if not self._broker.in_turn:
            self._broker.wake()  # what it had may go to others, and its state to the storage

    def _give_back(self, share: GrantedShare) -> None:
        """Nobody here works on it any more: other brokers may."""
        self._unsaved.pop(share, None)
        share.group.shares.pop(share.partition, None)
        if self.shared is not None:
            self.shared.report(share.group.name, share.partition.key, share.holding(), share.counted(), None)
        share.forget()

    def nudge(self, member: Member) -> None:
        """The member may have room now."""
        if member.room > 0:
            for seat in member.seats:
                if seat.share.pending:
                    self.behind[seat.share] = None

    def drop(self, name: str, done: Saved) -> None:
        """Forgets a group; ``done`` gets why not, where others have a say.

        Raises:
            UnknownGroup: there is none of that name.
            NotPermitted: it has members.
        """
        group = self.groups.get(name)
        if group is not None and group.members:
            raise NotPermitted(f"the group {name!r} has {len(group.members)} members: stop them first")
        unknown = UnknownGroup(f"there is no group {name!r}")
        if self.shared is not None:
            self._forget(name)
            self.shared.drop_group(name, lambda there, error: done(error or (None if there else unknown)))
            return
        if group is None:
            raise unknown
        self._forget(name)
        self.share_count -= len(group.shares)
        for share in group.shares.values():
            self._unsaved.pop(share, None)
            self.behind.pop(share, None)
            self.dying.pop(share, None)
            share.dying.clear()
        if self._store is not None:
            self._store.drop_group(name)
        done(None)

    def _forget(self, name: str) -> None:
        if self.groups.pop(name, None) is not None:
            self._broker.group_is_here(name, None)

    # ── what shares call ──────────────────────────────────────────────────────────────────────────────────────────

    def set_timer(self, share: Share, found: Range) -> None:
        """`tick` looks at the range at its due time."""
        due = found.timer = found.due
        heappush(self._timers, (due, next(self._numbers), found, share))
        self.due = min(self.due, due)
        if len(self._timers) > self._sweep_at:
            self._timers = [
                timer for timer in self._timers if timer[2].due > 0 and timer[2].timer == timer[0]
            ]
            heapify(self._timers)
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._timers))

    def changed(self, share: Share) -> None:
        """Its state is to be saved."""
        if not self._unsaved:
            self._save_at = self._broker.now + (0 if self._broker.draining else self._save_after)
        self._unsaved[share] = None
        if share.unsaved >= SAVE_RECORDS:
            self._save_at = self._broker.now
        self.due = min(self.due, self._save_at)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: int) -> None:
        """What is due: members that did not acknowledge in time, delays that are over, states to be saved."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            when, _, found, share = heappop(timers)
            if found.timer != when or found.due <= 0 or found.due >= NEVER:
                continue
            if found.due > when:
                self.set_timer(share, found)  # it was extended
            elif found.seat is not None:
                share.fail(found, now, 0, "no ack in time")
            elif (
                share.group.settings.max_deliveries
                and found.deliveries >= share.group.settings.max_deliveries
            ):
                share.give_up(found)  # it could not be published as a dead letter before
            else:
                share.make_ready(found)
        if self._save_at <= now:
            self.save()
        self.due = min(timers[0][0] if timers else NEVER, self._save_at)

    def deliver(self, now: int) -> None:
        """Dead letters and deliveries of this turn."""
        if self._broker.draining:
            self.behind.clear()  # members could not acknowledge any more
            self.freed.clear()
        while self.freed:
            self.nudge(self.freed.popitem()[0])
        if self.dying and self.dead_letters is not None:
            self.dead_letters.bury(now)
        if self.behind:
            self.delivery.catch_up(now)

    # ── saving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self) -> None:
        """Saves all that changed."""
        unsaved, self._unsaved = self._unsaved, {}
        self._save_at = NEVER
        self._save_after = SAVE_AFTER + SAVE_EACH * len(unsaved)
        for share in unsaved:
            self._save(share)

    def settle(self, done: Callable[[], None]) -> None:
        """Saves all that changed; ``done`` once the storage has answered."""
        waiting = 1

        def answered() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        def saved(share: Share, error: PortaskError | None) -> None:
            if error is not None:
                self.changed(share)
            answered()

        for share in list(self._unsaved):
            waiting += 1
            self._save(share, partial(saved, share))
        answered()

    def _save(self, share: Share, done: Saved | None = None) -> None:
        group = share.group
        share.unsaved = 0
        self._unsaved.pop(share, None)
        if self.groups.get(group.name) is not group:
            return  # it was dropped

        def saved(error: PortaskError | None) -> None:
            if done is not None:
                done(error)
            elif error is not None:
                where = str(share.partition.key)
                log.error("a group was not saved", group=group.name, partition=where, reason=str(error))
                if self.groups.get(group.name) is group:
                    self.changed(share)

        key = share.partition.key
        if isinstance(share, GrantedShare) and self.shared is not None:
            counts = share.counted()

            def reported(error: PortaskError | None) -> None:
                if error is not None:
                    share.uncount(counts)
                saved(error)

            self.shared.report(group.name, key, share.holding(), counts, reported)
        elif self._store is not None:
            self._store.save_group(group.name, key, group_state.encode(share), saved)

    def saved(self) -> Iterator[tuple[str, TopicPartition, bytes]]:
        """What the storage has of groups."""
        yield from self._store.load_groups() if self._store is not None else ()

    def restore(self, name: str, partition: Partition, data: bytes) -> None:
        """A share as it was saved. One that cannot be read begins with the oldest record: nothing is skipped."""
        try:
            state = group_state.decode(data)
        except PortaskError as error:
            where = str(partition.key)
            log.error("a group begins anew", group=name, partition=where, reason=str(error))  # noqa: TRY400 - says it all
            state = group_state.State(group_state.VERSION, 0, [], Settings(), (0, 0, 0, 0))
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name, state.settings)
        self.share_count += partition not in group.shares
        share = group.shares[partition] = Share(self, group, partition, state.next)
        share.restore(state.ranges)
        share.acknowledged, share.redelivered, share.dead_lettered, share.skipped = state.counts
        self.behind.clear()  # nobody is there yet

        def found(end: int, error: PortaskError | None) -> None:
            if error is None or isinstance(error, UnknownPartition):
                self.verify(share, max(0, end))

        # now, before the log grows again: what it lost and gives out anew must not count as known
        self._broker.storage.lookup(partition.key, LATEST, found)
