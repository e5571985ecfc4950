"""One log, divided among workers: whatever their number becomes, and whenever it crashes, everything is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from portask.contracts import EARLIEST
from portask.errors import StorageError
from portask.messages import Message, TopicPartition
from portask.multicore.owners import owner_of
from portask.reference.codec import Cbor2Codec
from portask.storage import SegmentLog, dividing
from portask.storage.files import Files
from portask.wire import batches

CODEC = Cbor2Codec()
KEYS = [TopicPartition(topic, number) for topic in ("a", "b.c") for number in range(4)]
CHANGES = ("rename", "remove", "make_folder", "write", "sync_folder")


def owner(places: int) -> Callable[[TopicPartition], int]:
    return lambda key: owner_of(key.topic, key.partition, places)


def divide(folder: Path, places: int, files: Files | None = None) -> list[str]:
    parts = dividing.divide("segment-log", folder, places, owner(places), files)
    parts.close()
    return parts.paths


def append(log: SegmentLog, key: TopicPartition, payload: bytes) -> None:
    body = CODEC.encode([Message(payload)], 0)
    data = batches.build(body, 1, codec=CODEC.wire_id, base_timestamp=0)
    log.append(key, batches.parse(data), 1, lambda _offset, error: _no(error))


def _no(error: Exception | None) -> None:
    assert error is None


def write(paths: list[str], payload: bytes) -> None:
    """A record for every partition, and a group at it, where it belongs."""
    for place, path in enumerate(paths):
        log = SegmentLog(path)
        for key in KEYS:
            if owner(len(paths))(key) == place:
                append(log, key, payload)
                log.save_group("g", key, payload + str(key).encode(), _no)
        log.commit()
        log.close()


def read(paths: list[str]) -> tuple[dict[TopicPartition, list[bytes]], dict[Any, bytes]]:
    """What is where it belongs; anything elsewhere is a fault."""
    records: dict[TopicPartition, list[bytes]] = {}
    states: dict[Any, bytes] = {}
    for place, path in enumerate(paths):
        log = SegmentLog(path)
        for key in log.partitions():
            assert owner(len(paths))(key) == place, f"{key} is in {path}"
            found: list[bytes] = []
            log.lookup(key, EARLIEST, lambda offset, error: _no(error))
            log.read(key, 0, 1 << 20, lambda data, error, into=found: into.extend(map(bytes, data)))  # type: ignore[misc]
            records[key] = [
                bytes(message.payload)
                for data in found
                for batch in batches.split(data)
                for message in CODEC.decode(batch.body, batch.count, batch.base_timestamp)
            ]
        for group, key, state in log.load_groups():
            assert owner(len(paths))(key) == place, f"the state of {key} is in {path}"
            states[group, key] = state
        log.close()
    return records, states


def expected(*payloads: bytes) -> tuple[dict[TopicPartition, list[bytes]], dict[Any, bytes]]:
    return (
        {key: list(payloads) for key in KEYS},
        {("g", key): payloads[-1] + str(key).encode() for key in KEYS},
    )


def test_everything_follows_the_number_of_workers(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    payloads: list[bytes] = []
    for places in (1, 4, 2, 3, 1, 5, 5, 1):
        paths = divide(folder, places)
        if payloads:
            assert read(paths) == expected(*payloads)
        payloads.append(b"%d" % len(payloads))
        write(paths, payloads[-1])
    assert read(divide(folder, 1)) == expected(*payloads)
    assert sorted(each.name for each in folder.iterdir()) == ["groups.log", "lock", "storage", "topics"]


class Crash(BaseException):
    """The process ends here, as far as the disk can tell."""


class Crashing(Files):
    """Ends with the change of that number."""

    def __init__(self, at: int, end: Callable[[], None]) -> None:
        self.left = at
        self.end = end

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGES:
            self.left -= 1
            if self.left < 0:
                self.end()
        return super().__getattribute__(name)


def crash() -> None:
    raise Crash


@pytest.mark.parametrize(("before", "after", "then"), [(1, 3, 3), (3, 1, 1), (4, 2, 1), (2, 3, 5), (1, 2, 1)])
def test_a_crash_at_any_step_loses_nothing(tmp_path: Path, before: int, after: int, then: int) -> None:
    at = 0
    while True:
        folder = tmp_path / f"log{at}"
        write(divide(folder, before), b"x")
        try:
            divide(folder, after, Crashing(at, crash))
        except Crash:
            pass
        else:
            break
        assert read(divide(folder, then)) == expected(b"x"), f"after a crash at change {at}"
        at += 1
    assert at > 20


def test_two_crashes_lose_nothing(tmp_path: Path) -> None:
    for first in range(0, 60, 7):
        for second in range(0, 60, 11):
            folder = tmp_path / f"log{first}-{second}"
            write(divide(folder, 2), b"x")
            for at, places in ((first, 4), (second, 3)):
                with suppress(Crash):
                    divide(folder, places, Crashing(at, crash))
            assert read(divide(folder, 1)) == expected(b"x")


@pytest.mark.parametrize("at", [3, 17, 29, 41])
def test_kill_9_in_the_midst_of_it(tmp_path: Path, at: int) -> None:
    folder = tmp_path / "log"
    write(divide(folder, 1), b"x")
    code = (
        "import os, sys; from pathlib import Path; from tests.storage.test_dividing import *; "
        f"divide(Path(sys.argv[1]), 4, Crashing({at}, lambda: os.kill(os.getpid(), 9)))"
    )
    process = subprocess.run([sys.executable, "-c", code, folder], cwd=os.getcwd(), timeout=60, check=False)  # noqa: PTH109 - the package `tests` is there
    assert process.returncode == -signal.SIGKILL
    assert read(divide(folder, 4)) == expected(b"x")


def test_nobody_takes_a_divided_log_for_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write(divide(folder, 2), b"x")
    with pytest.raises(StorageError, match="holds the logs of several workers"):
        SegmentLog(folder)
    with suppress(Crash):
        divide(folder, 1, Crashing(15, crash))
    with pytest.raises(StorageError, match="holds the logs of several workers"):
        SegmentLog(folder)
    assert read(divide(folder, 1)) == expected(b"x")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    paths = divide(folder, 2)
    write(paths, b"x")
    log = SegmentLog(paths[1])
    with pytest.raises(StorageError, match="is in use by the process"):
        divide(folder, 3)
    log.close()
    parts = dividing.divide("segment-log", folder, 2, owner(2))
    with pytest.raises(StorageError, match="is in use by the process"):
        divide(folder, 2)
    parts.close()
    assert read(divide(folder, 3)) == expected(b"x")


def test_a_partition_that_is_there_twice_is_named_and_nothing_moves(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    paths = divide(folder, 2)
    write(paths, b"x")
    wrong = paths[1 - owner(2)(KEYS[0])]
    log = SegmentLog(wrong)
    append(log, KEYS[0], b"another")
    log.commit()
    log.close()
    with pytest.raises(StorageError, match=r"a:0 is in .* and in .*: nothing was moved"):
        divide(folder, 1)
