"""What reaches a subscriber: every record once, in order, for as much credit as it gave, while it lives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.messages import Message
from portask.reference.storage import MemoryStorage
from portask.wire import batches
from portask.wire.frames import HELLO_LIMIT, Opcode
from tests.core.talking import LOTS, SECOND, START, Client, Desk, batch_of


def pair() -> tuple[Desk, Client, Client]:
    """A desk, a publisher with channel 1 open, and a reader."""
    desk = Desk()
    publisher, reader = desk.client(), desk.client()
    publisher.open("a")
    return desk, publisher, reader


# What may happen between two turns: publishes of so many records, credit for so many messages.
STEPS = st.lists(
    st.tuples(st.just("publish"), st.integers(1, 4))
    | st.tuples(st.just("credit"), st.integers(0, 6))
    | st.tuples(st.just("turn"), st.just(0)),
    max_size=40,
)


@given(STEPS, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_credit_is_never_exceeded_by_more_than_a_batch_and_nothing_is_lost(
    steps: list[tuple[str, int]], first: int
) -> None:
    desk, publisher, reader = pair()
    reader.subscribe("a", messages=first)
    allowed, bases, published = first, [], 0
    got: list[int] = []

    def look() -> None:
        desk.settle()
        for frame in reader.take(Opcode.DELIVER):
            for batch in batches.split(frame.body):
                assert len(got) < allowed, "a batch was delivered without any credit left"
                got.extend(range(batch.base_offset, batch.base_offset + batch.count))
        assert len(got) >= min(published, allowed), "there is credit, there are records, and nothing comes"

    for kind, number in steps:
        if kind == "publish":
            # with a producer id, so that it stays a batch of its own: credit counts batches whole
            publisher.publish(batch_of(*(b"x" for _ in range(number)), producer=1))
            bases.append(published)
            published += number
        elif kind == "credit":
            reader.credit(number)
            allowed += number
        else:
            look()
    look()
    reader.credit(LOTS)
    allowed = LOTS
    look()
    assert got == list(range(published))
    assert publisher.acked() == bases


def test_credit_in_bytes_counts_too() -> None:
    desk, publisher, reader = pair()
    size = len(batch_of(bytes(1000), producer=1).data)
    reader.subscribe("a", size=size + 1)
    for _ in range(5):
        publisher.publish(batch_of(bytes(1000), producer=1))
        desk.settle()
    assert [offset for offset, _ in reader.delivered()] == [0, 1], (
        "one byte of credit is left after the first"
    )
    reader.credit(0, size - 1)
    desk.settle()
    assert not reader.delivered(), "the second took more than there was: that has to be paid back first"
    reader.credit(0, 1)
    desk.settle()
    assert [offset for offset, _ in reader.delivered()] == [2]


def test_one_turn_delivers_and_acknowledges_deliveries_first() -> None:
    desk, publisher, _ = pair()
    readers = [desk.client() for _ in range(3)]
    for reader in readers:
        reader.subscribe("a")
    desk.settle()
    data = bytes(batch_of(b"one", b"two").data)
    publisher.publish(data)
    publisher.sends()
    desk.now += 1000
    departures = desk.broker.turn(desk.now)
    assert departures == [*(reader.session for reader in readers), publisher.session], (
        "somebody waits for them"
    )
    for client in (*readers, publisher):
        client.reads()
    assert publisher.acked() == [0]
    for reader in readers:
        (frame,) = reader.take(Opcode.DELIVER)
        assert bytes(frame.body[16:]) == data[16:], "the very bytes that came"
        assert batches.peek(frame.body)[:2] == (0, desk.now), "behind a new stamp"


def test_a_reader_that_lags_reads_few_large_batches() -> None:
    desk, publisher, reader = pair()
    for number in range(500):
        publisher.publish(batch_of(b"%d" % number))
        desk.turn(10)
    reader.subscribe("a")
    desk.settle()
    assert len([frame for frame in reader.arrived if frame.opcode == Opcode.DELIVER]) < 5
    assert reader.payloads() == [b"%d" % number for number in range(500)]


def test_a_congested_reader_gets_nothing_until_it_has_room() -> None:
    desk, publisher, reader = pair()
    reader.subscribe("a")
    desk.settle()
    reader.session.congested = True
    for _ in range(3):
        publisher.publish(batch_of(b"x"))
        desk.settle()
    assert not reader.delivered()
    assert publisher.acked() == [0, 1, 2], "the publisher does not wait for a slow reader"
    desk.broker.uncongested(reader.session)
    desk.settle()
    assert [offset for offset, _ in reader.delivered()] == [0, 1, 2]


def test_a_full_storage_refuses_publishes_and_serves_readers() -> None:
    desk = Desk(storage=MemoryStorage(max_bytes=2000))
    publisher, reader = desk.client(), desk.client()
    publisher.open("a")
    sent = [publisher.publish(batch_of(bytes(300), producer=1)) for _ in range(10)]
    desk.settle()
    stored = publisher.acked()
    assert 2 < len(stored) < 10
    assert publisher.codes() == [(number, "storage-full") for number in sent[len(stored) :]]
    reader.subscribe("a")
    desk.settle()
    assert [offset for offset, _ in reader.delivered()] == stored


def test_acks_of_a_turn_are_one_frame_a_channel() -> None:
    desk, publisher, _ = pair()
    publisher.open("b", channel=2)
    sent = [publisher.publish(batch_of(b"x", b"y")) for _ in range(3)]
    other = publisher.publish(batch_of(b"x"), channel=2)
    desk.turn()
    assert publisher.acks() == [(sent[-1], [0, 2, 4]), (other, [0])]


def test_one_bad_publish_among_good_ones_gets_the_only_error() -> None:
    desk, publisher, reader = pair()
    reader.subscribe("a")
    good = batch_of(b"good")
    sent = [publisher.publish(good)]
    bad = publisher.publish(bytes(good.data)[:-1] + b"!")
    sent.append(publisher.publish(good))
    unopened = publisher.publish(good, channel=9)
    desk.settle()
    answers = [frame.opcode for frame in publisher.arrived]
    assert answers == [Opcode.PUBACK, Opcode.ERROR, Opcode.PUBACK, Opcode.ERROR], "answers are in order"
    assert publisher.acks() == [(sent[0], [0]), (sent[1], [1])]
    assert publisher.codes() == [(bad, "batch-corrupt"), (unopened, "remote-protocol")]
    assert reader.payloads() == [b"good", b"good"]


# ── TTL ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_records_past_their_ttl_are_not_delivered() -> None:
    desk, publisher, reader = pair()
    publisher.publish(batch_of(b"short", ttl=100))
    publisher.publish(batch_of(b"stays"))
    publisher.publish(batch_of(b"long", ttl=5000))
    publisher.publish(batch_of(b"short too", ttl=100))
    desk.settle()
    desk.now += 90_000
    early = desk.client()
    early.subscribe("a")
    desk.settle(0)
    assert early.payloads() == [b"short", b"stays", b"long", b"short too"]
    desk.now += SECOND
    reader.subscribe("a")
    desk.settle()
    assert reader.payloads() == [b"stays", b"long"]
    desk.now += 5 * SECOND
    late = desk.client()
    late.subscribe("a")
    desk.settle()
    assert late.payloads() == [b"stays"]
    publisher.publish(batch_of(b"after"))
    desk.settle()
    for one in (reader, late):
        assert [offset for offset, _ in one.delivered()] == [4]


def test_expired_records_cost_no_credit() -> None:
    desk, publisher, reader = pair()
    for _ in range(10):
        publisher.publish(batch_of(b"expired", ttl=1, producer=1))
    publisher.publish(batch_of(b"alive"))
    desk.settle()
    desk.now += SECOND
    reader.subscribe("a", messages=1)
    desk.settle()
    assert reader.payloads() == [b"alive"]


def test_fetch_passes_over_expired_records() -> None:
    desk, publisher, reader = pair()
    publisher.publish(batch_of(b"expired", ttl=1))
    publisher.publish(batch_of(b"alive"))
    desk.settle()
    desk.now += SECOND
    reader.fetch("a")
    desk.settle()
    assert reader.payloads() == [b"alive"]


def test_fetch_reads_on_until_it_finds_something_alive() -> None:
    """An empty answer means that nothing is there yet, so it must not be given before the end."""
    desk, publisher, reader = pair()
    for _ in range(3000):
        publisher.publish(batch_of(b"expired", ttl=1, producer=1))
    desk.settle()
    publisher.publish(batch_of(b"alive"))
    desk.settle(SECOND)
    reader.fetch("a", size=1)
    desk.settle()
    assert reader.delivered() == [(3000, Message(b"alive", timestamp=START))]
    desk.storage.trim(desk.broker.topics["a"].partitions[0].key, before=3000)
    publisher.publish(batch_of(b"expired", ttl=1))
    desk.settle()
    desk.settle(SECOND)
    reader.fetch("a", start=3001)
    desk.settle()
    (frame,) = reader.take(Opcode.DELIVER)
    assert not len(frame.body), "the end"


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_that_takes_small_frames_gets_small_frames() -> None:
    desk, publisher, _ = pair()
    small = desk.client(max_frame=HELLO_LIMIT)
    for number in range(40):
        publisher.publish(batch_of(bytes((number,)) * 3000, producer=1))
    desk.settle()
    small.subscribe("a")
    desk.settle()
    frames = [len(frame.body) for frame in small.arrived if frame.opcode == Opcode.DELIVER]
    assert max(frames) <= HELLO_LIMIT
    assert [payload[0] for payload in small.payloads()] == list(range(40))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_batch_above_the_readers_limit_ends_that_connection_with_a_reason(fresh: bool) -> None:
    desk, publisher, reader = pair()
    small = desk.client(max_frame=HELLO_LIMIT)
    if fresh:
        small.subscribe("a")
        desk.settle()
    publisher.publish(batch_of(bytes(10_000), b"x"))
    desk.settle()
    if not fresh:
        small.subscribe("a")
    reader.subscribe("a")
    desk.settle()
    ((number, error),) = small.errors()
    assert number == 0
    assert "max_frame" in error.message
    assert small.hung_up
    assert len(reader.payloads()) == 2, "others are served"


def test_a_closed_reader_that_stays_on_the_line_costs_no_turns() -> None:
    """Its output cannot be written yet, so the server keeps it: the broker must not spin on it meanwhile."""
    desk, publisher, _ = pair()
    small = desk.client(max_frame=HELLO_LIMIT)
    small.deaf = True
    small.subscribe("a")
    publisher.publish(batch_of(bytes(10_000), b"x"))
    desk.settle()
    publisher.publish(batch_of(b"y"))
    desk.settle()
    assert small.session.closing
    assert not desk.broker.delivery.behind


def test_fetch_gives_what_fits_and_says_when_nothing_does() -> None:
    desk, publisher, _ = pair()
    small = desk.client(max_frame=HELLO_LIMIT)
    for _ in range(4):
        publisher.publish(batch_of(bytes(3000), producer=1))
    publisher.publish(batch_of(bytes(10_000), producer=1))
    desk.settle()
    small.fetch("a")
    desk.settle()
    assert [offset for offset, _ in small.delivered()] == [0, 1]
    number = small.fetch("a", start=4)
    desk.settle()
    ((answered, error),) = small.errors()
    assert answered == number
    assert "max_frame" in error.message
    assert not small.hung_up


@pytest.mark.parametrize(("start", "expected"), [(-2, 0), (0, 0), (3, 2), (-1, None), (6, None)])
def test_fetch_reads_from_where_it_is_told(start: int, expected: int | None) -> None:
    desk, publisher, reader = pair()
    for _ in range(3):
        publisher.publish(batch_of(b"x", b"y"))
    desk.settle()
    reader.fetch("a", start=start)
    desk.settle()
    (frame,) = reader.take(Opcode.DELIVER)
    found = batches.split(frame.body)
    assert [batch.base_offset for batch in found][:1] == ([] if expected is None else [expected])


def test_fetch_from_a_time_or_an_offset_that_is_not_there() -> None:
    desk, publisher, reader = pair()
    for _ in range(3):
        publisher.publish(batch_of(b"x", b"y"))
        desk.settle(2 * SECOND)
    reader.fetch("a", time=desk.now - 3 * SECOND)
    desk.settle()
    assert [offset for offset, _ in reader.delivered()] == [2, 3, 4, 5]
    outside = reader.fetch("a", start=7)
    unknown = reader.fetch("nowhere")
    desk.settle()
    (first, error), (second, other) = reader.errors()
    assert (first, error.code, error.first, error.next) == (outside, "offset-out-of-range", 0, 6)
    assert (second, other.code) == (unknown, "unknown-topic")
