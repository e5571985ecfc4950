"""File layers that fail, and that forget."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from portask.contracts import EARLIEST, LATEST
from portask.errors import OffsetOutOfRange
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.storage import SegmentLog
from portask.storage.files import Files
from portask.storage.segments import HEADER_SIZE
from portask.wire import batches
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of, records

SMALL: dict[str, Any] = {"segment_bytes": 4096, "index_interval": 256}


class OneByOne(Files):
    """Has no sync of everything at once, so that a test sees every sync."""

    @property
    def syncs_all(self) -> bool:
        return False


class Hasty(OneByOne):
    """Does not wait for the device: for tests of what is in the files."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, path: str) -> None:
        pass


def small(folder: Path | str, **options: Any) -> SegmentLog:
    """A log with segments of a few batches."""
    return SegmentLog(folder, **(SMALL | {"files": Hasty()} | options))


def payloads(storage: Any, key: TopicPartition = KEY) -> dict[int, bytes]:
    """Every record that can be read, by offset."""
    driver = Driver(storage)
    offset, end = driver.lookup(EARLIEST, key), driver.lookup(LATEST, key)
    found: dict[int, bytes] = {}
    while offset < end:
        try:
            got = records(driver.read(offset, 3000, key))
        except OffsetOutOfRange as gap:
            step = gap.first
        else:
            found |= {at: message.payload for at, message in got if at >= offset}
            step = got[-1][0] + 1 if got else offset
        if step <= offset:
            pytest.fail(f"a read from offset {offset} of {end} gave nothing new")
        offset = step
    return found


def batch(number: int, size: int = 1, **fields: Any) -> RecordBatch:
    """A batch whose payloads say which they are."""
    return batch_of(*(b"%d.%d" % (number, index) + bytes(number * 7 % 90) for index in range(size)), **fields)


def fill(storage: Any, numbers: Sequence[int], key: TopicPartition = KEY) -> dict[int, bytes]:
    """Appends a batch a number, one to three records each; what was acknowledged, by offset."""
    driver = Driver(storage)
    acked: dict[int, bytes] = {}
    for number in numbers:
        given = batch(number, 1 + number % 3)
        base = driver.append(given, BASE + number * 1000, key)
        for index in range(given.count):
            acked[base + index] = b"%d.%d" % (number, index) + bytes(number * 7 % 90)
    return acked


class Failing(Files):
    """Fails the call of a number with an error; half of the bytes of a failing write are written."""

    def __init__(self, at: int = -1, number: int = errno.ENOSPC, *, lasting: bool = False) -> None:
        self.at = at
        self.number = number
        self.lasting = lasting
        self.calls = 0
        self.failed: list[str] = []

    def _call(self, name: str) -> bool:
        mine = self.calls == self.at or (self.lasting and self.at >= 0 and self.calls >= self.at)
        self.calls += 1
        if mine:
            self.failed.append(name)
        return mine

    def _maybe(self, name: str) -> None:
        if self._call(name):
            raise OSError(self.number, os.strerror(self.number))

    def open(self, path: str, *, create: bool = False) -> int:
        if create or self.number != errno.ENOSPC:
            self._maybe("open")
        return super().open(path, create=create)

    def open_to_read(self, path: str) -> int:
        if self.number != errno.ENOSPC:
            self._maybe("open_to_read")
        return super().open_to_read(path)

    def read(self, fd: int, size: int, at: int) -> bytes:
        if self.number != errno.ENOSPC:
            self._maybe("read")
        return super().read(fd, size, at)

    def write(self, fd: int, parts: Sequence[Buffer], at: int) -> int:
        if self._call("write"):
            whole = b"".join(parts)
            super().write(fd, [whole[: len(whole) // 2]], at)
            raise OSError(self.number, os.strerror(self.number))
        return super().write(fd, parts, at)

    def truncate(self, fd: int, size: int) -> None:
        if self.number != errno.ENOSPC:
            self._maybe("truncate")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._maybe("sync")
        super().sync(fd)

    def sync_all(self, fds: Sequence[int], root: int) -> None:
        self._maybe("sync")
        super().sync_all(fds, root)

    def sync_folder(self, path: str) -> None:
        self._maybe("sync_folder")
        super().sync_folder(path)

    def make_folder(self, path: str) -> bool:
        self._maybe("make_folder")
        return super().make_folder(path)

    def rename(self, old: str, new: str) -> None:
        self._maybe("rename")
        super().rename(old, new)


class Forgetful(OneByOne):
    """Remembers what was synced, so that `lose_power` can take everything else back.

    A file's content counts as kept once `sync` returned, a name once its folder was synced. What was not synced may be
    kept all the same, in part, in any order of pages: a chance decides.

    Attributes:
        going: Clear it, and syncs wait.
    """

    def __init__(self) -> None:
        self.going = threading.Event()
        self.going.set()
        self._one_at_a_time = threading.Lock()
        self._content: dict[int, bytes] = {}  # inode → what was synced
        self._names: dict[str, dict[str, int]] = {}  # folder → name → inode, as synced

    def sync(self, fd: int) -> None:
        self.going.wait(10)
        super().sync(fd)
        state = os.fstat(fd)
        self._content[state.st_ino] = os.pread(fd, state.st_size, 0)

    def sync_folder(self, path: str) -> None:
        self.going.wait(10)
        super().sync_folder(path)
        with self._one_at_a_time:
            self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}

    def offsets(self, folder: Path) -> set[int]:
        """Offsets of the records of a partition that are surely on the device."""
        found: set[int] = set()
        for name, inode in self._names.get(str(folder), {}).items():
            data = self._content.get(inode, b"") if name.endswith(".log") else b""
            at = HEADER_SIZE
            while at < len(data):
                base, _, count, _ = batches.peek(data[at : at + 64])
                found.update(range(base, base + count))
                at += int.from_bytes(data[at + 16 : at + 20], "little")
        return found

    def lose_power(self, source: Path, chance: random.Random, to: Path) -> None:
        """Builds in ``to`` what the device may hold of ``source`` after the power failed now."""
        to.mkdir()
        synced = self._names.get(str(source), {})
        there = {entry.name: entry for entry in os.scandir(source)}
        for name in sorted(set(synced) | set(there)):
            entry = there.get(name)
            if entry is not None and entry.is_dir():
                if name in synced or chance.random() < 0.5:
                    self.lose_power(source / name, chance, to / name)
                continue
            now = entry.inode() if entry is not None else -1  # -1: no such file
            inode = chance.choice((synced.get(name, -1), now))
            if inode >= 0 and name != "lock":
                kept = self._content.get(inode, b"")
                content = (source / name).read_bytes() if inode == now else kept
                (to / name).write_bytes(_torn(kept, content, chance))


def _torn(kept: bytes, now: bytes, chance: random.Random) -> bytes:
    """Any mixture of what was synced and what was written since, by pages; pages that were never written are zero."""
    if len(now) < len(kept):
        return chance.choice((kept, now))
    size = chance.choice((len(kept), len(now), chance.randint(len(kept), len(now))))
    out = bytearray(kept + bytes(len(now) - len(kept)))[:size]
    page = 512
    for start in range(0, size, page):
        if chance.random() < 0.5:
            out[start : start + page] = now[start : min(start + page, size)]
    return bytes(out)


def copy_log(source: Path, to: Path, storage: SegmentLog | None = None) -> Path:
    """A copy of a log's folder as a kill -9 leaves it, but for what the syncing thread still had to do."""
    if storage is not None:
        storage._syncer.settle()
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("lock"))
    return to
