"""What is particular to the log in a folder: turns, callbacks, names, limits, compression."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.config.settings import Choice, Settings
from portask.contracts import EARLIEST, Durability
from portask.errors import ConfigError, StorageError
from portask.messages import Message, TopicPartition
from portask.server.build import build
from portask.storage import SegmentLog, segments
from portask.storage.files import Files
from portask.storage.gathering import gather
from portask.wire import batches
from portask_lab.conformance.storage_support import BASE, CODEC, KEY, Driver, batch_of, records
from portask_variants.compression.always import Always

from .shims import OneByOne, batch, copy_log, fill, payloads, small


def test_one_turn_is_one_write_and_one_batch(tmp_path: Path) -> None:
    writes: list[int] = []

    class Counted(Files):
        def write(self, fd: int, parts: Sequence[Any], at: int) -> int:
            writes.append(len(parts))
            return super().write(fd, parts, at)

    storage = SegmentLog(tmp_path / "log", files=Counted())
    driver = Driver(storage)
    driver.append(batch_of(b"first"))
    writes.clear()
    driver.append_all([batch_of(b"%d" % number, timestamp=BASE + number) for number in range(200)])
    assert writes == [1]
    (stored,) = driver.read(1)
    assert batches.peek(stored)[2] == 200
    writes.clear()
    driver.append_all([batch_of(b"a", b"b") for _ in range(200)])
    assert writes == [200], "batches of several records are written as they came, together"
    storage.close()


def test_nothing_is_said_before_the_commit(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    done: list[Any] = []
    storage.append(KEY, batch(1), BASE, lambda *result: done.append(result))
    storage.save_group("g", KEY, b"s", done.append)
    assert not done
    storage.commit()
    assert done == [(0, None), None]
    storage.commit()
    assert len(done) == 2
    storage.close()


def test_a_turn_that_brings_very_much_is_written_in_between(tmp_path: Path) -> None:
    storage = small(tmp_path / "log", segment_bytes=1 << 30)
    done: list[int] = []
    for _ in range(30):
        storage.append(KEY, batch_of(bytes(100_000)), BASE, lambda base, _: done.append(base))
    assert len(done) > 20
    storage.commit()
    assert done == list(range(30))
    storage.close()


def test_a_callback_that_raises_costs_no_other(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    told: list[bool] = []
    storage.notify = lambda: told.append(True)
    done: list[int] = []

    def bad(base: int, error: Any) -> None:
        raise ZeroDivisionError

    for number in range(5):
        callback: Any = bad if number == 2 else lambda base, _: done.append(base)
        storage.append(KEY, batch(number), BASE, callback)
    with pytest.raises(ZeroDivisionError):
        storage.commit()
    assert (done, told) == ([0, 1], [True])
    assert storage.poll() == 2
    assert done == [0, 1, 3, 4]
    storage.close()


def test_a_callback_may_append(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    done: list[int] = []

    def again(base: int, error: Any) -> None:
        done.append(base)
        if base < 5:
            storage.append(KEY, batch(base), BASE, again)

    storage.append(KEY, batch(0), BASE, again)
    for _ in range(10):
        storage.commit()
    assert done == [0, 1, 2, 3, 4, 5]
    storage.close()


def test_a_reader_at_the_tail_reads_what_a_reader_of_the_files_reads(tmp_path: Path) -> None:
    cached, plain = small(tmp_path / "a", cache_bytes=1 << 20), small(tmp_path / "b", cache_bytes=0)
    for storage in (cached, plain):
        fill(storage, range(100))
    assert payloads(cached) == payloads(plain)
    for offset in range(199):
        for limit in (1, 400, 1 << 20):
            found, read = (records(Driver(storage).read(offset, limit)) for storage in (cached, plain))
            shortest = min(len(found), len(read))
            assert shortest > 0
            assert found[:shortest] == read[:shortest]
    cached.close()
    plain.close()


@pytest.mark.parametrize("topic", ["a.b", "..", ".", "", "%41", "A/b\\c", "ü" * 40, "con", "x" * 255])
def test_any_topic_name_has_its_own_folder(tmp_path: Path, topic: str) -> None:
    key = TopicPartition(topic, 3)
    storage = small(tmp_path / "log")
    Driver(storage).append(batch_of(b"here"), key=key)
    storage.close()
    inside = tmp_path / "log" / "topics"
    assert all(inside in path.resolve().parents for path in inside.rglob("*.log"))
    again = small(tmp_path / "log")
    assert list(again.partitions()) == [key]
    assert payloads(again, key) == {0: b"here"}
    again.close()


@given(topic=st.text(max_size=60), number=st.integers(0, 2**31))
def test_folder_names_lead_back(topic: str, number: int) -> None:
    key = TopicPartition(topic.encode(errors="replace").decode(), number)
    try:
        names = segments.folder_names(key)
    except StorageError:
        return
    assert segments.partition_of(*names) == key


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    with pytest.raises(StorageError, match="255 is the most"):
        Driver(storage).append(batch_of(b"x"), key=TopicPartition("ü" * 100, 0))
    assert Driver(storage).append(batch_of(b"x")) == 0
    storage.close()


def test_joined_batches_are_compressed(tmp_path: Path) -> None:
    text = b"the same words again and again, the same words again and again"
    sizes = {}
    for name, strategy in (("plain", None), ("packed", Always())):
        storage = SegmentLog(tmp_path / name, compression=strategy)
        driver = Driver(storage)
        driver.append_all([batch_of(text + b"%d" % number) for number in range(300)])
        (stored,) = driver.read(0)
        found = batches.parse(stored)
        assert bool(found.attributes) == (strategy is not None)
        assert found.count == 300
        sizes[name] = storage.size(KEY)
        storage.close()
    assert sizes["packed"] < sizes["plain"] / 5


def test_many_segments_need_few_open_files(tmp_path: Path) -> None:
    storage = small(tmp_path / "log", open_files=3)
    acked = fill(storage, range(300))
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - descriptors are no files
    assert payloads(storage) == acked
    assert len(list((tmp_path / "log").rglob("*.log"))) > 10
    assert len(os.listdir("/proc/self/fd")) <= opened + 3  # noqa: PTH208
    storage.close()


def test_retention_removes_files(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    acked = fill(storage, range(200))
    copy_log(tmp_path / "log", tmp_path / "before", storage)
    storage.trim(KEY, max_bytes=6000)
    storage._syncer.settle()
    assert storage.size(KEY) <= 6000
    left = sum(path.stat().st_size for path in (tmp_path / "log").rglob("*.log"))
    assert left < 6000 + 2 * 4096
    first = Driver(storage).lookup(EARLIEST)
    assert payloads(storage) == {offset: payload for offset, payload in acked.items() if offset >= first}
    storage.close()


def test_many_partitions_are_synced_by_one_call(tmp_path: Path) -> None:
    calls: list[int] = []
    appended = threading.Event()

    class Counted(Files):
        """The first sync takes until everything was appended."""

        def sync(self, fd: int) -> None:
            appended.wait(10)
            super().sync(fd)

        def sync_all(self, fds: Sequence[int], root: int) -> None:
            appended.wait(10)
            calls.append(len(fds))
            super().sync_all(fds, root)

    files = Counted()
    if not files.syncs_all:
        pytest.skip("this system has no syncfs that reports errors")
    storage = SegmentLog(tmp_path / "log", mode="synced", files=files)
    done: list[Any] = []
    for _ in range(20):
        for number in range(12):
            storage.append(
                TopicPartition("t", number), batch(1), BASE, lambda *result: done.append(result[1])
            )
        storage.commit()
    appended.set()
    Driver(storage).flush()
    assert done == [None] * 240
    assert max(calls) >= 11
    storage.close()


def test_a_sealed_segment_that_cannot_be_synced_ends_publishing_in_every_mode(tmp_path: Path) -> None:
    class BadDevice(OneByOne):
        def sync(self, fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

    storage = small(tmp_path / "log", files=BadDevice())
    acked = fill(storage, range(8))
    outcome: list[Any] = []
    for number in range(100):
        storage.append(KEY, batch(number), BASE, lambda *result: outcome.append(result[1]))
        storage.commit()
        storage._syncer.settle()
    assert outcome[0] is None
    assert "acknowledges nothing more" in str(outcome[-1])
    first_bad = next(at for at, error in enumerate(outcome) if error is not None)
    assert all(error is not None for error in outcome[first_bad:])
    found = payloads(storage)
    assert len(found) == len(acked) + first_bad
    storage.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "fast"}, "memory, os and synced, not 'fast'"),
        ({"segment_bytes": 10}, "segment_bytes is 10, and 4096 is the least"),
        ({"index_interval": 0}, "index_interval is 0"),
        ({"open_files": 0}, "open_files is 0"),
        ({"max_bytes": -1}, "max_bytes is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SegmentLog(tmp_path / "log", **options)
    assert not (tmp_path / "log").exists()


def test_the_broker_s_memory_limit_is_not_the_device_s(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "log"), "mode": "synced"}
    settings = Settings(storage=Choice("segment-log", options))
    broker, _ = build(settings)
    storage: Any = broker.storage
    assert storage.durability is Durability.SYNCED
    assert storage._room > settings.memory.max_bytes
    storage.close()


@pytest.mark.parametrize("noted", [b"", b"segm", b"\0" * 12])
def test_a_note_of_whose_folder_it_is_that_was_torn_is_written_again(tmp_path: Path, noted: bytes) -> None:
    small(tmp_path / "log").close()
    note = tmp_path / "log" / "storage"
    assert note.read_bytes() == b"segment-log\n"
    note.write_bytes(noted)
    small(tmp_path / "log").close()
    assert note.read_bytes() == b"segment-log\n"
    note.write_bytes(b"other\n")
    for _ in range(2):
        with pytest.raises(
            StorageError, match="holds what the storage other keeps: choose --storage other, or"
        ):
            small(tmp_path / "log")


def test_after_close_everything_is_refused_in_words(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    fill(storage, range(3))
    storage.close()
    storage.close()
    errors: list[Any] = []
    storage.append(KEY, batch(1), BASE, lambda *result: errors.append(result[1]))
    storage.save_group("g", KEY, b"", errors.append)
    assert [str(error) for error in errors] == ["the log is closed"] * 2


ONE = st.tuples(
    st.binary(max_size=40), st.integers(-(10**7), 10**7), st.sampled_from((0, 0, 0, 5)), st.booleans()
)


@pytest.mark.usefixtures("helpers")
@given(given_records=st.lists(ONE, max_size=30), target=st.sampled_from((0, 100, 1 << 16)))
def test_gathering_changes_no_record(given_records: list[tuple[bytes, int, int, bool]], target: int) -> None:
    stored: list[Any] = []
    expected: list[tuple[int, bytes, int]] = []
    offset = 0
    for payload, shift, ttl, gap in given_records:
        offset += 3 * gap
        message = Message(payload, timestamp=BASE + shift)
        body = CODEC.encode([message], BASE)
        data = batches.build(
            body, 1, codec=1, base_timestamp=BASE, ttl=ttl, base_offset=offset, append_time=BASE
        )
        stored.append(memoryview(data) if gap else data)
        expected.append((offset, payload, message.timestamp))
        offset += 1
    found = gather(stored, target)
    assert [(at, message.payload, message.timestamp) for at, message in records(found)] == expected
    lives = [batches.parse(data) for data in found]
    assert [each.ttl for each in lives for _ in range(each.count)] == [ttl for _, _, ttl, _ in given_records]
    if target == 0:
        assert len(found) == len(stored)
