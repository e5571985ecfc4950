"""What is LMDB's own: its file, how that grows, and files that are not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portask.errors import StorageError, StorageFull
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

from .databases import database
from .shims import batch, fill, payloads

lmdb = pytest.importorskip("lmdb", reason="needs lmdb: pip install lmdb")


def make(folder: Path, mode: str = "os", **options: Any) -> Any:
    return database("lmdb", folder, mode, **options)


@pytest.mark.parametrize("mode", ["os", "synced"])
def test_the_file_grows_under_readers_and_writers(tmp_path: Path, mode: str) -> None:
    storage = make(tmp_path / "log", mode)
    driver = Driver(storage)
    sizes, held = set(), []
    for number in range(60):
        storage.append(KEY, batch_of(b"%d" % number + bytes(400_000)), BASE, lambda *_: None)
        storage.commit()
        if number % 7 == 0:
            driver.flush()
            held.append(driver.read(number)[0])
        sizes.add((tmp_path / "log" / "data.mdb").stat().st_size)
    driver.flush()
    assert len(sizes) > 5
    assert [bytes(data)[:120].find(b"%d" % (7 * at)) > 0 for at, data in enumerate(held)] == [True] * 9
    assert sorted(payloads(storage)) == list(range(60))
    storage.close()
    again = make(tmp_path / "log", mode)
    assert Driver(again).append(batch(1)) == 60
    again.close()


def test_a_lower_limit_refuses_appends_and_nothing_else(tmp_path: Path) -> None:
    storage = make(tmp_path / "log")
    acked = fill(storage, range(3000))
    storage.close()
    again = make(tmp_path / "log", max_bytes=150_000)
    with pytest.raises(StorageFull, match="150,000 bytes that it may have: trim, or raise"):
        Driver(again).append(batch(1))
    assert payloads(again) == acked
    again.trim(KEY, max_bytes=10_000)
    assert Driver(again).append(batch(1)) == len(acked)
    again.close()


def test_a_batch_larger_than_the_file_is_stored(tmp_path: Path) -> None:
    storage = make(tmp_path / "log")
    large = batch_of(bytes(9_000_000))
    assert Driver(storage).append(large) == 0
    assert len(Driver(storage).read(0)[0]) == len(large.data)
    storage.close()


def test_a_start_that_was_cut_short_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "data.mdb.new").write_bytes(bytes(4096))
    storage = make(tmp_path / "log", "synced")
    Driver(storage).append(batch(1))
    assert {path.name for path in (tmp_path / "log").iterdir()} == {"data.mdb", "lock.mdb", "lock", "storage"}
    storage.close()


def test_another_version_and_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    newer, foreign, garbage = tmp_path / "newer", tmp_path / "foreign", tmp_path / "garbage"
    make(newer).close()
    foreign.mkdir()
    for folder, value in ((newer, b"\x07\0\0\0"), (foreign, b"")):
        with lmdb.open(str(folder)) as env, env.begin(write=True) as txn:
            txn.put(b"v" if value else b"theirs", value or b"1")
    garbage.mkdir()
    (garbage / "data.mdb").write_bytes(b"no database " * 5000)
    for folder, text in (
        (newer, r"has format version 7, and this program knows 1: use a newer portask"),
        (foreign, r"is a database of something else: choose another folder"),
        (garbage, r"cannot be opened: .*; it is damaged, or no database of LMDB: put a backup in its place"),
    ):
        for _ in range(2):  # the folder's lock is given back
            with pytest.raises(StorageError, match=text) as caught:
                make(folder)
            assert "\n" not in str(caught.value)
