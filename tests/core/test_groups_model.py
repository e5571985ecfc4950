"""Whatever members do, every record is done or given up in the end, and nobody has what somebody else has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from portask.core.broker import Broker
from portask.core.ranges import NEVER
from portask.errors import PortaskError
from portask.messages import Message, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.server.dead_letters import rewrite
from tests.core.later import Completion, LaterStorage
from tests.core.sharing import MS, Member, Sharing, read_all

WAIT = 400
"""The group's ack_wait, ms."""


class LateGroups(LaterStorage):
    """A storage that completes everything with its next poll, groups included."""

    def poll(self) -> int:
        self.finish_all()
        return super().poll()

    def _later(self, key: TopicPartition, work: Completion) -> None:
        super()._later(key, work)
        self.notify()

    def save_group(
        self, group: str, at: TopicPartition, state: bytes, done: Callable[[PortaskError | None], None]
    ) -> None:
        def work() -> None:
            self.inner.save_group(group, at, state, lambda error: self._finished.append(lambda: done(error)))

        self._later(at, work)

    def load_groups(self) -> object:
        return self.inner.load_groups()

    def drop_group(self, group: str) -> None:
        self.inner.drop_group(group)

    def partitions(self) -> object:
        return self.inner.partitions()

    def size(self, partition: TopicPartition) -> int:
        return self.inner.size(partition)


class Groups(RuleBasedStateMachine):
    """Members of one group on one partition, and what each of them has by its own account."""

    late = False

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[Member, dict[int, int]] = {}  # what it holds: offset → until when it is its own
        self.done: set[int] = set()
        self.restarts = 0

    @initialize(most=st.sampled_from([0, 0, 2, 4]))
    def begin(self, most: int) -> None:
        self.most = most
        storage: object = LateGroups() if self.late else MemoryStorage()
        self.desk = Sharing(storage=storage)  # type: ignore[arg-type]

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(count=st.integers(1, 60), size=st.integers(1, 30))
    def publish(self, count: int, size: int) -> None:
        self.desk.publish(count, size)
        self.look()

    @precondition(lambda self: len(self.members) < 4)
    @rule(messages=st.integers(0, 50), in_flight=st.integers(0, 20))
    def join(self, messages: int, in_flight: int) -> None:
        member = self.desk.member(
            ack_wait=WAIT, max_deliveries=self.most, messages=messages, max_in_flight=in_flight
        )
        assert member.error is None
        self.members[member] = {}
        self.look()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), polite=st.booleans())
    def leave(self, data: st.DataObject, polite: bool) -> None:
        member = data.draw(st.sampled_from(list(self.members)))
        del self.members[member]
        member.unsubscribe() if polite else member.hang_up()
        self.look()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), credit=st.integers(1, 50))
    def credit(self, data: st.DataObject, credit: int) -> None:
        data.draw(st.sampled_from(list(self.members))).credit(credit)
        self.look()

    def some(self, data: st.DataObject) -> tuple[Member, list[int]]:
        """A member and some of what it ever got and still counts as its own."""
        member = data.draw(st.sampled_from(list(self.members)))
        held = sorted(self.members[member])
        if not held:
            return member, []
        first = data.draw(st.integers(0, len(held) - 1))
        return member, held[first : first + data.draw(st.integers(1, 12))]

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        member, offsets = self.some(data)
        if offsets:
            member.ack(*ranges(offsets))
            self.done.update(offset for offset in offsets)
            self.forget(member, offsets)
            self.look()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), delay=st.sampled_from([0, 0, 30, 1000]), returned=st.booleans())
    def nack(self, data: st.DataObject, delay: int, returned: bool) -> None:
        member, offsets = self.some(data)
        if offsets:
            self.forget(member, offsets)
            member.nack(*ranges(offsets), delay=delay, returned=returned)
            self.look()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        member, offsets = self.some(data)
        if offsets:
            held = self.members[member]
            member.extend(*ranges(offsets))
            for offset in offsets:
                if held[offset] > self.desk.now:
                    held[offset] = self.desk.now + WAIT * MS
            self.look()

    @rule(time=st.sampled_from([1, 120, 120, 401, 2000]))
    def wait(self, time: int) -> None:
        self.desk.settle(time * MS)
        self.look()

    @rule()
    def crash(self) -> None:
        """The broker is gone, with what it had not saved; another one begins with the same storage."""
        desk = self.desk
        for member in self.members:
            member.client.hung_up = True
        self.members.clear()
        desk.clients.clear()
        desk.broker = Broker(desk.storage, None, rewrite)
        desk.publisher = desk.client()
        desk.publisher.open("jobs")
        self.restarts += 1

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    def forget(self, member: Member, offsets: list[int]) -> None:
        for offset in offsets:
            self.members[member].pop(offset, None)

    def look(self) -> None:
        """Takes what came, and checks that it was nobody else's."""
        now = self.desk.now
        for member, held in self.members.items():
            for got in member.take():
                assert self.restarts or not self.most or got.deliveries <= self.most
                for offset, message in got.messages.items():
                    assert message.payload == b"%d" % offset
                    for other, its in self.members.items():
                        if other is not member:
                            assert its.get(offset, 0) <= now, f"{offset} was somebody else's"
                    held[offset] = now + WAIT * MS
        for held in self.members.values():
            for offset in [offset for offset, until in held.items() if until <= now - 2000 * MS]:
                del held[offset]  # so long ago that its member would not remember either

    @invariant()
    def the_books_are_right(self) -> None:
        desk = getattr(self, "desk", None)
        if desk is None or "g" not in desk.broker.groups.groups:
            return
        partition = desk.broker.topics["jobs"].partitions[0]
        share = desk.broker.groups.groups["g"].shares.get(partition)
        if share is None:
            return
        dead = {int(m.headers["portask-dead-offset"]) for m in self.dead() if m.headers}  # takes turns
        ranges = list(share.outstanding)
        open_offsets: set[int] = set()
        before = -1
        for each in ranges:
            assert before < each.first <= each.last < share.next
            before = each.last
            open_offsets.update(range(each.first, each.last + 1))
            assert each.due != NEVER, "what was given up is not left lying"
        assert len(open_offsets) == share.outstanding.records
        finished = set(range(share.next)) - open_offsets
        assert finished <= self.done | dead, "something was skipped"
        if not self.restarts:
            assert len(finished) == share.acknowledged + share.dead_lettered
            assert self.done | dead == finished
            assert share.lag == desk.published - len(finished)
        for member in desk.broker.groups.groups["g"].members:
            mine = sum(len(each) for each in ranges if each.seat is not None and each.seat.member is member)
            assert member.in_flight == mine <= member.limit

    def dead(self) -> list[Message]:
        if "jobs.dead" not in self.desk.broker.topics:
            return []
        return read_all(self.desk, "jobs.dead")

    def teardown(self) -> None:
        """One good member finishes everything."""
        if not hasattr(self, "desk"):
            return
        for member in list(self.members):
            member.hang_up()
        self.members.clear()
        worker = self.desk.member(ack_wait=WAIT, max_deliveries=self.most)
        self.members[worker] = {}
        for _ in range(1000):
            self.look()
            offsets = sorted(self.members[worker])
            if offsets:
                self.done.update(offsets)
                self.members[worker].clear()
                worker.ack(*ranges(offsets))
            elif self.desk.share().lag:
                self.desk.settle(200 * MS)
            else:
                break
        self.the_books_are_right()
        dead = {int(m.headers["portask-dead-offset"]) for m in self.dead() if m.headers}
        assert self.done | dead == set(range(self.desk.published))
        assert self.desk.share().skipped == 0


def ranges(offsets: list[int]) -> list[tuple[int, int]]:
    """Sorted offsets as ranges."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and found[-1][1] + 1 == offset:
            found[-1] = (found[-1][0], offset)
        else:
            found.append((offset, offset))
    return found


class LateMachine(Groups):
    """The same on a storage that answers later."""

    late = True


@pytest.mark.parametrize("machine", [Groups, LateMachine])
def test_groups(machine: type[Groups]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
