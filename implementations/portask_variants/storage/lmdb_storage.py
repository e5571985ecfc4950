"""LMDB as a storage: a memory-mapped B+tree, one copy-on-write transaction a turn.

::

    FOLDER/data.mdb    everything, in one tree without named databases: each would cost a page more a commit
    FOLDER/lock.mdb    LMDB's own: its writer's mutex and its table of readers
    FOLDER/lock, FOLDER/storage     as of any storage here (`portask.storage.lock`)

    key                                                   value
    "b" partition (4) base offset (8)                     a stamped batch, byte for byte as it travels
    "g" length (2) group, partition (4)                   the group's state
    "n" partition (4) producer (8)                        epoch (2) sequence (4) offset (8)
    "p" partition (4)                                     bytes stored (8) number (4) topic, UTF-8
    "t"                                                   counts transactions that only make freed pages usable
    "v"                                                   format version (4)

Numbers in keys are big-endian, so that they sort; in values little-endian.

**What its flags promise** (LMDB 0.9: the comments of ``mdb_env_open`` in ``lmdb.h``, and ``mdb_txn_commit``
in ``mdb.c``). A commit writes the pages that it changed to places that no older snapshot uses, then one of
two meta pages that take turns; whoever opens the file believes the newer meta page.

* Mode ``synced``, the defaults. ``fdatasync`` between the pages and the meta page, which is written through a
  descriptor that is open with ``O_DSYNC``: two waits for the device a transaction. After the ack it survives
  kill -9 and power loss.
* Mode ``os``, ``MDB_NOSYNC``: the same writes, no wait. They are in the kernel when the commit returns, in
  order, so it survives kill -9. **After a power loss the whole database may be damaged**, not only its end:
  the device may have got the meta page and not the pages that it points to, and there is no older meta page
  to fall back to once both were written since the last sync. "A system crash can corrupt the database"
  (``lmdb.h``), unless the file system keeps the order of writes, which ext4 and XFS do not. The segment log
  in mode ``os`` loses its newest records and no others.
* ``MDB_NOSYNC`` with a sync from another thread, which would give group commit for nothing, is therefore no
  ``synced``: between two syncs a power loss could take what was acknowledged long ago. So commits that sync
  run on a thread.
* ``MDB_NOMETASYNC`` keeps the database whole and may undo the last transaction: it pays for a sync a turn,
  and promises no more than ``os`` does. Not used.
* ``MDB_WRITEMAP`` (faster for small turns) maps the file writable and as large as the map, with holes. When
  the device is full, a store into a hole is SIGBUS and ends the broker, where a write is an error that is
  answered. With ``MDB_NOSYNC`` it also "leaves the system with no hint for when to write". Not used.

**Room.** The file is allocated before LMDB may write to it, an eighth more at a time, up to ``max_bytes`` or
to what the device has. So a full device is met by the allocation, which says so, and not by a commit, to which
LMDB answers with an I/O error when it could write half of it. When there is no more, appends get
`StorageFull` and reading goes on. A part of the file is kept for trims, because deleting copies pages, too.
What they free is used again by the transaction after next; the file never shrinks. A batch above 2 KB takes
whole pages of 4 KiB of its own, smaller ones share pages that are half full where several partitions take
turns.

**Damage.** LMDB 0.9 has no checksums. A damaged batch is found by its own; a damaged page of the tree, or a
device that does not give a page of the map, may end the process.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any, Literal

import lmdb

from portask.contracts import Compression
from portask.errors import ConfigError, StorageError
from portask.messages import TopicPartition
from portask.storage.files import explained
from portask.storage.options import check
from portask.wire import batches
from portask_variants.storage.database import Cut, Stored, Work
from portask_variants.storage.lmdb_room import Room
from portask_variants.storage.transactional import MODES, TransactionalStorage

NAME = "lmdb"
_VERSION = 1
_LEAST = 128 << 10
_BATCH = Struct(">BIQ")
_PARTITION = Struct(">BI")
_PRODUCER = Struct(">BIQ")
_STANDING = Struct("<HIQ")
_KNOWN = Struct("<QI")
_SIZE = 8
_B, _G, _N, _P = b"bgnp"
_TOUCHED, _FORMAT = b"t", b"v"


class LmdbStorage(TransactionalStorage):
    """Keeps record batches in LMDB; has every ability that `portask.storage.SegmentLog` has.

    Args:
        path: The folder; made if it is not there.
        mode: What an ack means: ``os`` or ``synced``.
        coalesce_bytes: Target size of batches that are joined from small ones.
        max_bytes: Of the database's file, beyond which appends fail with `StorageFull`; 0 for what the device holds.
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
            lambda folder: LmdbDatabase(folder, synced=mode == "synced", max_bytes=max_bytes),
            mode=mode,
            coalesce_bytes=coalesce_bytes,
            compression=compression,
        )


class LmdbDatabase:
    """See `portask_variants.storage.database.Database`.

    Args:
        folder: Locked by the caller.
        synced: Whether `write` waits for the device.
        max_bytes: Of the file; 0 for no limit.

    Raises:
        StorageError: it cannot be opened, or is not ours.
    """

    def __init__(self, folder: str, *, synced: bool, max_bytes: int) -> None:
        self._file = Path(folder) / "data.mdb"
        self._trimmed = False
        self._records: dict[int, tuple[int, bytes]] = {}  # partition → bytes, and its name as it is stored
        with self._explained("be opened"):
            if not self._file.exists():
                _create(self._file)
            self._room = Room(self._file, max_bytes)
            try:
                self._env: Any = lmdb.open(
                    folder, map_size=self._room.size, sync=synced, mode=0o644, max_spare_txns=2
                )
            except BaseException:
                self._room.close()
                raise
            self._room.adopt(self._env)
            with self._env.begin() as txn:
                version = int.from_bytes(txn.get(_FORMAT, b""), "little")
        if not 0 < version <= _VERSION:
            self.close()
            raise StorageError(
                f"{self._file} has format version {version}, and this program knows {_VERSION}: use a newer portask"
                if version
                else f"{self._file} is a database of something else: choose another folder"
            )

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """LMDB's errors in our words.

        Raises:
            StorageError: LMDB has something to complain about.
        """
        try:
            yield
        except lmdb.Error as error:
            if isinstance(error, lmdb.DiskError):  # a file system that needs room to write what is allocated
                raise explained(OSError(errno.ENOSPC, ""), str(self._file)) from error
            raise StorageError(f"{self._file} cannot {doing}: {error}; {_next_step(error)}") from error

    # ── a start ───────────────────────────────────────────────────────────────────────────────────────────

    def partitions(self) -> Iterable[Stored]:
        """See `Database.partitions`. Costs a few µs a partition and producer, however much is stored."""
        found: list[Stored] = []
        with self._reading() as cursor:
            for key, value in list(_under(cursor, bytes([_P]))):
                number = int.from_bytes(key[1:], "big")
                size, partition = _KNOWN.unpack_from(value)
                self._records[number] = size, value[_SIZE:]
                topic = value[_KNOWN.size :].decode()
                first, newest, end = _ends(cursor, number)
                producers = {
                    int.from_bytes(at[_PARTITION.size :], "big"): _STANDING.unpack(standing)
                    for at, standing in _under(cursor, _PARTITION.pack(_N, number))
                }
                found.append(
                    Stored(number, TopicPartition(topic, partition), first, end, newest, size, producers)
                )
        return found

    def groups(self) -> Iterable[tuple[str, int, bytes]]:
        """See `Database.groups`."""
        with self._reading() as cursor:
            return [
                (key[3:-4].decode(), int.from_bytes(key[-4:], "big"), value)
                for key, value in _under(cursor, bytes([_G]))
            ]

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────

    def write(self, works: Sequence[Work]) -> None:
        """See `Database.write`. About 10 µs, and 2 µs for each batch."""
        trims = bool(works[0].cuts)
        if not trims:
            self._room.reserve(works)
        with self._explained("be written"):
            while True:
                try:
                    self._records |= self._transact(works)
                    break
                except lmdb.MapFullError:  # what is free is not free yet, or lies apart
                    if not self._make_usable():
                        self._room.grow()
        if trims:
            self._trimmed = True
            self._room.recount()

    def _transact(self, works: Sequence[Work]) -> dict[int, tuple[int, bytes]]:
        """One transaction; the records of the partitions that it changed.

        Raises:
            lmdb.Error: nothing was stored.
        """
        known = _Records(self._records)
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            for work in works:
                for number, key, turn in work.parts:
                    known.add(number, key, turn.size)
                    cursor.putmulti(
                        [(_BATCH.pack(_B, number, batches.peek(each)[0]), each) for each in turn.parts]
                    )
                    for producer, standing in turn.standings:
                        txn.put(_PRODUCER.pack(_N, number, producer), _STANDING.pack(*standing))
                for group in work.drops:
                    for at, _ in list(_under(cursor, _group(group))):
                        txn.delete(at)
                for group, number, key, state in work.states:
                    known.add(number, key, 0)
                    txn.put(_group(group) + number.to_bytes(4, "big"), state)
                for cut in work.cuts:
                    known.shrink(cut.number, _cut(txn, cursor, cut))
            for number, (size, name) in known.changed.items():
                txn.put(_PARTITION.pack(_P, number), size.to_bytes(_SIZE, "little") + name)
        return known.changed

    def _make_usable(self) -> bool:
        """Has what trims freed usable for the next transaction; false if nothing was freed since."""
        trimmed, self._trimmed = self._trimmed, False
        if trimmed:
            with self._env.begin(write=True) as txn:
                count = int.from_bytes(txn.get(_TOUCHED, b""), "little") + 1
                txn.put(_TOUCHED, count.to_bytes(8, "little"))
        return trimmed

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _reading(self, *, buffers: bool = False) -> Iterator[Any]:
        """A cursor in a snapshot of its own.

        Raises:
            StorageError: it cannot be read.
        """
        with (
            self._explained("be read"),
            self._room.mapping,
            self._env.begin(buffers=buffers) as txn,
            txn.cursor() as cursor,
        ):
            yield cursor

    def read(self, number: int, offset: int, limit: int, end: int) -> list[tuple[int, bytes]]:
        """See `Database.read`. About 3 µs, and 1 µs for each batch."""
        found: list[tuple[int, bytes]] = []
        key, own = _BATCH.pack(_B, number, offset), _PARTITION.pack(_B, number)
        with self._reading(buffers=True) as cursor:
            exact = cursor.set_range(key) and cursor.key() == key
            if not exact and not (cursor.prev() and cursor.key()[: len(own)] == own):
                cursor.set_range(key)  # nothing is before it
            for at, value in cursor.iternext():
                if at[: len(own)] != own:
                    break
                base = int.from_bytes(at[len(own) :], "big")
                if base >= end or (found and len(value) > limit):
                    break
                found.append((base, bytes(value)))
                limit -= len(value)
        return found

    def sizes(self, number: int, start: int, most: int) -> list[tuple[int, int]]:
        """See `Database.sizes`."""
        own = _PARTITION.pack(_B, number)
        found: list[tuple[int, int]] = []
        with self._reading(buffers=True) as cursor:
            if cursor.set_range(_BATCH.pack(_B, number, start)):
                for at, value in islice(cursor.iternext(), most):
                    if at[: len(own)] != own:
                        break
                    found.append((int.from_bytes(at[len(own) :], "big"), len(value)))
        return found

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────

    def sync(self) -> None:
        """See `Database.sync`."""
        with self._explained("be synced"):
            self._env.sync(True)

    def close(self) -> None:
        """See `Database.close`."""
        self._env.close()
        self._room.close()


def _create(path: Path) -> None:
    """A new database, whole once it has its name, whenever the power fails.

    Raises:
        lmdb.Error, OSError: it cannot be made.
    """
    new, lock = Path(f"{path}.new"), Path(f"{path}.new-lock")
    new.unlink(missing_ok=True)
    with lmdb.open(str(new), map_size=_LEAST, subdir=False, mode=0o644) as env:
        with env.begin(write=True) as txn:
            txn.put(_FORMAT, _VERSION.to_bytes(4, "little"))
        env.sync(True)
    new.rename(path)
    lock.unlink()


class _Records:
    """Partition records as a transaction leaves them."""

    def __init__(self, stored: dict[int, tuple[int, bytes]]) -> None:
        self._stored = stored
        self.changed: dict[int, tuple[int, bytes]] = {}

    def add(self, number: int, key: TopicPartition, size: int) -> None:
        """More bytes; the partition may be new."""
        known = self.changed.get(number) or self._stored.get(number)
        if known is None:
            self.changed[number] = size, key.partition.to_bytes(4, "little") + key.topic.encode()
        elif size:
            self.changed[number] = known[0] + size, known[1]

    def shrink(self, number: int, size: int) -> None:
        """Fewer bytes."""
        before, name = self.changed.get(number) or self._stored[number]
        self.changed[number] = before - size, name


def _cut(txn: Any, cursor: Any, cut: Cut) -> int:
    """Deletes what a trim forgets; returns the bytes of the batches among it."""
    freed = 0
    begin, end = _BATCH.pack(_B, cut.number, 0), _BATCH.pack(_B, cut.number, cut.before)
    found = cursor.set_range(begin)
    while found and cursor.key() < end:
        freed += len(cursor.value())
        found = cursor.delete()
    for producer in cut.producers:
        at = _PRODUCER.pack(_N, cut.number, producer)
        standing = txn.get(at)
        if standing is not None and _STANDING.unpack(standing)[2] < cut.before:
            txn.delete(at)
    return freed


def _under(cursor: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key that begins with ``prefix``, with its value."""
    if cursor.set_range(prefix):
        for key, value in cursor.iternext():
            if key[: len(prefix)] != prefix:
                return
            yield key, value


def _ends(cursor: Any, number: int) -> tuple[int, int, int]:
    """First offset, base offset of the newest batch and next offset of a partition; zeros where nothing is stored."""
    own = _PARTITION.pack(_B, number)
    if not cursor.set_range(own) or cursor.key()[: len(own)] != own:
        return 0, 0, 0
    first = int.from_bytes(cursor.key()[len(own) :], "big")
    found = cursor.prev() if cursor.set_range(_PARTITION.pack(_B, number + 1)) else cursor.last()
    if not found:
        raise LookupError(f"partition {number} begins and does not end")
    newest = int.from_bytes(cursor.key()[len(own) :], "big")
    return first, newest, newest + batches.peek(cursor.value())[2]


def _group(group: str) -> bytes:
    name = group.encode()
    return bytes([_G]) + len(name).to_bytes(2, "big") + name


def _next_step(error: lmdb.Error) -> str:
    if isinstance(error, lmdb.PanicError):
        return "see to the device, then start the broker again"
    if isinstance(
        error, lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.CorruptedError | lmdb.PageNotFoundError
    ):
        return "it is damaged, or no database of LMDB: put a backup in its place, or choose another folder"
    return "see to the device, and try again"
