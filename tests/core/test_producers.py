"""Numbered batches are stored once, in order, whatever is sent again, fails, or comes back after a restart."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from portask.contracts import Appended, Producers, Storage
from portask.core import producers
from portask.core.partitions import Partition
from portask.errors import PortaskError
from portask.messages import TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire import batches, control, sequences
from portask.wire.frames import Opcode
from tests.core.later import LaterStorage
from tests.core.talking import Client, Desk, batch_of, records

ID = 0xFEED_0000_0000_0001
KEY = TopicPartition("a")
LAST_NUMBER = 0xFFFF_FFFF


def sent(*payloads: bytes, first: int, epoch: int = 0, producer: int = ID) -> bytes:
    return batches.numbered(bytes(batch_of(*payloads).data), producer, epoch, first)


def stored(storage: Storage, key: TopicPartition = KEY) -> list[bytes]:
    """Every payload that a partition holds."""
    found: list[bytes] = []

    def read(batches_: object, error: PortaskError | None) -> None:
        if error is None:
            assert isinstance(batches_, list)
            found.extend(message.payload for _, message in records([batches.parse(b) for b in batches_]))

    storage.read(key, 0, 1 << 30, read)
    return found


def desk_with_producer(storage: Storage | None = None) -> tuple[Desk, Client]:
    desk = Desk(storage=storage)
    client = desk.client()
    client.open("a")
    return desk, client


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("last", "first"), [(1, 2), (LAST_NUMBER - 1, LAST_NUMBER), (LAST_NUMBER, 1), (0, 1)]
)
def test_no_batch_begins_with_number_0(last: int, first: int) -> None:
    assert sequences.following(last) == first
    assert sequences.following(sequences.preceding(first)) == first


def test_numbers_wrap() -> None:
    assert sequences.last_of(LAST_NUMBER, 1) == LAST_NUMBER
    assert sequences.last_of(LAST_NUMBER, 3) == 1
    assert sequences.is_before(LAST_NUMBER, 1)
    assert not sequences.is_before(1, LAST_NUMBER)
    assert not sequences.is_before(5, 5)


def test_the_numbers_of_a_batch_change_nothing_else() -> None:
    plain = batch_of(b"a", b"b", ttl=7)
    both = batches.parse(batches.numbered(bytes(plain.data), ID, 65_535, 9))
    assert (both.producer, both.epoch, both.sequence) == (ID, 65_535, 9)
    assert (both.body, both.ttl, both.count, both.codec) == (plain.body, plain.ttl, plain.count, plain.codec)


# ── the broker, message by message ────────────────────────────────────────────────────────────────────────────────────


def test_a_retry_is_acknowledged_where_it_lies_and_delivered_once() -> None:
    desk, client = desk_with_producer()
    client.subscribe("a", 7)
    desk.settle()
    client.publish(sent(b"1", b"2", first=1))
    client.publish(sent(b"3", first=3))
    desk.settle()
    assert client.acked() == [0, 2]
    other = desk.client()
    other.open("a")
    other.publish(sent(b"1", b"2", first=1))
    other.publish(sent(b"3", first=3))
    other.publish(sent(b"4", first=4))
    desk.settle()
    assert other.acked() == [0, 2, 3]
    assert client.payloads() == [b"1", b"2", b"3", b"4"] == stored(desk.storage)
    assert desk.broker.producers.duplicates == 3
    client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 9)
    desk.settle()
    (answer,) = client.take(Opcode.DESCRIBE)
    assert control.decode(answer.body, control.Described).duplicates == 3


def test_a_gap_is_refused_and_the_missing_batch_may_still_come() -> None:
    desk, client = desk_with_producer()
    client.publish(sent(b"1", first=1))
    ahead = client.publish(sent(b"3", first=3))
    client.publish(sent(b"2", first=2))
    client.publish(sent(b"3", first=3))
    desk.settle()
    assert client.codes() == [(ahead, "out-of-sequence")]
    assert stored(desk.storage) == [b"1", b"2", b"3"]
    partly = client.publish(sent(b"3", b"4", first=3))
    desk.settle()
    assert client.codes() == [(partly, "out-of-sequence")]
    assert stored(desk.storage) == [b"1", b"2", b"3"]


def test_the_same_numbers_with_other_records_are_no_retry() -> None:
    desk, client = desk_with_producer()
    client.publish(sent(b"mine", first=1))
    other = client.publish(sent(b"of somebody else", first=1))
    desk.settle()
    assert client.codes() == [(other, "out-of-sequence")]
    assert stored(desk.storage) == [b"mine"]


def test_batches_without_a_number_are_not_looked_at() -> None:
    desk, client = desk_with_producer()
    for batch in (batch_of(b"x", producer=ID), sent(b"x", first=9, producer=0)):
        client.publish(batch)
        client.publish(batch)
    desk.settle()
    assert client.acked() == [0, 1, 2, 3]
    assert len(desk.broker.producers) == 0


def test_a_newer_epoch_begins_anew_and_shuts_the_older_out() -> None:
    desk, client = desk_with_producer()
    client.publish(sent(b"old", first=7))
    client.publish(sent(b"new", first=1, epoch=1))
    late = client.publish(sent(b"late", first=8))
    retry = client.publish(sent(b"old", first=7))
    desk.settle()
    assert client.codes() == [(late, "fenced"), (retry, "fenced")]
    client.publish(sent(b"new", first=1, epoch=1))
    desk.settle()
    assert client.acked() == [0, 1, 1]
    assert stored(desk.storage) == [b"old", b"new"]


def test_producers_and_partitions_do_not_see_each_other() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a", 1, partitions=2)
    client.open("a", 2, partition=1)
    for channel in (1, 2):
        for producer in (ID, ID + 1):
            client.publish(sent(b"x", first=1, producer=producer), channel)
    desk.settle()
    assert client.acked() == [0, 1, 0, 1]


def test_who_goes_on_behind_a_gap_says_so() -> None:
    desk, client = desk_with_producer()
    client.publish(sent(b"1", first=1))
    desk.settle()
    going_on = control.Open("a", producer=ID, sequence=5)
    client.connection.send_control(Opcode.OPEN, going_on, 77, 1)
    client.publish(sent(b"5", first=5))
    client.publish(sent(b"1", first=1))
    desk.settle()
    assert client.take(Opcode.OPEN)
    assert client.acked() == [0, 1, 0]
    backwards = control.Open("a", producer=ID, sequence=2)
    client.connection.send_control(Opcode.OPEN, backwards, 78, 1)
    client.publish(sent(b"6", first=6))
    desk.settle()
    assert client.acked() == [2], "what is stored is stored, whatever the client thinks"


@pytest.mark.parametrize(("epoch", "sequence"), [(3, 0), (2, 0), (2, 9)])
def test_who_comes_with_a_used_epoch_is_told_before_anything_is_lost(epoch: int, sequence: int) -> None:
    desk, client = desk_with_producer()
    client.publish(sent(b"1", first=1, epoch=3))
    desk.settle()
    body = control.Open("a", producer=ID, epoch=epoch, sequence=sequence)
    client.connection.send_control(Opcode.OPEN, body, 77, 2)
    client.connection.send_control(Opcode.OPEN, control.Open("a", producer=ID, epoch=4), 78, 3)
    client.connection.send_control(Opcode.OPEN, control.Open("b", producer=ID, epoch=0), 79, 4)
    desk.settle()
    assert client.codes() == [(77, "fenced")]
    assert [frame.correlation for frame in client.take(Opcode.OPEN)] == [78, 79]


def test_older_than_what_is_remembered_is_still_not_stored_again() -> None:
    desk, client = desk_with_producer()
    count = sequences.KEPT_BATCHES + 1
    for number in range(1, count + 1):
        client.publish(sent(b"%d" % number, first=number))
    for number in (1, 2, count):
        client.publish(sent(b"%d" % number, first=number))
    desk.settle()
    assert client.acked() == [*range(count), control.UNKNOWN_OFFSET, 1, count - 1]
    assert len(stored(desk.storage)) == count


def test_who_was_idle_for_longest_is_forgotten_and_the_storage_knows_the_last_batch() -> None:
    storage = MemoryStorage()
    table = producers.ProducerTable(storage, limit=3)
    partition = Partition(KEY, 0)

    def publish(producer: int, first: int) -> bool:
        """Whether it was a retry."""
        offsets: list[int] = []
        batch = batches.parse(sent(b"x", first=first, producer=producer))
        if table.is_retry(partition, batch, lambda offset, _: offsets.append(offset)):
            return True
        storage.append(KEY, batch, 0, table.admit(partition, batch, lambda offset, _: offsets.append(offset)))
        return False

    for producer in (1, 2, 3, 1, 4, 5):
        publish(producer, 1 + (producer == 1 and len(table) == 3))
    assert len(table) == 3
    assert publish(2, 1), "the storage remembers"
    assert publish(1, 2)
    storage.trim(KEY, before=1 << 40)
    for producer in (11, 12, 13, 14):
        publish(producer, 1)
    assert not publish(2, 1), "nobody knows it any more"


# ── storages that take their time ─────────────────────────────────────────────────────────────────────────────────────


class LaterProducers(LaterStorage):
    """The late storage with the table of the one behind it. A failed append takes those queued behind it along."""

    def __init__(self, inner: MemoryStorage | None = None) -> None:
        super().__init__()
        self.inner = inner or MemoryStorage()

    def producers(self, partition: TopicPartition) -> Mapping[int, tuple[int, int, int]]:
        return self.inner.producers(partition)


def late() -> tuple[Desk, LaterProducers, Client]:
    storage = LaterProducers()
    desk, client = desk_with_producer(storage)
    storage.finish_all()
    desk.settle()
    return desk, storage, client


def test_a_retry_waits_for_the_append_that_is_under_way() -> None:
    desk, storage, client = late()
    client.publish(sent(b"1", first=1))
    client.publish(sent(b"2", first=2))
    desk.settle()
    client.hang_up()
    others = [desk.client() for _ in range(2)]
    for other in others:
        other.open("a")
        other.publish(sent(b"1", first=1))
        other.publish(sent(b"2", first=2))
    others[0].publish(sent(b"3", first=3))
    desk.settle()
    assert not any(other.acks() for other in others)
    storage.finish(KEY)
    desk.settle()
    assert [other.acked() for other in others] == [[0], [0]]
    storage.finish_all()
    desk.settle()
    assert [other.acked() for other in others] == [[1, 2], [1]]
    assert stored(storage.inner) == [b"1", b"2", b"3"]
    assert all(other.session.unacked == 0 for other in others)


def test_a_failed_append_fails_its_retries_and_takes_its_numbers_back() -> None:
    desk, storage, client = late()
    storage.failing = {b"1", b"2"}
    numbers = [client.publish(sent(b"%d" % number, first=number)) for number in (1, 2)]
    desk.settle()
    other = desk.client()
    other.open("a")
    waiting = other.publish(sent(b"1", first=1))
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert client.codes() == [(number, "storage-full") for number in numbers]
    assert other.codes() == [(waiting, "storage-full")]
    storage.failing = set()
    other.publish(sent(b"1", first=1))
    other.publish(sent(b"2", first=2))
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert other.acked() == [0, 1]
    assert stored(storage.inner) == [b"1", b"2"]


def test_nothing_is_stored_behind_a_first_batch_that_failed() -> None:
    desk, storage, client = late()
    storage.failing = {b"1"}
    client.publish(sent(b"1", first=1))
    desk.settle()
    storage.finish_all()
    storage.failing = set()
    desk.settle()
    ahead = client.publish(sent(b"2", first=2))
    desk.settle()
    assert client.codes()[-1] == (ahead, "out-of-sequence")
    for number in (1, 2):
        client.publish(sent(b"%d" % number, first=number))
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert client.acked() == [0, 1]


def test_a_failure_that_others_were_stored_behind_stays_one() -> None:
    desk, storage, client = late()
    storage.failing = {b"1"}
    failed = client.publish(sent(b"1", first=1))
    client.publish(sent(b"2", first=2))
    desk.settle()
    storage.finish_all()
    storage.failing = set()
    desk.settle()
    assert (client.codes(), client.acked()) == ([(failed, "storage-full")], [0])
    again = client.publish(sent(b"1", first=1))
    desk.settle()
    assert client.codes() == [(again, "storage-full")]
    assert stored(storage.inner) == [b"2"]


def test_a_refusal_does_not_hold_up_acks() -> None:
    desk, client = desk_with_producer(MemoryStorage(max_bytes=400))
    client.publish(sent(bytes(100), first=1))
    full = client.publish(sent(bytes(1000), first=2))
    behind = client.publish(sent(b"3", first=3))
    desk.settle()
    assert client.acked() == [0]
    assert client.codes() == [(full, "storage-full"), (behind, "out-of-sequence")]
    assert client.session.unacked == 0
    desk.storage = MemoryStorage()


def test_who_sends_more_than_it_may_is_not_acknowledged_early() -> None:
    desk, storage, client = late()
    count = sequences.KEPT_BATCHES + 4
    for number in range(1, count + 1):
        client.publish(sent(b"%d" % number, first=number))
    desk.settle()
    other = desk.client()
    other.open("a")
    other.publish(sent(b"1", first=1))
    desk.settle()
    assert not other.acks()
    storage.finish_all()
    desk.settle()
    assert other.acked() == [0]
    assert len(stored(storage.inner)) == count


def test_who_has_something_under_way_is_not_forgotten() -> None:
    table = producers.ProducerTable(LaterStorage(), limit=2)
    partition = Partition(KEY, 0)
    ended: list[int] = []

    def publish(producer: int) -> tuple[bool, Appended]:
        batch = batches.parse(sent(b"x", first=1, producer=producer))
        retry = table.is_retry(partition, batch, lambda offset, _: ended.append(offset))
        return retry, ended.append if retry else table.admit(partition, batch, lambda offset, _: None)  # type: ignore[return-value]

    first = publish(1)[1]
    for producer in (2, 3, 4, 5):
        publish(producer)[1](producer, None)
    assert publish(1)[0]
    assert not ended
    first(70, None)
    assert ended == [70]
    publish(6)[1](6, None)
    publish(7)[1](7, None)
    assert len(table) == 2


def test_a_failure_does_not_take_back_what_was_given_up_since() -> None:
    desk, storage, client = late()
    storage.failing = {b"1"}
    client.publish(sent(b"1", first=1))
    desk.settle()
    client.connection.send_control(Opcode.OPEN, control.Open("a", producer=ID, sequence=5), 77, 1)
    desk.settle()
    storage.finish_all()
    desk.settle()
    client.publish(sent(b"5", first=5))
    desk.settle()
    storage.finish_all()
    desk.settle()
    assert client.acked() == [0]


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────────────────────────


class Sent:
    """One batch of the model's producer."""

    def __init__(self, payloads: list[bytes], first: int) -> None:
        self.payloads = payloads
        self.data = sent(*payloads, first=first)
        self.first = first
        self.done = False


class Machine(RuleBasedStateMachine):
    """A well-behaved producer, connections that it leaves behind, a late storage that fails, brokers that crash.

    The producer never has more than `KEPT_BATCHES` unacknowledged, and sends those again in order; everything else is
    arbitrary: what is stored when, which answers are seen, what arrives late over an old connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = MemoryStorage()
        self.number = 0
        self.acked: list[Sent] = []
        self.open: list[Sent] = []  # not acknowledged, oldest first
        self.unseen: list[tuple[Client, int, Sent]] = []

    @initialize(first=st.sampled_from((1, 1000, LAST_NUMBER - 3)))
    def begin(self, first: int) -> None:
        self.next = first
        self.start_broker()

    def start_broker(self) -> None:
        self.storage = LaterProducers(self.inner)
        self.desk = Desk(storage=self.storage)
        self.unseen = []
        self.connect()

    def connect(self) -> None:
        self.client = self.desk.client()
        self.client.open("a")

    def publish(self, client: Client, batch: Sent) -> None:
        self.unseen.append((client, client.publish(batch.data), batch))

    def look(self) -> None:
        """Sees what the broker answered."""
        self.desk.settle()
        for client in {id(client): client for client, _, _ in self.unseen}.values():
            mine = [(number, batch) for who, number, batch in self.unseen if who is client]
            refused = dict(client.errors())
            answered = [pair for pair in mine if pair[0] in refused]
            waiting = [pair for pair in mine if pair[0] not in refused]
            log = stored(self.inner)
            for last, offsets in client.acks():
                assert waiting[len(offsets) - 1][0] == last
                for (_, batch), offset in zip(waiting, offsets, strict=False):
                    self.confirm(batch, offset, log)
                answered += waiting[: len(offsets)]
                waiting = waiting[len(offsets) :]
            for number, batch in answered:
                if number in refused:
                    assert refused[number].code in {"storage-full", "out-of-sequence"}
                self.unseen.remove((client, number, batch))

    def confirm(self, batch: Sent, offset: int, log: list[bytes]) -> None:
        if offset == control.UNKNOWN_OFFSET:
            assert batch.payloads[0] in log
        else:
            assert log[offset : offset + len(batch.payloads)] == batch.payloads
        if batch in self.open:
            self.open.remove(batch)
            self.acked.append(batch)

    @precondition(lambda self: len(self.open) < sequences.KEPT_BATCHES)
    @rule(count=st.sampled_from((1, 1, 1, 2, 3, 7)))
    def publish_new(self, count: int) -> None:
        payloads = [b"%d." % (self.number + each) for each in range(count)]
        self.number += count
        batch = Sent(payloads, self.next)
        self.next = sequences.following(sequences.last_of(self.next, count))
        self.open.append(batch)
        self.publish(self.client, batch)

    @rule(hang_up=st.booleans())
    def reconnect(self, hang_up: bool) -> None:
        """What is unacknowledged is sent again; answers on the old connection are never seen."""
        self.desk.settle()
        if hang_up:
            self.client.hang_up()
        self.unseen = [entry for entry in self.unseen if entry[0] is not self.client]
        self.connect()
        for batch in self.open:
            self.publish(self.client, batch)

    @precondition(lambda self: self.acked)
    @rule(back=st.integers(1, sequences.KEPT_BATCHES))
    def an_old_frame_arrives_late(self, back: int) -> None:
        other = self.desk.client()
        other.open("a")
        other.publish(self.acked[-min(back, len(self.acked))].data)
        self.desk.settle()
        other.hang_up()

    @rule(count=st.integers(1, 5))
    def store(self, count: int) -> None:
        self.desk.settle()
        self.storage.finish(KEY, count)

    @rule()
    def fail(self) -> None:
        """The storage has no room for what it was given and did not store."""
        self.desk.settle()
        self.storage.failing = {b"."}
        self.storage.finish_all()
        self.storage.failing = set()

    @rule()
    def see(self) -> None:
        self.look()

    @rule()
    def crash(self) -> None:
        """What was not stored is gone."""
        self.desk.settle()
        self.start_broker()
        for batch in self.open:
            self.publish(self.client, batch)

    @rule()
    def finish(self) -> None:
        """Sent again and left alone, everything is stored and acknowledged."""
        self.reconnect(hang_up=True)
        for _ in range(3):
            self.desk.settle()
            self.storage.finish_all()
        self.look()
        assert not self.open
        assert stored(self.inner) == [payload for batch in self.acked for payload in batch.payloads]

    @invariant()
    def each_is_stored_once_and_in_order(self) -> None:
        if self.number:
            log = [int(payload[:-1]) for payload in stored(self.inner)]
            assert log == sorted(set(log))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_machine_runs_over_a_storage_with_a_table() -> None:
    assert isinstance(LaterProducers(), Producers)
    assert not isinstance(LaterStorage(), Producers)
