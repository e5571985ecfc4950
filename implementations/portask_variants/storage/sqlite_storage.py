"""SQLite as a storage: what a general database costs, and what it brings.

::

    FOLDER/portask.sqlite        the database; beside it, while it is open, -wal and -shm
    FOLDER/lock, FOLDER/storage  as of any storage here (`portask.storage.lock`)

    batches_N    base, data                                   one table a partition, N its number; base is the row's id
    partitions   number, topic, partition, bytes
    producers    partition, producer (8 bytes), epoch, sequence, position
    groups       name, partition, state

A table a partition, because each then grows at its end, where SQLite is fastest and fills its pages; a table for
all would be written in as many places as partitions are, or pay for an index beside it.

**What its settings promise** (https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous). With a
write-ahead log a commit appends the pages that changed to it. From time to time (1000 pages) a checkpoint copies
them into the database.

* Mode ``os``, ``synchronous=NORMAL``: a commit is a write to the kernel and survives kill -9. Checkpoints sync the
  log before they copy, and the database after, so that **after a power loss it is whole, and without the newest
  records**, as the segment log in this mode is and LMDB is not. The price: every few MiB one commit waits for
  the device, and the broker with it.
* Mode ``synced``, ``synchronous=FULL``: a commit syncs the log, too. It survives power loss.
* ``synchronous=OFF`` waits for nothing and may damage the whole database at a power loss. Not used.

**Room.** ``max_bytes`` bounds the database; the log beside it comes to a few MiB more. Trims make room in the
database and give nothing back to the device. On a device that is full they may have to wait for room, because they
are written to the log first.

**Damage.** SQLite has no checksums. A damaged batch is found by its own; a damaged page of the database is an
error where SQLite notices it.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from portask.contracts import Compression
from portask.errors import ConfigError, StorageError, StorageFull
from portask.messages import TopicPartition
from portask.storage.files import explained
from portask.storage.options import check
from portask.wire import batches
from portask_variants.storage.database import Stored, Work
from portask_variants.storage.transactional import MODES, TransactionalStorage

NAME = "sqlite"
_APPLICATION = 0x50544B31
"""Marks a database as ours: "PTK1" (``PRAGMA application_id``)."""
_VERSION = 1
_LEAST = 128 << 10
_SCHEMA = f"""
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_VERSION};
    CREATE TABLE partitions (number INTEGER PRIMARY KEY, topic TEXT, partition INTEGER, bytes INTEGER);
    CREATE TABLE producers (
        partition INTEGER, producer BLOB, epoch INTEGER, sequence INTEGER, position INTEGER,
        PRIMARY KEY (partition, producer)
    ) WITHOUT ROWID;
    CREATE TABLE groups (name TEXT, partition INTEGER, state BLOB, PRIMARY KEY (name, partition)) WITHOUT ROWID;
"""
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""What SQLite calls an I/O error of a write is nearly always a quota, or a limit of the file's size."""


class SqliteStorage(TransactionalStorage):
    """Keeps record batches in SQLite; has every ability that `portask.storage.SegmentLog` has.

    Args:
        path: The folder; made if it is not there.
        mode: What an ack means: ``os`` or ``synced``.
        coalesce_bytes: Target size of batches that are joined from small ones.
        max_bytes: Of the database, beyond which appends fail with `StorageFull`; 0 for what the device holds.
        compression: Packs joined batches; ``None`` leaves them.

    Raises:
        ConfigError: an option makes no sense.
        StorageError: another process or another storage has the folder, or its database is not one of ours.
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path = "portask-data",
        *,
        mode: Literal["os", "synced"] = "os",
        coalesce_bytes: int = 64 << 10,
        max_bytes: int = 0,
        compression: Compression | None = None,
    ) -> None:
        check(NAME, MODES, mode, coalesce_bytes=coalesce_bytes, max_bytes=max_bytes)
        if 0 < max_bytes < _LEAST:
            raise ConfigError(f"{NAME}: max_bytes is {max_bytes}, and {_LEAST} is the least, 0 for no limit")
        super().__init__(
            NAME,
            path,
            lambda folder: SqliteDatabase(folder, synced=mode == "synced", max_bytes=max_bytes),
            mode=mode,
            coalesce_bytes=coalesce_bytes,
            compression=compression,
        )


class SqliteDatabase:
    """See `portask_variants.storage.database.Database`.

    Args:
        folder: Locked by the caller.
        synced: Whether `write` waits for the device.
        max_bytes: Of the database; 0 for no limit.

    Raises:
        StorageError: it cannot be opened, or is not ours.
    """

    def __init__(self, folder: str, *, synced: bool, max_bytes: int) -> None:
        self._file = Path(folder) / "portask.sqlite"
        self._limit = max_bytes
        self._known: set[int] = set()
        with self._explained("be opened"):
            self._writing = self._connect()
            try:
                self._prepare(synced=synced)
                self._reading = self._connect()
            except BaseException:
                self._writing.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        # no transactions but those that we begin; the thread that writes is not the one that opens
        return sqlite3.connect(
            self._file, isolation_level=None, check_same_thread=False, cached_statements=1024
        )

    def _prepare(self, *, synced: bool) -> None:
        run = self._writing.execute
        ((application,),) = run("PRAGMA application_id").fetchall()
        ((version,),) = run("PRAGMA user_version").fetchall()
        ((things,),) = run("SELECT count(*) FROM sqlite_schema").fetchall()
        if things and application != _APPLICATION:
            raise StorageError(f"{self._file} is a database of something else: choose another folder")
        if version > _VERSION:
            raise StorageError(
                f"{self._file} has format version {version}, and this program knows {_VERSION}: use a newer portask"
            )
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        if not things:
            self._writing.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        if self._limit:
            ((page,),) = run("PRAGMA page_size").fetchall()
            run(f"PRAGMA max_page_count = {self._limit // page}")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """SQLite's errors in our words.

        Raises:
            StorageFull: there is no room.
            StorageError: anything else.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise self._ours(error, doing) from error

    def _ours(self, error: sqlite3.Error, doing: str) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in _NO_ROOM and self._limit:
            return StorageFull(
                f"{self._file} has the {self._limit:,} bytes that it may have, or its device is full: trim, or raise "
                f"storage.options.max_bytes"
            )
        if code in _NO_ROOM:
            return explained(OSError(errno.ENOSPC, ""), str(self._file))
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            what = (
                "it is damaged, or no database of SQLite: put a backup in its place, or choose another folder"
            )
        else:
            what = "see to the device, and try again"
        return StorageError(f"{self._file} cannot {doing}: {error}; {what}")

    # ── a start ───────────────────────────────────────────────────────────────────────────────────────────

    def partitions(self) -> Iterable[Stored]:
        """See `Database.partitions`. Costs some 50 µs a partition, however much is stored."""
        found: list[Stored] = []
        with self._explained("be read"):
            for number, topic, partition, size in self._rows("SELECT * FROM partitions"):
                self._known.add(number)
                first = newest = end = 0
                for newest, head in self._rows(
                    f"SELECT base, substr(data, 1, 64) FROM batches_{number} ORDER BY base DESC LIMIT 1"
                ):
                    end = newest + batches.peek(head)[2]
                    ((first,),) = self._rows(f"SELECT min(base) FROM batches_{number}")
                producers = {
                    int.from_bytes(producer, "big"): (epoch, sequence, position)
                    for producer, epoch, sequence, position in self._rows(
                        "SELECT producer, epoch, sequence, position FROM producers WHERE partition = ?",
                        number,
                    )
                }
                key = TopicPartition(topic, partition)
                found.append(Stored(number, key, first, end, newest, size, producers))
        return found

    def groups(self) -> Iterable[tuple[str, int, bytes]]:
        """See `Database.groups`."""
        with self._explained("be read"):
            return self._rows("SELECT name, partition, state FROM groups")

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        return self._reading.execute(query, values).fetchall()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────

    def write(self, works: Sequence[Work]) -> None:
        """See `Database.write`. About 40 µs, and 3 µs for each batch."""
        connection = self._writing
        new: set[int] = set()
        with self._explained("be written"):
            connection.execute("BEGIN IMMEDIATE")
            try:
                for work in works:
                    self._store(connection.execute, connection.executemany, work, new)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._known |= new

    def _store(
        self, run: Callable[..., Any], run_many: Callable[..., Any], work: Work, new: set[int]
    ) -> None:
        for number, key, turn in work.parts:
            self._introduce(run, number, key, new)
            rows = [(batches.peek(each)[0], each) for each in turn.parts]
            run_many(f"INSERT INTO batches_{number} VALUES (?, ?)", rows)
            run("UPDATE partitions SET bytes = bytes + ? WHERE number = ?", (turn.size, number))
            if turn.standings:
                run_many(
                    "REPLACE INTO producers VALUES (?, ?, ?, ?, ?)",
                    [
                        (number, producer.to_bytes(8, "big"), *standing)
                        for producer, standing in turn.standings
                    ],
                )
        for group in work.drops:
            run("DELETE FROM groups WHERE name = ?", (group,))
        for group, number, key, state in work.states:
            self._introduce(run, number, key, new)
            run("REPLACE INTO groups VALUES (?, ?, ?)", (group, number, state))
        for cut in work.cuts:
            begins = f"FROM batches_{cut.number} WHERE base < ?"
            run(
                f"UPDATE partitions SET bytes = bytes - (SELECT coalesce(sum(length(data)), 0) {begins}) "
                "WHERE number = ?",
                (cut.before, cut.number),
            )
            run(f"DELETE {begins}", (cut.before,))
            run("DELETE FROM producers WHERE partition = ? AND position < ?", (cut.number, cut.before))

    def _introduce(self, run: Callable[..., Any], number: int, key: TopicPartition, new: set[int]) -> None:
        """Makes the table of a partition that has none."""
        if number not in self._known and number not in new:
            run(f"CREATE TABLE batches_{number} (base INTEGER PRIMARY KEY, data BLOB)")
            run("INSERT INTO partitions VALUES (?, ?, ?, 0)", (number, key.topic, key.partition))
            new.add(number)

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def read(self, number: int, offset: int, limit: int, end: int) -> list[tuple[int, bytes]]:
        """See `Database.read`. About 15 µs, and 2 µs for each batch."""
        found: list[tuple[int, bytes]] = []
        before = f"SELECT max(base) FROM batches_{number} WHERE base <= ?"
        with (
            self._explained("be read"),
            closing(
                self._reading.execute(
                    f"SELECT base, data FROM batches_{number} WHERE base >= coalesce(({before}), 0) AND base < ? "
                    "ORDER BY base",
                    (offset, end),
                )
            ) as rows,
        ):
            for base, data in rows:
                if found and len(data) > limit:
                    break
                found.append((base, data))
                limit -= len(data)
        return found

    def sizes(self, number: int, start: int, most: int) -> list[tuple[int, int]]:
        """See `Database.sizes`."""
        with self._explained("be read"):
            return self._rows(
                f"SELECT base, length(data) FROM batches_{number} WHERE base >= ? ORDER BY base LIMIT ?",
                start,
                most,
            )

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────

    def sync(self) -> None:
        """See `Database.sync`: a checkpoint."""
        with self._explained("be synced"):
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """See `Database.close`."""
        self._reading.close()
        self._writing.close()
