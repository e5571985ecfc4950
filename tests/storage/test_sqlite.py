"""What is SQLite's own: files that are not ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from portask.errors import StorageError

from .databases import database

FILE = "portask.sqlite"


def test_another_version_and_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    newer, foreign, garbage = tmp_path / "newer", tmp_path / "foreign", tmp_path / "garbage"
    database("sqlite", newer).close()
    foreign.mkdir()
    garbage.mkdir()
    for folder, text in ((newer, "PRAGMA user_version = 7"), (foreign, "CREATE TABLE theirs (a)")):
        with closing(sqlite3.connect(folder / FILE)) as connection:
            connection.execute(text)
    (garbage / FILE).write_bytes(b"no database " * 5000)
    for folder, text in (
        (newer, r"has format version 7, and this program knows 1: use a newer portask"),
        (foreign, r"is a database of something else: choose another folder"),
        (
            garbage,
            r"cannot be opened: .*; it is damaged, or no database of SQLite: put a backup in its place",
        ),
    ):
        for _ in range(2):  # the folder's lock is given back
            with pytest.raises(StorageError, match=text) as caught:
                database("sqlite", folder)
            assert "\n" not in str(caught.value)
    with closing(sqlite3.connect(foreign / FILE)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
