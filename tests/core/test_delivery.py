"""Who gets what: credit, congestion, filters, TTL, times; by turns, with a clock that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from portask.contracts import LATEST
from portask.core.retention import Retention
from portask.wire import control
from portask.wire.frames import Opcode
from tests.core.harness import NOW, SECOND, Harness, LateStorage, Peer, batch


@pytest.fixture
def harness() -> Harness:
    return Harness()


def texts(peer: Peer) -> list[bytes]:
    return [payload for _, payload in peer.got]


def test_one_turn_delivers_and_acknowledges(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe()
    correlation = publisher.publish(batch(b"a", b"b"))
    harness.turn()
    assert publisher.acked == [(correlation, 0)]
    assert subscriber.got == [(0, b"a"), (1, b"b")]


def test_a_delivery_departs_before_the_ack_of_what_it_delivers(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe()
    harness.turn()
    publisher.publish(batch(b"x"))
    harness.turn()
    assert harness.departures == [subscriber.session, publisher.session]


def test_every_subscriber_gets_everything_and_the_same_bytes(harness: Harness) -> None:
    publisher = harness.connect()
    subscribers = [harness.connect() for _ in range(3)]
    publisher.open()
    for subscriber in subscribers:
        subscriber.subscribe()
    for number in range(5):
        publisher.publish(batch(b"%d" % number))
        harness.turn()
    assert all(texts(subscriber) == [b"0", b"1", b"2", b"3", b"4"] for subscriber in subscribers)


def test_a_lagging_subscriber_reads_few_large_batches(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    for number in range(500):
        publisher.publish(batch(b"%d" % number))
        harness.turn(10)
    subscriber.subscribe()
    harness.turn()
    assert texts(subscriber) == [b"%d" % number for number in range(500)]
    assert len(subscriber.delivered) < 5


@pytest.mark.parametrize(
    ("start", "due"), [(-2, [b"0", b"1", b"2", b"3"]), (-1, [b"3"]), (2, [b"2", b"3"]), (3, [b"3"])]
)
def test_where_a_subscription_begins(harness: Harness, start: int, due: list[bytes]) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    for number in range(3):
        publisher.publish(batch(b"%d" % number, producer=1))
    harness.turn()
    subscriber.subscribe(start=start)
    harness.turn()
    publisher.publish(batch(b"3"))
    harness.turn()
    assert texts(subscriber) == due


def test_a_start_that_is_not_there_names_what_is(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    publisher.publish(batch(b"x"))
    harness.turn()
    subscriber.subscribe(start=5)
    harness.turn()
    ((_, error),) = subscriber.errors
    assert (error.code, error.first, error.next) == ("offset-out-of-range", 0, 1)
    assert not subscriber.session.subscriptions


def test_a_time_is_never_late(harness: Harness) -> None:
    publisher = harness.connect()
    publisher.open()
    for number in range(30):
        publisher.publish(batch(b"%d" % number))
        harness.turn(200_000)
    times = {number: NOW + 200_000 * (number + 1) for number in range(30)}
    for number in (0, 7, 29):
        subscriber = harness.connect()
        subscriber.subscribe(time=times[number])
        harness.turn()
        first = subscriber.got[0][0]
        assert first <= number
        assert times[number] - times[first] <= SECOND
    late = harness.connect()
    late.subscribe(time=times[29] + 2 * SECOND)
    harness.turn()
    assert late.got == []


def test_filters_include_topics_that_come_later(harness: Harness) -> None:
    publisher, subscriber, other = harness.connect(), harness.connect(), harness.connect()
    subscriber.subscribe("orders.*")
    other.subscribe("orders.>", channel=8)
    harness.turn()
    publisher.open("orders.eu", partitions=3, channel=1)
    publisher.open("orders.eu.created", channel=2)
    publisher.open("bills.eu", channel=3)
    for channel in (1, 2, 3):
        publisher.publish(batch(b"%d" % channel), channel)
    harness.turn()
    assert texts(subscriber) == [b"1"]
    assert sorted(texts(other)) == [b"1", b"2"]


def test_what_expired_is_skipped_and_the_rest_arrives(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    for number, ttl in enumerate([0, 100, 0, 100, 5000]):
        publisher.publish(batch(b"%d" % number, ttl=ttl))
    harness.turn()
    subscriber.subscribe(messages=0, size=0)
    harness.turn(200_000)
    subscriber.credit(100, 100_000)
    harness.turn()
    assert texts(subscriber) == [b"0", b"2", b"4"]
    publisher.publish(batch(b"5", ttl=100))
    harness.turn()
    assert texts(subscriber)[-1] == b"5"


def test_nothing_is_sent_to_a_congested_connection(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe()
    harness.turn()
    subscriber.session.congested = True
    for number in range(5):
        publisher.publish(batch(b"%d" % number))
        harness.turn()
    assert subscriber.got == []
    harness.broker.uncongested(subscriber.session)
    harness.turn()
    assert texts(subscriber) == [b"0", b"1", b"2", b"3", b"4"]


def test_unsubscribing_ends_it(harness: Harness) -> None:
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe()
    publisher.publish(batch(b"1"))
    harness.turn()
    subscriber.send(Opcode.UNSUBSCRIBE, b"", subscriber.next(), 7)
    publisher.publish(batch(b"2"))
    harness.turn()
    publisher.publish(batch(b"3"))
    harness.turn()
    assert b"3" not in texts(subscriber)
    assert not harness.broker.topics["t"].partitions[0].cursors
    subscriber.subscribe(start=LATEST)
    harness.turn()
    publisher.publish(batch(b"4"))
    harness.turn()
    assert texts(subscriber)[-1] == b"4"


def test_retention_moves_a_cursor_that_it_overtakes() -> None:
    harness = Harness(retention={"": Retention(count=10)})
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe(messages=0, size=0)
    for number in range(50):
        publisher.publish(batch(b"%d" % number, producer=1))
        harness.turn()
    harness.turn(2 * SECOND)
    subscriber.frames.clear()
    subscriber.credit(1000, 1_000_000)
    harness.turn()
    assert texts(subscriber) == [b"%d" % number for number in range(40, 50)]
    told = [
        control.decode(f.body, control.Assigned) for f in subscriber.frames if f.opcode == Opcode.SUBSCRIBE
    ]
    assert [each.offset for each in told] == [40]


@pytest.mark.parametrize(
    ("policy", "first"),
    [(Retention(count=10), 40), (Retention(age=9 * SECOND), 42), (Retention(bytes=0), 49), (Retention(), 0)],
)
def test_retention_keeps_what_its_limits_say(policy: Retention, first: int) -> None:
    harness = Harness(retention={"t": policy})
    publisher = harness.connect()
    publisher.open()
    for number in range(50):
        publisher.publish(batch(b"%d" % number, producer=1))
        harness.turn(SECOND)
    publisher.publish(batch(b"last", producer=1))
    harness.turn(SECOND)
    found: list[int] = []
    harness.storage.lookup(
        harness.broker.topics["t"].partitions[0].key, -2, lambda offset, _: found.append(offset)
    )
    assert abs(found[0] - first) <= 2


def test_a_late_storage_acknowledges_in_order_and_loses_nothing() -> None:
    storage = LateStorage()
    harness = Harness(storage)
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe()
    harness.turn()
    storage.holding = True
    sent = [publisher.publish(batch(b"%d" % number)) for number in range(10)]
    harness.turn()
    assert publisher.acked == []
    assert subscriber.got == []
    storage.holding = False
    for _ in range(5):
        harness.turn()
    assert publisher.acked == list(zip(sent, range(10), strict=True))
    assert texts(subscriber) == [b"%d" % number for number in range(10)]


def test_a_subscriber_that_leaves_while_the_storage_reads() -> None:
    storage = LateStorage()
    harness = Harness(storage)
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    publisher.publish(batch(b"x"))
    harness.turn()
    harness.turn()
    subscriber.subscribe()
    harness.turn()
    storage.holding = True
    harness.turn()
    harness.broker.disconnect(subscriber.session)
    storage.holding = False
    harness.turn()
    fresh = harness.connect()
    fresh.subscribe()
    for _ in range(4):
        harness.turn()
    assert texts(fresh) == [b"x"]


class CreditMachine(RuleBasedStateMachine):
    """Two subscribers with credit of their own: each gets the log's beginning, in order, no more than it may."""

    @initialize()
    def begin(self) -> None:
        self.harness = Harness()
        self.publisher = self.harness.connect()
        self.publisher.open()
        self.log: list[bytes] = []
        self.subscribers = [self.harness.connect(), self.harness.connect()]
        self.credit = [[0, 0], [0, 0]]
        self.largest = [0, 0]
        for subscriber in self.subscribers:
            subscriber.subscribe(messages=0, size=0)
        self.harness.turn()

    @rule(
        count=st.integers(1, 4),
        size=st.integers(0, 200),
        producer=st.sampled_from([0, 1]),
        turn=st.booleans(),
    )
    def publish(self, count: int, size: int, producer: int, turn: bool) -> None:
        new = [b"%d." % (len(self.log) + n) + bytes(size) for n in range(count)]
        self.publisher.publish(batch(*new, producer=producer))
        self.log += new
        if turn:
            self.harness.turn(100)

    @rule(who=st.integers(0, 1), messages=st.integers(0, 5), size=st.integers(0, 600))
    def give(self, who: int, messages: int, size: int) -> None:
        self.subscribers[who].credit(messages, size)
        self.credit[who][0] += messages
        self.credit[who][1] += size
        self.harness.turn(100)

    @rule(who=st.integers(0, 1), on=st.booleans())
    def congest(self, who: int, on: bool) -> None:
        session = self.subscribers[who].session
        if on:
            session.congested = True
        elif session.congested:
            self.harness.broker.uncongested(session)
            self.harness.turn(100)

    @invariant()
    def they_get_the_beginning_in_order_within_their_credit(self) -> None:
        for subscriber, (messages, size) in zip(self.subscribers, self.credit, strict=True):
            assert subscriber.got == list(enumerate(self.log[: len(subscriber.got)]))
            if subscriber.delivered:
                before = subscriber.delivered[:-1]  # the last one may take either below zero
                assert sum(each.count for each in before) < messages
                assert sum(len(each.data) for each in before) < size

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        for subscriber in self.subscribers:
            self.harness.broker.uncongested(subscriber.session)
            subscriber.credit(1 << 30, 1 << 40)
        self.harness.turn()
        for subscriber in self.subscribers:
            assert subscriber.got == list(enumerate(self.log))


CreditMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestCredit = CreditMachine.TestCase
