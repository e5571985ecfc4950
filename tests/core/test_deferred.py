"""Storages that complete later: the promises stay the same, whatever happens in between."""

from __future__ import annotations

from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from portask.core.broker import Options
from portask.messages import TopicPartition
from portask.wire import control
from portask.wire.connection import State
from portask.wire.frames import Opcode
from tests.core.later import LaterStorage
from tests.core.talking import SECOND, Client, Desk, batch_of

ZERO, ONE = TopicPartition("a", 0), TopicPartition("a", 1)


def late(options: Options | None = None) -> tuple[Desk, LaterStorage, Client]:
    """A desk over a late storage; its client has channel 1 open to a:0 and channel 2 to a:1."""
    storage = LaterStorage()
    desk = Desk(options or Options(default_partitions=2, keepalive=0), storage)
    client = desk.client()
    client.open("a", 1)
    client.open("a", 2, partition=1)
    storage.finish_all()
    desk.settle()
    return desk, storage, client


def test_acks_wait_for_the_storage_and_come_in_order() -> None:
    desk, storage, client = late()
    sent = [client.publish(batch_of(b"%d" % number)) for number in range(3)]
    desk.settle()
    assert not client.acks()
    storage.finish(ZERO, 2)
    assert desk.woken, "the server is asked for a turn"
    desk.settle()
    assert client.acks() == [(sent[1], [0, 1])]
    storage.finish_all()
    desk.settle()
    assert client.acks() == [(sent[2], [2])]
    assert client.session.unacked == 0


def test_partitions_do_not_wait_for_each_other() -> None:
    desk, storage, client = late()
    slow = client.publish(batch_of(b"slow"), 1)
    fast = client.publish(batch_of(b"fast"), 2)
    desk.settle()
    storage.finish(ONE)
    desk.settle()
    assert client.acks() == [(fast, [0])]
    storage.finish(ZERO)
    desk.settle()
    assert client.acks() == [(slow, [0])]


def test_an_error_in_the_middle_is_that_publishs_alone() -> None:
    desk, storage, client = late()
    storage.failing = {b"bad"}
    sent = [client.publish(batch_of(payload)) for payload in (b"0", b"bad", b"1")]
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert client.codes() == [(sent[1], "storage-full")]
    acks = client.acks()
    assert [offset for _, offsets in acks for offset in offsets] == [0, 1]
    assert acks[-1][0] == sent[2]
    assert client.session.unacked == 0
    assert not client.session.paused


def test_a_one_way_publish_that_fails_ends_its_connection_only() -> None:
    desk, storage, client = late()
    other = desk.client()
    storage.failing = {b"bad"}
    client.connection.send(Opcode.PUBLISH, batch_of(b"bad").data, 0, 1)
    kept = client.publish(batch_of(b"good"))
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert client.hung_up
    assert client.codes() == [(0, "storage-full")]
    assert not client.acks(), f"{kept} is stored; the connection ended before it could be said"
    assert not other.hung_up


def test_deliveries_follow_what_is_stored() -> None:
    desk, storage, client = late()
    reader = desk.client()
    reader.subscribe("a", partition=0)
    desk.settle()
    storage.finish_all()
    desk.settle()
    for number in range(3):
        client.publish(batch_of(b"%d" % number))
    desk.settle()
    assert not reader.delivered()
    for _ in range(20):
        storage.finish(ZERO)
        desk.settle()
    assert reader.payloads() == [b"0", b"1", b"2"]


def test_too_much_under_way_pauses_reading_until_it_is_stored() -> None:
    desk, storage, client = late(Options(max_unacked_bytes=3000, default_partitions=2))
    for _ in range(4):
        client.publish(batch_of(bytes(1000)))
    desk.settle()
    paused = [client.session.paused]
    for _ in range(2):
        storage.finish(ZERO, 2)
        desk.settle()
        paused.append(client.session.paused)
    assert paused == [True, False, False]
    desk.settle()
    assert client.acked() == [0, 1, 2, 3]


def test_draining_waits_for_acks_and_answers() -> None:
    desk, storage, client = late()
    client.publish(batch_of(b"last"))
    asked = client.fetch("a")
    client.connection.send(Opcode.DRAIN)
    desk.settle()
    assert client.session in desk.broker.sessions
    storage.finish(ZERO)
    desk.settle()
    assert client.acked() == [0]
    assert client.session in desk.broker.sessions, "the FETCH is still under way"
    storage.finish_all()
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert [frame.correlation for frame in client.take(Opcode.DELIVER)] == [asked]
    assert client.take(Opcode.DRAIN)
    assert client.hung_up


def test_what_completes_after_the_end_of_a_connection_harms_nobody() -> None:
    """It hung up, or sent garbage and stays on the line: nothing can be said to it any more."""
    for garbage in (False, True):
        desk, storage, client = late()
        other = desk.client()
        storage.failing = {b"bad"}
        for payload in (b"good", b"bad", b"good"):
            client.publish(batch_of(payload))
        client.connection.send(Opcode.PUBLISH, batch_of(b"bad").data, 0, 1)
        client.subscribe("a")
        client.fetch("a")
        client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 9)
        desk.settle()
        if garbage:
            client.deaf = True
            client.raw = b"garbage" * 10
            client.sends()
            assert client.session.connection.state is State.CLOSED
        else:
            client.hang_up()
        storage.finish_all()
        desk.settle()
        storage.finish_all()
        desk.settle()
        assert not any(partition.cursors for partition in desk.broker.topics["a"].partitions)
        other.fetch("a")
        for _ in range(3):
            desk.settle()
            storage.finish_all()
        desk.settle()
        assert other.payloads() == [b"good", b"good"]


def test_a_subscription_given_up_before_it_began_leaves_its_channel_to_the_next() -> None:
    desk, storage, client = late()
    client.publish(batch_of(b"0"))
    client.subscribe("a", 5, partition=0)
    client.connection.send(Opcode.UNSUBSCRIBE, b"", 0, 5)
    second = client.subscribe("a", 5, partition=1)
    desk.settle()
    for _ in range(3):
        storage.finish_all()
        desk.settle()
    frames = [control.decode(frame.body, control.Assigned) for frame in client.take(Opcode.SUBSCRIBE)]
    assert [(body.topic, body.partition) for body in frames] == [("a", 1), ("", 0)], second
    assert len(client.session.cursors) == 1
    assert not client.delivered()


def test_records_of_before_the_broker_are_found_by_a_subscription_that_came_first() -> None:
    """The topic is created here while the storage still looks up what it holds of it."""
    storage = LaterStorage()
    for number in range(5):
        storage.inner.append(ZERO, batch_of(b"%d" % number), 5, lambda offset, error: None)
    desk = Desk(Options(keepalive=0), storage)
    reader, publisher = desk.client(), desk.client()
    reader.subscribe("a")
    desk.settle()
    publisher.open("a")
    for _ in range(3):
        storage.finish_all()
        desk.settle()
    assert desk.broker.topics["a"].partitions[0].next == 5
    assert reader.payloads() == [b"0", b"1", b"2", b"3", b"4"]


def test_describe_waits_until_it_knows() -> None:
    desk, storage, client = late()
    for _ in range(4):
        client.publish(batch_of(b"x", b"y"))
    desk.settle()
    storage.finish_all()
    desk.settle()
    storage.inner.trim(ZERO, before=4)
    client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 9)
    desk.settle()
    assert not client.take(Opcode.DESCRIBE)
    storage.finish_all()
    desk.settle()
    (frame,) = client.take(Opcode.DESCRIBE)
    described = control.decode(frame.body, control.Described)
    assert [(info.first, info.next) for info in described.topics[0].partitions] == [(4, 8), (0, 0)]


class LateBroker(RuleBasedStateMachine):
    """Publishes, failures, subscribers and completions in any order; then what was promised is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.desk, self.storage, self.publisher = late()
        self.storage.failing = {b"FAIL"}
        self.numbers = count()
        self.sent: dict[int, tuple[int, bytes]] = {}  # correlation → channel, payload
        self.order: dict[int, list[int]] = {1: [], 2: []}  # what still waits for its answer, a channel
        self.acked: dict[tuple[int, int], bytes] = {}  # partition, offset → payload
        self.readers: list[Client] = []

    @rule(channel=st.sampled_from([1, 2]), fails=st.integers(0, 4))
    def publish(self, channel: int, fails: int) -> None:
        payload = b"FAIL" if not fails else b"%d" % next(self.numbers)
        number = self.publisher.publish(batch_of(payload), channel)
        self.sent[number] = channel, payload
        self.order[channel].append(number)

    @rule(partition=st.integers(0, 1), number=st.integers(1, 4))
    def finish(self, partition: int, number: int) -> None:
        self.storage.finish(TopicPartition("a", partition), number)

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def subscribe(self) -> None:
        reader = self.desk.client()
        reader.subscribe("a", messages=2)
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), messages=st.integers(1, 3))
    def credit(self, data: st.DataObject, messages: int) -> None:
        data.draw(st.sampled_from(self.readers)).credit(messages)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.hang_up()
        self.readers.remove(reader)

    @rule()
    def turn(self) -> None:
        self.desk.settle()

    @invariant()
    def answers_fit(self) -> None:
        for frame in self.publisher.take(Opcode.PUBACK, Opcode.ERROR):
            waiting = self.order[frame.channel]
            if frame.opcode == Opcode.ERROR:
                assert self.sent[frame.correlation][1] == b"FAIL"
                waiting.remove(frame.correlation)
                continue
            for offset in control.decode_puback(frame.body):
                number = waiting.pop(0)
                assert self.sent[number][1] != b"FAIL"
                self.acked[frame.channel - 1, offset] = self.sent[number][1]
            assert number == frame.correlation

    def teardown(self) -> None:
        for reader in self.readers:
            reader.credit(1 << 40)
        for _ in range(50):
            self.desk.settle()
            self.storage.finish_all()
        self.desk.settle()
        self.answers_fit()
        assert self.order == {1: [], 2: []}, "a publish was never answered"
        assert self.publisher.session.unacked == 0
        for reader in self.readers:
            partitions = {body.delivery: body.partition for body in reader.assigned()}
            got: dict[tuple[int, int], bytes] = {}
            due = dict.fromkeys(partitions, 0)
            for frame in reader.take(Opcode.DELIVER):
                reader.arrived = [frame]
                for offset, message in reader.delivered():
                    if offset < due[frame.channel]:
                        continue  # the beginning of a batch that was read again: clients skip it
                    assert offset == due[frame.channel], "a hole, or out of order"
                    due[frame.channel] += 1
                    got[partitions[frame.channel], offset] = message.payload
            assert got == self.acked
            assert not reader.errors()


LateBroker.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLateBroker = LateBroker.TestCase


def test_timers_run_while_the_storage_is_silent() -> None:
    desk, _, client = late(Options(keepalive=10 * SECOND, default_partitions=2))
    client.publish(batch_of(b"never stored"))
    desk.settle()
    desk.settle(12 * SECOND)
    assert client.hung_up
