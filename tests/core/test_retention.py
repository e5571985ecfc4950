"""Records stay as long as they should, and no longer than a batch and a sweep more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from portask.contracts import COALESCE_WINDOW_US, EARLIEST, LATEST
from portask.core.broker import RETAIN, SWEEP, Options
from portask.core.retention import Retention
from portask.errors import PortaskError
from portask.messages import TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire.frames import Opcode
from tests.core.talking import SECOND, START, Desk, batch_of

KEY = TopicPartition("kept")


def ends(storage: MemoryStorage, key: TopicPartition = KEY) -> tuple[int, int]:
    found: list[int] = []

    def keep(offset: int, error: PortaskError | None) -> None:
        found.append(offset)

    storage.lookup(key, EARLIEST, keep)
    storage.lookup(key, LATEST, keep)
    return found[0], found[1]


APPENDS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([0, 1000, SECOND // 2, 3 * SECOND])), min_size=1, max_size=30
)


@given(APPENDS, st.integers(0, 40) | st.none(), st.integers(1, 20 * SECOND) | st.none())
@settings(max_examples=150, deadline=None)
def test_nothing_goes_too_early_and_hardly_anything_stays_too_long(
    appends: list[tuple[int, int]], count: int | None, age: int | None
) -> None:
    storage = MemoryStorage()
    now = START
    times: list[int] = []
    for number, (size, later) in enumerate(appends):
        now += later
        batch = batch_of(*(b"%d" % number for _ in range(size)))
        storage.append(KEY, batch, now, lambda offset, error: None)
        times += [now] * size
    now += SECOND
    Retention(count=count or None, age=age).apply(storage, KEY, now)
    first, following = ends(storage)
    assert following == len(times), "retention changed the next offset"
    asked = count or len(times)
    kept = range(first, following)
    gone = range(first)
    if count is None and age is None:
        assert first == 0
    for offset in gone:
        over_count = bool(count) and offset < following - asked
        over_age = age is not None and times[offset] < now - age
        assert over_count or over_age, f"offset {offset} was within every limit"
    # What is over a limit and stayed shares its batch with a record that is not, or with the newest.
    longest = 5 if all(later for _, later in appends) else len(times)
    if age is not None:
        old = [offset for offset in kept if times[offset] < now - age - COALESCE_WINDOW_US]
        assert len(old) <= longest
    if count:
        assert len(kept) <= asked + longest


def test_by_bytes_the_newest_stay() -> None:
    storage = MemoryStorage()
    for number in range(50):
        storage.append(KEY, batch_of(bytes(1000), b"%d" % number), START, lambda offset, error: None)
    Retention(bytes=20_000).apply(storage, KEY, START)
    first, following = ends(storage)
    assert following == 100
    assert 17 <= (following - first) // 2 <= 20
    assert storage.size(KEY) <= 20_000
    Retention(bytes=1).apply(storage, KEY, START)
    assert ends(storage) == (98, 100), "the newest batch always stays"


def test_an_age_beyond_the_epoch_forgets_nothing() -> None:
    """A time before all times is no name for the end of the log, as -1 would be."""
    storage = MemoryStorage()
    for _ in range(3):
        storage.append(KEY, batch_of(b"x", b"y"), START, lambda offset, error: None)
    for age in (START - 1, START, START + 1, START + 2, START + 3, 1 << 63):
        Retention(age=age).apply(storage, KEY, START)
    assert ends(storage) == (0, 6)


def test_the_broker_sweeps_with_the_policy_of_each_topic() -> None:
    desk = Desk(Options(retention={"": Retention(age=10 * SECOND), "long": Retention(age=1000 * SECOND)}))
    client = desk.client()
    client.open("short", 1)
    client.open("long", 2)
    for _ in range(5):
        for channel in (1, 2):
            client.publish(batch_of(b"x", b"y"), channel)
        desk.turn(3 * SECOND)
    client.hang_up()
    assert isinstance(desk.storage, MemoryStorage)
    desk.settle(100 * SECOND)
    assert ends(desk.storage, TopicPartition("short")) == (8, 10), "the newest batch stays"
    assert ends(desk.storage, TopicPartition("long")) == (0, 10)
    due = desk.broker.deadline()
    assert due is not None, "old records go although nobody is connected"
    assert desk.now < due <= desk.now + SWEEP


def test_a_reader_that_retention_overtook_goes_on_and_is_told_where() -> None:
    desk = Desk(Options(retention={"": Retention(count=4)}))
    publisher, reader = desk.client(), desk.client()
    publisher.open("a")
    reader.subscribe("a", messages=1)
    for number in range(20):
        publisher.publish(batch_of(b"%d" % number, producer=1))
        desk.settle()
    assert reader.payloads() == [b"0"]
    desk.settle(2 * SECOND)
    reader.assigned()
    reader.credit(100)
    desk.settle()
    (told,) = reader.assigned()
    got = reader.delivered()
    assert [offset for offset, _ in got] == list(range(told.offset, 20))
    assert len(got) in {4, 5}


def test_a_closed_reader_that_retention_overtook_is_no_harm() -> None:
    """It is closed and still on the line: nothing can be said to it any more."""
    desk = Desk(Options(retention={"": Retention(count=4)}))
    publisher, reader = desk.client(), desk.client()
    publisher.open("a")
    reader.subscribe("a", messages=0)
    for number in range(20):
        publisher.publish(batch_of(b"%d" % number, producer=1))
        desk.settle()
    desk.settle(2 * SECOND)
    reader.deaf = True
    reader.credit(100)
    reader.raw = b"garbage" * 10
    desk.settle()
    publisher.publish(batch_of(b"more"))
    desk.settle()
    assert reader.session.closing
    assert publisher.acked()[-1] == 20
    assert not publisher.take(Opcode.ERROR)


def test_a_fast_producer_is_trimmed_as_it_goes_and_not_a_second_s_worth_at_once() -> None:
    limit = 2 * RETAIN
    desk = Desk(Options(retention={"": Retention(bytes=limit)}))
    loud = desk.client()
    loud.open("a")
    size = RETAIN // 16
    most = 0
    for _ in range(100):
        loud.publish(batch_of(bytes(size), b""))
        desk.turn(0)
        most = max(most, desk.storage.size(TopicPartition("a")))  # type: ignore[attr-defined]
    assert limit < most <= limit + RETAIN + 2 * size
