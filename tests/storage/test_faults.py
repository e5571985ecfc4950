"""No room, I/O errors, lost power: what was acknowledged is there, what failed says so, reading goes on."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.errors import StorageError, StorageFull
from portask.messages import TopicPartition
from portask.storage import SegmentLog
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

from .shims import SMALL, Failing, Forgetful, OneByOne, batch, copy_log, payloads, small


class Ledger:
    """What was appended, and what became of it."""

    def __init__(self, storage: SegmentLog) -> None:
        self.storage = storage
        self.acked: dict[int, bytes] = {}
        self.errors: list[Any] = []
        self.groups: dict[str, bytes] = {}

    def turn(self, numbers: range) -> None:
        """Appends a batch for each number, one turn; and saves a group's state."""
        for number in numbers:
            given = batch(number, 1 + number % 3)
            expected = [b"%d.%d" % (number, at) + bytes(number * 7 % 90) for at in range(given.count)]
            self.storage.append(KEY, given, BASE + number, self._done(expected))
        state = b"%d" % numbers.start
        self.storage.save_group("g", KEY, state, self._saved(state))
        self.storage.commit()

    def _done(self, expected: list[bytes]) -> Any:
        def done(base: int, error: Any) -> None:
            if error is None:
                self.acked |= {base + at: payload for at, payload in enumerate(expected)}
            else:
                self.errors.append(error)

        return done

    def _saved(self, state: bytes) -> Any:
        def done(error: Any) -> None:
            if error is None:
                self.groups["g"] = state
            else:
                self.errors.append(error)

        return done

    def settle(self) -> None:
        """Waits for syncs."""
        self.storage._syncer.settle()
        self.storage.poll()


def closed(storage: SegmentLog) -> None:
    storage.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "portask-sync"]


def attempt(folder: Path, files: Failing, mode: Any, turns: int = 7) -> tuple[Ledger | None, list[Any]]:
    """A life of a log in which a call fails: opened, filled over several segments, read, trimmed, closed."""
    try:
        storage = small(folder, mode=mode, files=files)
    except (StorageError, OSError) as error:
        return None, [error]
    ledger = Ledger(storage)
    for turn in range(turns):
        ledger.turn(range(5 * turn, 5 * turn + 5))
        if turn % 3 == 2:
            ledger.settle()
    ledger.settle()
    try:
        found = payloads(storage)
    except StorageError as error:
        ledger.errors.append(error)
    else:
        assert {offset: found.get(offset) for offset in ledger.acked} == ledger.acked
    closed(storage)
    return ledger, ledger.errors


@pytest.mark.parametrize("mode", ["os", "synced", "memory"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_every_call(tmp_path: Path, number: int, mode: str) -> None:
    counting = Failing(number=number)
    attempt(tmp_path / "count", counting, mode)
    assert counting.calls > 25
    hit = set()
    for at in range(counting.calls + 10):  # syncs are grouped as it happens: there may be some more
        folder = tmp_path / str(at)
        files = Failing(at, number)
        ledger, errors = attempt(folder, files, mode)
        hit.update(files.failed)
        for error in errors:
            assert isinstance(error, StorageError | OSError), error
            if number == errno.ENOSPC and "write" in files.failed and isinstance(error, StorageError):
                assert isinstance(error, StorageFull)
                assert "no room on the device" in str(error)
        with_room = small(folder)
        found = payloads(with_room) if list(with_room.partitions()) else {}
        if ledger is not None and mode != "memory":
            assert {offset: found.get(offset) for offset in ledger.acked} == ledger.acked, (
                f"call {at} {files.failed}"
            )
            states = {group: state for group, _, state in with_room.load_groups()}
            if ledger.groups:
                assert int(states["g"]) >= int(ledger.groups["g"])
        assert sorted(found) == list(range(len(found))), "an append that failed left a gap"
        closed(with_room)
        shutil.rmtree(folder)
    seldom = {"rename"} if mode == "os" else set()  # which call it is depends on how syncs were grouped
    assert {"write", "sync", "sync_folder", "make_folder", "open"} | seldom <= hit


def test_a_full_device_refuses_reads_on_and_recovers(tmp_path: Path) -> None:
    files = Failing()
    storage = small(tmp_path / "log", files=files)
    ledger = Ledger(storage)
    ledger.turn(range(10))
    before = dict(ledger.acked)
    storage._syncer.settle()
    files.at, files.lasting = files.calls, True
    for start in (10, 20, 30):
        ledger.turn(range(start, start + 10))
    storage.append(TopicPartition("new", 0), batch(1), BASE, lambda *result: ledger.errors.append(result[1]))
    storage.commit()
    assert ledger.acked == before
    assert len(ledger.errors) == 3 * 11 + 1
    assert all(isinstance(error, StorageFull) for error in ledger.errors)
    assert payloads(storage) == before
    assert list(storage.partitions()) == [KEY]
    files.at = -1
    ledger.turn(range(40, 50))
    assert len(ledger.acked) > len(before)
    assert payloads(storage) == ledger.acked
    copy_log(tmp_path / "log", tmp_path / "copy", storage)
    storage.close()
    again = small(tmp_path / "copy")
    assert payloads(again) == ledger.acked
    assert again.counters["cut_bytes"] == 0, "half a write was left behind"
    again.close()


def test_what_a_failed_write_left_is_not_built_upon(tmp_path: Path) -> None:
    class Stuck(Failing):
        def truncate(self, fd: int, size: int) -> None:
            if self.failed:
                raise OSError(errno.EIO, "stuck")
            super().truncate(fd, size)

    files = Stuck()
    storage = small(tmp_path / "log", files=files)
    ledger = Ledger(storage)
    ledger.turn(range(4))
    before = dict(ledger.acked)
    files.at = files.calls
    ledger.turn(range(4, 8))  # half of it is in the file, and cannot be cut off
    ledger.turn(range(8, 9))
    assert ledger.acked == before
    assert payloads(storage) == before
    files.failed.clear()
    ledger.turn(range(9, 10))
    assert payloads(storage) == ledger.acked != before
    storage.close()


def test_a_failed_sync_ends_publishing_for_good(tmp_path: Path) -> None:
    class BadDevice(OneByOne):
        bad = False

        def sync(self, fd: int) -> None:
            if self.bad:
                self.bad = False  # the next one would succeed, and prove nothing
                raise OSError(errno.EIO, "Input/output error")
            super().sync(fd)

    files = BadDevice()
    told = threading.Event()
    storage = SegmentLog(tmp_path / "log", mode="synced", files=files, **SMALL)
    storage.notify = told.set
    ledger = Ledger(storage)
    ledger.turn(range(5))
    ledger.settle()
    before = dict(ledger.acked)
    assert before
    files.bad = True
    ledger.turn(range(5, 10))
    ledger.settle()
    assert told.is_set()
    ledger.turn(range(10, 15))
    ledger.settle()
    assert ledger.acked == before
    assert len(ledger.errors) == 12
    assert all("acknowledges nothing more" in str(error) for error in ledger.errors)
    assert payloads(storage) == before
    failed: list[Any] = []
    storage.flush(failed.append)
    assert isinstance(failed[0], StorageError)
    closed(storage)
    again = small(tmp_path / "log")
    assert payloads(again) == before, "records that nobody was promised are there after a failed sync"
    again.close()


def test_unsynced_records_are_shown_to_nobody(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(OneByOne):
        def sync(self, fd: int) -> None:
            gate.wait(10)

    storage = SegmentLog(tmp_path / "log", mode="synced", files=Slow())
    driver = Driver(storage)
    done: list[Any] = []
    for text in (b"a", b"b"):
        storage.append(KEY, batch_of(text), BASE, lambda *result: done.append(result))
        storage.commit()
        storage.poll()
    assert not done
    assert list(storage.partitions()) == []
    gate.set()
    driver.flush()
    assert done == [(0, None), (1, None)]
    assert payloads(storage) == {0: b"a", 1: b"b"}
    storage.close()


def test_appends_pile_up_while_a_sync_runs(tmp_path: Path) -> None:
    gate = threading.Semaphore(0)
    syncs: list[int] = []

    class Counted(OneByOne):
        def sync(self, fd: int) -> None:
            gate.acquire(timeout=10)
            syncs.append(fd)

    storage = SegmentLog(tmp_path / "log", mode="synced", files=Counted())
    order: list[int] = []
    for number in range(40):
        storage.append(KEY, batch(number), BASE, lambda base, _: order.append(base))
        storage.commit()
    gate.release(2)
    storage._syncer.settle()
    storage.poll()
    assert order == list(range(40))
    assert len(syncs) <= 2, "each append was synced for itself"
    gate.release(100)
    storage.close()


@given(seed=st.integers(0, 2**32), turns=st.integers(1, 14), mode=st.sampled_from(("synced", "os")))
@settings(max_examples=30, deadline=None)
def test_lost_power(new_folder: Callable[[], Path], seed: int, turns: int, mode: Any) -> None:
    """``synced`` loses nothing that was acknowledged; ``os`` only what was not synced; nothing is invented."""
    chance = random.Random(seed)
    root = new_folder()
    files = Forgetful()
    storage = SegmentLog(root / "log", mode=mode, files=files, **SMALL)
    ledger = Ledger(storage)
    for turn in range(turns):
        ledger.turn(range(7 * turn, 7 * turn + chance.choice((1, 3, 7))))
        if chance.random() < 0.3:
            ledger.settle()
    ledger.settle()
    files.going.clear()  # from now on nothing gets to the device any more
    for turn in range(turns, turns + chance.randrange(4)):
        ledger.turn(range(7 * turn, 7 * turn + 3))
    storage.poll()
    acked, groups = dict(ledger.acked), dict(ledger.groups)
    files.lose_power(root / "log", chance, root / "after")
    synced = files.offsets(root / "log" / "topics" / KEY.topic / "0")
    files.going.set()
    ledger.settle()
    storage.close()

    after = small(root / "after")
    found = payloads(after) if list(after.partitions()) else {}
    assert {offset: ledger.acked[offset] for offset in found} == found
    promised = set(acked) if mode == "synced" else synced
    assert promised <= set(found)
    if mode == "synced" and groups:
        states = {group: state for group, _, state in after.load_groups()}
        assert int(states["g"]) >= int(groups["g"])
    Driver(after).append(batch_of(b"goes on"), BASE + 10**9)
    after.close()
    again = small(root / "after")
    assert {offset: payload for offset, payload in payloads(again).items() if payload != b"goes on"} == found
    again.close()
    shutil.rmtree(root)


def test_what_a_killed_writer_left_is_synced_before_it_is_shown(tmp_path: Path) -> None:
    killed = small(tmp_path / "live")
    ledger = Ledger(killed)
    ledger.turn(range(60))
    copy_log(tmp_path / "live", tmp_path / "log", killed)
    killed.close()
    files = Forgetful()
    storage = SegmentLog(tmp_path / "log", mode="synced", files=files, **SMALL)
    files.going.clear()  # whatever the syncing thread still wants to do waits
    assert payloads(storage) == ledger.acked
    assert files.offsets(tmp_path / "log" / "topics" / KEY.topic / "0") == set(ledger.acked)
    files.going.set()
    storage.close()
