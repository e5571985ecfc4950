"""Storages over a database: a transaction a turn, refused whole, and what is left of it after faults."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from portask.config.settings import Choice, MemorySettings, Settings
from portask.contracts import (
    EARLIEST,
    LATEST,
    Catalog,
    Closeable,
    Deferred,
    Durability,
    Gathering,
    GroupState,
    Producers,
    Storage,
)
from portask.errors import ConfigError, OffsetOutOfRange, StorageError, StorageFull
from portask.messages import TopicPartition
from portask.server.build import build
from portask.storage.metered import metered
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

from .databases import DATABASES, Faults, database
from .shims import batch, fill, payloads

OTHER = TopicPartition("other", 5)
PROTOCOLS = (Storage, Catalog, Closeable, Deferred, Gathering, GroupState, Producers)
Make = Callable[..., Any]


@pytest.fixture(params=DATABASES)
def variant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(variant: str, tmp_path: Path) -> Make:
    """Opens the storage in the test's folder."""
    return lambda mode="os", **options: database(variant, tmp_path / "log", mode, **options)


class Told:
    """Callbacks, and what they were told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, str]] = []

    def about(self, name: str) -> Callable[[int, Any], None]:
        return lambda base, error: self.heard.append((name, base, "" if error is None else str(error)))


def test_it_has_every_ability_also_when_it_is_metered(make: Make) -> None:
    storage = make("synced")
    assert storage.durability is Durability.SYNCED
    wrapped: Any = metered(storage)
    for protocol in PROTOCOLS:
        assert isinstance(storage, protocol), protocol
        assert isinstance(wrapped, protocol), protocol
    Driver(storage).append(batch(1))
    shown = wrapped.snapshot()
    assert shown["syncs"]["calls"] == 1
    assert shown["damaged_batches"] == 0
    storage.close()


def test_a_turn_is_one_transaction_whatever_it_brings(make: Make) -> None:
    storage = make()
    faults = Faults(storage)
    done: list[Any] = []
    for number in range(50):
        storage.append(KEY, batch(number), BASE, lambda *result: done.append(result))
        storage.append(OTHER, batch(number, 3), BASE, lambda *result: done.append(result))
    storage.save_group("g", KEY, b"1", done.append)
    storage.save_group("g", TopicPartition("never.published", 1), b"2", done.append)
    storage.drop_group("nobody")
    assert not done
    storage.commit()
    assert faults.works == [1]
    assert len(done) == 102
    assert len(Driver(storage).read(0)) == 1, "single records of a turn are stored as one batch"
    storage.commit()
    assert faults.works == [1], "nothing to do is no transaction"
    storage.close()


def test_turns_share_a_transaction_while_the_device_is_slow(make: Make) -> None:
    storage = make("synced")
    faults = Faults(storage)
    told = Told()
    faults.going.clear()
    for number in range(30):
        storage.append(KEY, batch(number), BASE, told.about("a"))
        storage.commit()
    assert not told.heard
    assert not list(storage.partitions()), "nobody sees what is not durable"
    faults.going.set()
    Driver(storage).flush()
    assert told.heard == [("a", number, "") for number in range(30)]
    assert sum(faults.works) == 30
    assert len(faults.works) <= 4
    storage.close()


@pytest.mark.parametrize("mode", ["os", "synced"])
def test_a_turn_without_room_is_refused_whole_and_the_next_gets_its_offsets(make: Make, mode: str) -> None:
    storage = make(mode)
    faults = Faults(storage)
    driver, told = Driver(storage), Told()
    acked = fill(storage, range(3))
    end = len(acked)
    faults.errors = [StorageFull("no room")]
    states: list[Any] = []
    storage.append(KEY, batch(1), BASE, told.about("a"))
    storage.append(OTHER, batch(1), BASE, told.about("b"))
    storage.save_group("g", KEY, b"lost", states.append)
    driver._pump(lambda: len(told.heard) == 2 and len(states) == 1)
    assert told.heard == [("a", -1, "no room"), ("b", -1, "no room")]
    assert str(states[0]) == "no room"
    assert list(storage.load_groups()) == []
    assert list(storage.partitions()) == [KEY]
    assert payloads(storage) == acked, "reading goes on"
    assert driver.append(batch(2)) == end
    assert driver.append(batch(2), key=OTHER) == 0
    storage.close()
    again = make(mode)
    assert len(payloads(again)) == end + 1
    assert len(payloads(again, OTHER)) == 1
    again.close()


def test_turns_behind_a_refused_one_are_refused_too_in_order_and_then_it_goes_on(make: Make) -> None:
    storage = make("synced")
    faults = Faults(storage)
    driver, told = Driver(storage), Told()
    faults.going.clear()
    faults.errors = [None, StorageFull("no room")]
    storage.append(KEY, batch(0), BASE, told.about("first"))
    storage.commit()
    while not storage._writer._queue.empty():
        pass  # the first transaction has begun: those that follow are another one
    for name in ("a", "b"):
        storage.append(KEY, batch(1, 2), BASE, told.about(name))
        storage.append(OTHER, batch(1, 2), BASE, told.about(name))
        storage.commit()
    storage.append(KEY, batch(1), BASE, told.about("c"))  # in no transaction yet when the refusal is heard
    faults.going.set()
    driver._pump(lambda: len(told.heard) == 6)
    refused = [("a", -1, "no room")] * 2 + [("b", -1, "no room")] * 2 + [("c", -1, "no room")]
    assert told.heard == [("first", 0, ""), *refused]
    assert driver.append(batch(2)) == 1
    assert driver.append(batch(2), key=OTHER) == 0
    assert sorted(payloads(storage)) == [0, 1]
    storage.close()


def test_a_turn_that_comes_between_a_refusal_and_its_being_heard_is_refused(make: Make) -> None:
    storage = make("synced")
    faults = Faults(storage)
    driver, told = Driver(storage), Told()
    faults.errors = [StorageFull("no room")]
    storage.append(KEY, batch(0), BASE, told.about("a"))
    storage.commit()
    over(storage)
    storage.append(KEY, batch(1), BASE, told.about("b"))
    storage.commit()  # its offset was given out before the refusal is heard, in this very call
    driver._pump(lambda: len(told.heard) == 2)
    assert told.heard == [("a", -1, "no room"), ("b", -1, "no room")]
    assert len(faults.works) == 1, "the second one is not even tried"
    assert driver.append(batch(2)) == 0
    storage.close()


def test_a_refusal_that_a_trim_hears_of_refuses_what_waits_in_the_turn(make: Make) -> None:
    storage = make("synced")
    driver, told = Driver(storage), Told()
    acked = fill(storage, range(9))
    faults = Faults(storage)
    faults.errors = [StorageFull("no room")]
    storage.append(KEY, batch(1), BASE, told.about("a"))
    storage.commit()
    over(storage)
    storage.append(KEY, batch(1), BASE, told.about("b"))
    storage.trim(KEY, before=9)
    driver._pump(lambda: len(told.heard) == 2)
    assert told.heard == [("a", -1, "no room"), ("b", -1, "no room")]
    assert driver.append(batch(1)) == len(acked)
    storage.close()


def over(storage: Any) -> None:
    """Waits until the transaction that was begun is over; the storage has not heard of it."""
    deadline = time.monotonic() + 10
    while not storage._writer.done:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_sync_that_fails_ends_publishing_and_not_reading(make: Make) -> None:
    storage = make("synced")
    faults = Faults(storage)
    driver = Driver(storage)
    acked = fill(storage, range(5))
    faults.errors = [StorageError("Input/output error")]
    for _ in range(3):
        with pytest.raises(StorageError, match="acknowledges nothing more"):
            driver.append(batch(1))
    states: list[Any] = []
    storage.save_group("g", KEY, b"", states.append)
    assert "acknowledges nothing more" in str(states[0])
    with pytest.raises(StorageError, match="acknowledges nothing more"):
        driver.flush()
    assert payloads(storage) == acked
    storage.close()
    again = make("synced")
    assert payloads(again) == acked
    again.close()


def test_a_write_that_fails_is_refused_and_the_next_one_tried(make: Make) -> None:
    storage = make("os")
    faults = Faults(storage)
    faults.errors = [StorageError("Input/output error"), ZeroDivisionError("ours")]
    driver = Driver(storage)
    with pytest.raises(StorageError, match="Input/output error"):
        driver.append(batch(1))
    with pytest.raises(StorageError, match="a fault of ours"):
        driver.append(batch(1))
    assert driver.append(batch(1)) == 0
    storage.close()


def test_dropping_a_group_outlives_a_refused_transaction(make: Make) -> None:
    storage = make()
    faults = Faults(storage)
    done: list[Any] = []
    for group in ("a", "ab", "b"):
        storage.save_group(group, KEY, group.encode(), done.append)
    storage.commit()
    faults.errors = [StorageFull("no room")]
    storage.drop_group("a")
    storage.save_group("b", KEY, b"newer", done.append)
    storage.commit()
    assert str(done.pop()) == "no room"
    left = {("ab", KEY, b"ab"), ("b", KEY, b"b")}
    assert set(storage.load_groups()) == left
    storage.commit()
    storage.close()
    again = make()
    assert set(again.load_groups()) == left
    again.close()


def test_a_save_and_a_drop_of_one_turn_happen_in_their_order(make: Make) -> None:
    storage = make()
    done: list[Any] = []
    storage.save_group("g", KEY, b"old", done.append)
    storage.drop_group("g")
    storage.save_group("g", OTHER, b"new", done.append)
    storage.commit()
    assert done == [None, None]
    assert set(storage.load_groups()) == {("g", OTHER, b"new")}
    storage.close()
    again = make()
    assert set(again.load_groups()) == {("g", OTHER, b"new")}
    again.close()


def test_a_group_with_too_long_a_name_is_refused(make: Make) -> None:
    storage = make()
    done: list[Any] = []
    storage.save_group("ü" * 200, KEY, b"", done.append)
    storage.save_group("ü" * 201, KEY, b"", done.append)
    storage.commit()
    assert "400 bytes are the most" in str(done[0])
    assert done[1] is None
    storage.close()


@pytest.mark.parametrize("topic", ["a.b", "..", "", "%41", "A/b\\c", "ü" * 400, "nul\0nul"])
def test_any_topic_name_comes_back(make: Make, topic: str) -> None:
    key = TopicPartition(topic, 3)
    storage = make()
    Driver(storage).append(batch_of(b"here"), key=key)
    storage.close()
    again = make()
    assert list(again.partitions()) == [key]
    assert payloads(again, key) == {0: b"here"}
    again.close()


def test_a_partition_whose_first_append_was_refused_lends_its_number_to_nobody(make: Make) -> None:
    storage = make()
    faults = Faults(storage)
    faults.errors = [None, StorageFull("no room")]
    driver = Driver(storage)
    driver.append(batch_of(b"one"))
    with pytest.raises(StorageFull):
        driver.append(batch_of(b"refused"), key=OTHER)
    third, fourth = TopicPartition("third"), TopicPartition("fourth")
    driver.append(batch_of(b"three"), key=third)
    storage.close()
    again = make()
    Driver(again).append(batch_of(b"four"), key=fourth)
    found = {key: payloads(again, key) for key in again.partitions()}
    assert found == {KEY: {0: b"one"}, third: {0: b"three"}, fourth: {0: b"four"}}
    again.close()


def test_a_trim_that_cannot_be_stored_is_tried_again_by_the_next(make: Make) -> None:
    storage = make()
    faults = Faults(storage)
    acked = fill(storage, range(60))
    whole = storage.size(KEY)
    faults.errors = [StorageFull("no room")]
    storage.trim(KEY, before=50)
    first = Driver(storage).lookup(EARLIEST)
    assert 0 < first <= 50
    with pytest.raises(OffsetOutOfRange):
        Driver(storage).read(first - 1)
    storage.close()
    again = make()
    assert payloads(again) == acked, "not stored, so a restart brings it back"
    assert again.size(KEY) == whole
    faults = Faults(again)
    faults.errors = [StorageFull("no room")]
    again.trim(KEY, before=50)
    size = again.size(KEY)
    again.trim(KEY, before=0)
    again.close()
    last = make()
    assert payloads(last) == {at: payload for at, payload in acked.items() if at >= first}
    assert last.size(KEY) == size
    last.close()


def test_producers_go_with_their_records(make: Make) -> None:
    storage = make()
    driver = Driver(storage)
    for number in range(40):
        driver.append(batch_of(b"%d" % number, producer=1 + number // 20, sequence=1 + number))
    assert storage.producers(KEY) == {1: (0, 20, 19), 2: (0, 40, 39)}
    storage.trim(KEY, before=25)
    assert storage.producers(KEY) == {2: (0, 40, 39)}
    storage.close()
    again = make()
    assert again.producers(KEY) == {2: (0, 40, 39)}
    again.close()


def test_a_trim_looks_at_any_number_of_batches(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portask_variants.storage.transactional._WALK", 7)
    storage = make()
    acked = fill(storage, range(100))
    storage.trim(KEY, before=150)
    first = Driver(storage).lookup(EARLIEST)
    assert 148 <= first <= 150
    storage.trim(KEY, max_bytes=0)
    newest = Driver(storage).lookup(EARLIEST)
    assert payloads(storage) == {at: payload for at, payload in acked.items() if at >= newest}
    assert newest == len(acked) - 1
    assert storage.size(KEY) == sum(map(len, Driver(storage).read(newest)))
    storage.close()


def test_of_a_turn_of_several_batches_a_trim_leaves_the_last(make: Make) -> None:
    storage = make()
    driver = Driver(storage)
    driver.append_all([batch_of(b"%d" % number, b"x") for number in range(8)])
    storage.trim(KEY, before=100)
    assert driver.lookup(EARLIEST) == 14
    assert sorted(payloads(storage)) == [14, 15]
    storage.close()


def test_what_a_killed_writer_left_is_synced_before_synced_readers_see_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make("os")
    kind = type(storage._database)
    order: list[str] = []
    storage.close()

    def noted(name: str) -> Callable[[Any], Any]:
        real = getattr(kind, name)

        def call(database: Any) -> Any:
            order.append(name)
            return real(database)

        return call

    for name in ("sync", "partitions"):
        monkeypatch.setattr(kind, name, noted(name))
    for mode, wanted in (("os", ["partitions"]), ("synced", ["sync", "partitions"])):
        order.clear()
        again = make(mode)
        assert order == wanted
        again.close()


def test_damaged_batches_are_left_out_and_reported(
    make: Make, logged: list[Any], tmp_path: Path, variant: str
) -> None:
    storage = make(coalesce_bytes=0)
    driver = Driver(storage)
    for number in range(40):
        driver.append(batch_of(b"[%04d]" % number, b"x"))
    storage.close()
    spoil(tmp_path / "log", *(b"[%04d]" % number for number in (0, 11, 12, 13, 39)))
    again = make(coalesce_bytes=0)
    found = payloads(again)
    wanted = [at for at in range(80) if at // 2 not in {0, 11, 12, 13, 39}]
    assert sorted(found) == wanted
    assert {entry["first"] for entry in logged if "damaged" in entry["event"]} == {0, 22, 24, 26, 78}
    with pytest.raises(OffsetOutOfRange, match=r"offsets 78 to 79 .* are damaged: go on at 80") as caught:
        Driver(again).read(78)
    assert caught.value.first == 80
    assert Driver(again).append(batch(1)) == 80
    assert again.counters["damaged_batches"] > 0
    again.close()


def spoil(folder: Path, *marks: bytes) -> None:
    """Changes a byte behind each of these, wherever it is in the folder's files."""
    found = 0
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        before = bytes(data)
        for mark in marks:
            at = data.find(mark)
            while at >= 0:
                data[at + 1] ^= 0x55
                found += 1
                at = data.find(mark, at + 1)
        if data != before:
            path.write_bytes(data)
    assert found >= len(marks)


def test_a_lookup_finds_times_in_a_long_log(make: Make) -> None:
    storage = make()
    driver = Driver(storage)
    for number in range(200):
        driver.append(batch_of(*[b"x"] * (1 + number % 3)), BASE + number * 1000)
    base = 0
    for number in range(200):
        assert driver.lookup(BASE + number * 1000) == base
        assert driver.lookup(BASE + number * 1000 - 999) == base
        base += 1 + number % 3
    assert driver.lookup(BASE + 199_001) == driver.lookup(LATEST) == base
    storage.trim(KEY, before=100)
    assert driver.lookup(BASE) == driver.lookup(EARLIEST)
    storage.close()


def test_a_callback_that_raises_costs_no_other_and_one_may_append(make: Make) -> None:
    storage = make()
    done: list[int] = []

    def again(base: int, error: Any) -> None:
        done.append(base)
        if base == 2:
            raise ZeroDivisionError
        if base < 5:
            storage.append(KEY, batch(base), BASE, again)

    storage.append(KEY, batch(0), BASE, again)
    for _ in range(2):
        storage.commit()
    with pytest.raises(ZeroDivisionError):
        storage.commit()
    storage.append(KEY, batch(0), BASE, again)
    for _ in range(4):
        storage.poll()
    assert done == [0, 1, 2, 3, 4, 5]
    storage.close()


def test_after_close_everything_is_refused_in_words(make: Make) -> None:
    storage = make()
    fill(storage, range(3))
    storage.close()
    storage.close()
    errors: list[Any] = []
    storage.append(KEY, batch(1), BASE, lambda *result: errors.append(result[1]))
    storage.save_group("g", KEY, b"", errors.append)
    storage.read(KEY, 0, 1, lambda _, error: errors.append(error))
    storage.lookup(KEY, BASE, lambda _, error: errors.append(error))
    storage.trim(KEY, before=2)
    assert [str(error) for error in errors] == ["the log is closed"] * 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "memory"}, "has the modes os and synced, not 'memory'"),
        ({"coalesce_bytes": -1}, "coalesce_bytes is -1"),
        ({"max_bytes": -1}, "max_bytes is -1"),
        ({"max_bytes": 5000}, "max_bytes is 5000, and 131072 is the least, 0 for no limit"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    make: Make, tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        make(**options)
    assert not (tmp_path / "log").exists()


def test_the_broker_s_memory_limit_is_not_the_device_s(variant: str, tmp_path: Path) -> None:
    database(variant, tmp_path / "log").close()
    choice = Choice(variant, {"path": str(tmp_path / "log")})
    broker, _ = build(Settings(storage=choice, memory=MemorySettings(max_bytes=1 << 20)))
    storage: Any = broker.storage
    assert storage.durability is Durability.OS
    for _ in range(30):
        Driver(storage).append(batch_of(bytes(100_000)))
    storage.close()


def test_a_folder_of_another_storage_is_left_alone(make: Make, variant: str, tmp_path: Path) -> None:
    make().close()
    before = sorted(path.name for path in (tmp_path / "log").iterdir())
    with pytest.raises(
        StorageError, match=f"holds what the storage {variant} keeps: choose --storage {variant}"
    ):
        database("segment-log", tmp_path / "log")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == before


# ── room ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_trims_make_room_as_often_as_it_takes(make: Make, tmp_path: Path) -> None:
    limit = 600_000
    storage = make(max_bytes=limit)
    driver = Driver(storage)
    full, reasons = 0, set()
    for number in range(1500):
        size = (100, 3000, 9000)[number % 3]
        try:
            driver.append(batch_of(b"%d" % number + bytes(size)), BASE + number)
        except StorageFull as error:
            reasons.add(str(error).rpartition(":")[2])
            full += 1
            storage.trim(KEY, max_bytes=storage.size(KEY) // 2)
            driver.append(batch_of(b"%d" % number + bytes(size)), BASE + number)
    assert 5 < full < 200
    assert reasons == {" trim, or raise storage.options.max_bytes"}
    first, end = driver.lookup(EARLIEST), driver.lookup(LATEST)
    assert end == 1500
    assert sorted(payloads(storage)) == list(range(first, end))
    files = [path for path in (tmp_path / "log").iterdir() if not path.name.endswith(("-wal", "-shm"))]
    assert sum(path.stat().st_size for path in files) <= limit + 20_000
    storage.close()


def test_a_full_database_can_always_be_trimmed(make: Make, logged: list[Any]) -> None:
    storage = make(max_bytes=300_000)
    driver, chance = Driver(storage), random.Random(2)
    keys = [TopicPartition("t", number) for number in range(5)]
    ends = dict.fromkeys(keys, 0)
    full = 0
    for number in range(4000):
        key, count = chance.choice(keys), chance.choice((1, 1, 1, 5))
        payload = bytes(chance.choice((10, 200, 1500, 3000, 9000)) // count)
        given = batch_of(*[payload] * count, producer=chance.choice((0, 0, 7)), sequence=1 + number)
        try:
            assert driver.append(given, BASE + number, key) == ends[key]
        except StorageFull:
            full += 1
            share = chance.random()
            for each in keys:
                if share < 0.5:
                    storage.trim(each, max_bytes=int(storage.size(each) * chance.random()))
                else:
                    storage.trim(each, before=chance.randrange(ends[each] + 1))
        else:
            ends[key] += count
    assert 20 < full < 2500
    assert not [entry["event"] for entry in logged if entry["log_level"] == "warning"]
    for key in keys:
        first = driver.lookup(EARLIEST, key)
        assert sorted(payloads(storage, key)) == list(range(first, ends[key]))
    storage.close()


def test_what_a_trim_freed_can_be_used_at_once(make: Make) -> None:
    storage = make(max_bytes=4_000_000)  # a trim of it is one transaction
    driver = Driver(storage)
    stored = 0
    with suppress(StorageFull):
        while stored < 100:
            driver.append(batch_of(bytes(500_000)))
            stored += 1
    assert 4 < stored < 8
    storage.trim(KEY, before=stored)
    # in one turn, more than was never used: some must go where the trimmed ones were
    assert driver.append_all([batch_of(bytes(500_000))] * 3) == [stored, stored + 1, stored + 2]
    storage.close()


def write_until_full(folder: str, variant: str, mode: str, limit: int) -> None:
    """Appends until no file may grow any more, reads, and goes on when they may. Says what happened."""
    import resource

    def say(*words: object) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")

    storage = database(variant, Path(folder), mode)
    driver = Driver(storage)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    stored = 0
    try:
        while stored < 10_000:
            driver.append(batch_of(b"%d" % stored + bytes(5000)))
            stored += 1
    except StorageFull as error:
        say("full", stored > 10, error)
    for _ in range(3):
        with pytest.raises(StorageFull):
            driver.append(batch_of(bytes(5000)))
    say("read", sorted(payloads(storage)) == list(range(stored)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    say("again", driver.append(batch_of(b"again")) == stored)
    storage.close()
    storage = database(variant, Path(folder), mode)
    say("reopened", sorted(payloads(storage)) == list(range(stored + 1)))
    storage.close()


@pytest.mark.parametrize("mode", ["os", "synced"])
def test_a_full_device_refuses_appends_and_reading_goes_on(tmp_path: Path, variant: str, mode: str) -> None:
    database(variant, tmp_path / "log", mode).close()
    call = f"write_until_full({str(tmp_path / 'log')!r}, {variant!r}, {mode!r}, 9_000_000)"
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import *; {call}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    full, *others = [line for line in done.stdout.splitlines() if not line.startswith("20")]
    assert full.startswith("full True no room on the device for "), done.stderr
    assert "make some, or lower the retention; reading goes on" in full
    assert others == ["read True", "again True", "reopened True"]
