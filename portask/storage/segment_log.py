"""The durable storage that needs nothing but a folder: `SegmentLog`.

::

    FOLDER/lock                               held by the one process that has the log open
    FOLDER/groups.log                         what consumer groups know (`portask.storage.groups`)
    FOLDER/topics/TOPIC/NUMBER/OFFSET.log     record batches (`portask.storage.segments`)
    FOLDER/topics/TOPIC/NUMBER/OFFSET.index   vouches for a segment (`portask.storage.index`)

**One write a turn.** Appends only note what came; `SegmentLog.commit`, which the broker calls once its turn has handled
all arrivals, joins neighbouring one-record batches, hands each partition's new bytes to the kernel in one call, and
calls back. So a turn costs the same few system calls whether it brought one message or a thousand.

**What an ack means.** ``memory``: it is in this process's RAM, and reaches the kernel some time. ``os``: the kernel has
it; it survives kill -9. ``synced``: the device has it (`portask.storage.syncing`); records are shown to readers only
then, so that nobody acts on a record that a power loss takes back.

**When something goes wrong.** A write that fails leaves nothing half-written behind: the file is cut back before
anything else is written to it, the appends are refused (`StorageFull` when there is no room), reading goes on, and the
next append tries again. A sync that fails ends publishing for this process. Damage that a start or a reader meets is
quarantined (`portask.storage.recovery`).
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from portask.contracts import Appended, Compression, Durability, Found, Read
from portask.errors import (
    ConfigError,
    OffsetOutOfRange,
    PortaskError,
    StorageError,
    StorageFull,
    UnknownPartition,
)
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.storage import recovery
from portask.storage.files import Files, explained
from portask.storage.gathering import gather
from portask.storage.groups import GroupLog, Saved
from portask.storage.histogram import Histogram
from portask.storage.index import Standing
from portask.storage.lock import FolderLock
from portask.storage.partition import PartitionLog, Shared, Turn
from portask.storage.segments import Segment
from portask.storage.syncing import Syncer, Wait
from portask.wire import batches
from portask.wire.compression import attributes_for

log = structlog.get_logger("portask.storage")

TOPICS = "topics"
_GATHERED = 1 << 20
"""Bytes of appends after which they are written even though the turn goes on."""
_WAITING = 1 << 20
"""Mode ``memory``: bytes a partition keeps in RAM only."""
_NO_LIMIT = 1 << 62
_stamp = batches.stamp
_Pending = list[tuple[int, bytes, Appended]]


class _Written(NamedTuple):
    """Appends that wait for a sync."""

    log: PartitionLog
    segment: Segment
    at: int
    turn: Turn
    pending: _Pending


class SegmentLog:
    """Keeps record batches in segment files; `Storage`, `Catalog`, `Gathering`, `Deferred`, `Producers`, `GroupState`.

    Args:
        path: The folder; made if it is not there.
        mode: What an ack means: ``memory``, ``os`` or ``synced``.
        segment_bytes: Another segment is begun before one grows beyond this. Retention frees whole segments.
        coalesce_bytes: Target size of batches that are joined from small ones.
        index_interval: Bytes between index entries: what a reader walks at most to find its offset.
        max_bytes: Bytes over all partitions, beyond which appends fail with `StorageFull`; 0 for what the device holds.
        cache_bytes: RAM for the newest batches, for readers at the tail. Everything else is left to the kernel's cache.
        open_files: Segment files kept open, about.
        compression: Packs joined batches; ``None`` leaves them.
        files: The file layer; tests hand in one that fails.

    Raises:
        ConfigError: an option makes no sense.
        StorageError: another process has the folder, or a newer format is in it.
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path = "portask-data",
        *,
        mode: Literal["memory", "os", "synced"] = "os",
        segment_bytes: int = 64 << 20,
        coalesce_bytes: int = 64 << 10,
        index_interval: int = 32 << 10,
        max_bytes: int = 0,
        cache_bytes: int = 2 << 20,
        open_files: int = 256,
        compression: Compression | None = None,
        files: Files | None = None,
    ) -> None:
        _check(
            mode,
            segment_bytes=segment_bytes,
            coalesce_bytes=coalesce_bytes,
            index_interval=index_interval,
            max_bytes=max_bytes,
            cache_bytes=cache_bytes,
            open_files=open_files,
        )
        self.durability = Durability(mode)
        self.notify: Callable[[], None] = lambda: None
        self.load = 0.0
        self._mode = mode
        self._coalesce_bytes = coalesce_bytes
        self._compression = compression
        self._finish = self._packed if compression is not None else None
        self._files = files or Files()
        self._folder = os.fspath(path)
        self._closed = False
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._dirty: list[PartitionLog] = []
        self._gathered = 0
        self._completed: deque[tuple[Iterator[tuple[int, bytes, Appended]], PortaskError | None]] = deque()
        self._completing = False
        new = not Path(path).exists()
        Path(path).mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._folder)
        try:
            self._root = self._files.open_to_read(self._folder)
        except BaseException:
            self._lock.release()
            raise
        self._syncer = Syncer(self._files, self._root, self._notified)
        self._groups = GroupLog(self._files, self._folder)
        topics = f"{self._folder}/{TOPICS}"
        self._shared = Shared(
            self._files,
            topics,
            self._syncer,
            segment_bytes=segment_bytes,
            index_interval=index_interval,
            cache_bytes=cache_bytes,
            open_files=open_files,
        )
        try:
            if new:
                self._shared.sync_folder(os.fspath(Path(path).absolute().parent))
            self._files.make_folder(topics)
            self._shared.sync_folder(self._folder)
            self._restore(topics)
        except BaseException:
            self._release()
            raise
        used = sum(each.bytes for each in self._logs.values())
        self._room = (max_bytes or _NO_LIMIT) - used

    # ── a start
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _restore(self, topics: str) -> None:
        scanned = 0
        for partition, folder in recovery.partitions(self._files, topics).items():
            found = recovery.recover(self._files, folder, self._shared.index_interval)
            scanned += found.scanned
            for finding in found.findings:
                say = log.error if finding.kind == "quarantined" else log.warning
                say(finding.kind, partition=str(partition), segment=finding.segment, what=finding.text)
            held = PartitionLog(self._shared, partition)
            held.restore(found)
            self._logs[partition] = held
        groups = self._groups.restore()
        if groups.damaged:
            log.error("damaged group state skipped", bytes=groups.damaged, file=f"{self._folder}/groups.log")
        log.info("log opened", folder=self._folder, partitions=len(self._logs), scanned_bytes=scanned)

    # ── appending
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `portask.contracts.Storage.append`. `commit` calls ``done``, in mode ``synced`` a later `poll`."""
        data = batch.data
        size = len(data)
        if size > self._room:
            done(-1, self._refusal(size))
            return
        held = self._logs.get(partition)
        if held is None:
            try:
                held = self._logs[partition] = PartitionLog(self._shared, partition)
            except StorageError as error:
                done(-1, error)
                return
        base = held.assigned
        count = batch.count
        held.assigned = base + count
        pending = held.pending
        if not pending:
            self._dirty.append(held)
        pending.append((base, _stamp(base, now) + memoryview(data)[batches.STAMP_SIZE :], done))
        if count == 1:
            held.ones += 1
        if batch.producer:
            held.standings.append((batch.producer, batches.standing(batch, base)))
        held.pending_bytes += size
        self._room -= size
        self._gathered += size
        if self._gathered > _GATHERED:
            self.commit()

    def _refusal(self, size: int) -> StorageError:
        if self._closed:
            return StorageError("the log is closed")
        if self._syncer.failure is not None:
            return self._syncer.failure
        return StorageFull(
            f"{size:,} bytes more are above the log's limit: trim, or raise storage.options.max_bytes"
        )

    def commit(self) -> None:
        """See `portask.contracts.Gathering.commit`. One write a partition; about 5 µs each, and callbacks."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            self._gathered = 0
            for held in dirty:
                self._store(held)
        if self._groups.waiting:
            self._store_groups()
        if self._completed:
            self._complete()

    def _store(self, held: PartitionLog) -> None:
        """Writes what waits in one partition."""
        pending, held.pending = held.pending, []
        standings: Sequence[tuple[int, Standing]] = ()
        if held.standings:
            standings, held.standings = held.standings, []
        parts: Sequence[Buffer] = [data for _, data, _ in pending]
        size = given = held.pending_bytes
        held.pending_bytes = 0
        if held.ones:
            if held.ones > 1:
                parts = gather(parts, self._coalesce_bytes, 0, self._finish)
                size = sum(map(len, parts))
                self._room += given - size
            held.ones = 0
        turn = Turn(pending[0][0], held.assigned, parts, size, standings)
        mode = self._mode
        try:
            if mode == "memory":
                if held.unwritten_bytes + size > _WAITING:
                    held.write_waiting()
                held.keep(turn)
            else:
                segment, at = held.write(parts, size)
        except (OSError, StorageError) as error:
            held.assigned = held.next if mode == "memory" else held.end
            self._room += size
            reason = explained(error, str(held.key)) if isinstance(error, OSError) else error
            self._completed.append((iter(pending), reason))
            return
        if mode == "synced":
            segment.pins += 1
            held.in_flight.append(standings)
            self._syncer.sync(Wait(segment.fd, _Written(held, segment, at, turn, pending)))
            return
        if mode == "os":
            held.reveal(turn)
        self._completed.append((iter(pending), None))

    def _packed(self, batch: bytes) -> bytes:
        """A joined batch, compressed if the strategy says so."""
        assert self._compression is not None  # noqa: S101 - only called with one
        found = batches.parse(batch)
        packed = self._compression.pack(found.body, self.load)
        if packed is None:
            return batch
        return batches.build(
            packed.data,
            found.count,
            codec=found.codec,
            base_timestamp=found.base_timestamp,
            attributes=attributes_for(packed.algorithm, packed.dictionary),
            raw_length=found.raw_length,
            ttl=found.ttl,
            base_offset=found.base_offset,
            append_time=found.append_time,
        )

    def _complete(self) -> int:
        """Calls back. A callback that raises ends it; the others are called by the next `poll`."""
        if self._completing:
            return 0  # a callback appended so much that it was written: the outer call goes on
        self._completing = True
        count = 0
        completed = self._completed
        try:
            while completed:
                waiting, error = completed[0]
                for base, _, done in waiting:
                    count += 1
                    if error is None:
                        done(base, None)
                    else:
                        done(-1, error)
                completed.popleft()
        except BaseException:
            self.notify()
            raise
        finally:
            self._completing = False
        return count

    # ── completing later
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _notified(self) -> None:
        self.notify()  # looked up late: the owner sets it

    def poll(self) -> int:
        """See `portask.contracts.Deferred.poll`. Commits, too."""
        self.commit()
        waits = self._syncer.take()
        while waits:
            wait = waits.popleft()
            self._settle(wait.subject, wait.error)
        return self._complete()

    def _settle(self, subject: _Written | list[Saved], error: StorageError | None) -> None:
        """Something was synced, or was not."""
        if isinstance(subject, list):
            self._groups.pins -= 1
            self._answer(subject, error)
            return
        held, segment, at, turn, pending = subject
        segment.pins -= 1
        held.in_flight.popleft()
        if error is None:
            held.reveal(turn)
        else:
            held.unwrite(segment, at)
            self._room = -_NO_LIMIT  # nothing is taken any more
        self._completed.append((iter(pending), error))

    def _answer(self, callbacks: list[Saved], error: PortaskError | None) -> None:
        self._completed.append((iter([(0, b"", _appended(done)) for done in callbacks]), error))

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """See `portask.contracts.Storage.flush`. In mode ``memory`` the kernel has everything afterwards."""
        self.commit()
        error: PortaskError | None = self._syncer.failure
        for held in self._logs.values() if self._mode == "memory" else ():
            try:
                held.write_waiting()
            except OSError as reason:
                error = explained(reason, str(held.key))
        if self._mode == "synced" and error is None and not self._closed:
            self._groups.pins += 1
            self._syncer.sync(Wait(-1, [done]))
        else:
            done(error)

    # ── reading
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`. Completes at once; offsets that were quarantined are skipped.

        Errors: besides those of the contract, `StorageError` when the device does not give the bytes. When all up to
        the end was quarantined, `OffsetOutOfRange` with the end as ``first``.
        """
        if self._dirty:
            self.commit()  # what was appended before is read
        held = self._logs.get(partition)
        if held is None or not held.next:
            done((), _unknown(partition))
            return
        if not held.first <= offset <= held.next:
            text = f"offset {offset} of {partition} is not there: it holds {held.first} to {held.next}"
            done((), OffsetOutOfRange(text, held.first, held.next))
            return
        if offset == held.next:
            done((), None)
            return
        try:
            found = gather(held.read(offset, limit), self._coalesce_bytes)
        except (StorageError, OSError) as error:
            done((), _unreadable(error, partition))
        else:
            done(found, None)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`. Completes at once; `LATEST` is the end of what readers see."""
        if self._dirty:
            self.commit()  # what was appended before is found
        held = self._logs.get(partition)
        if held is None or not held.next:
            done(-1, _unknown(partition))
            return
        try:
            offset = held.lookup(when)
        except (StorageError, OSError) as error:
            done(-1, _unreadable(error, partition))
        else:
            done(offset, None)

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """See `portask.contracts.Storage.trim`.

        Files of whole segments are removed. Within the oldest one that stays, the new first offset is kept in RAM and
        written down by `close`: after a crash up to one segment of trimmed records is there again.
        """
        held = self._logs.get(partition)
        if held is None or not held.next:
            return
        stored = held.bytes
        try:
            held.write_waiting()
            held.trim(before, max_bytes)
        except (StorageError, OSError) as error:
            log.warning("not trimmed", partition=str(partition), reason=str(error))
        self._room += stored - held.bytes

    def partitions(self) -> Iterable[TopicPartition]:
        """See `portask.contracts.Catalog`."""
        return [partition for partition, held in self._logs.items() if held.next]

    def size(self, partition: TopicPartition) -> int:
        """See `portask.contracts.Catalog`."""
        held = self._logs.get(partition)
        return held.bytes if held else 0

    # ── producers and groups
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def producers(self, partition: TopicPartition) -> Mapping[int, Standing]:
        """See `portask.contracts.Producers`."""
        held = self._logs.get(partition)
        return held.producers if held else {}

    def save_group(self, group: str, partition: TopicPartition, state: bytes, done: Saved) -> None:
        """See `portask.contracts.GroupState`. ``done`` is called by `commit`, in mode ``synced`` by a later `poll`."""
        if self._closed or self._syncer.failure is not None:
            done(self._refusal(0))
        else:
            self._groups.save(group, partition, state, done)

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        """See `portask.contracts.GroupState`."""
        self.commit()
        return [(group, partition, state) for (group, partition), state in self._groups.states.items()]

    def drop_group(self, group: str) -> None:
        """See `portask.contracts.GroupState`."""
        self._answer(self._groups.drop(group), None)

    def _store_groups(self) -> None:
        callbacks, failed = self._groups.write()
        if failed is not None:
            self._answer(callbacks, explained(failed, "the state of consumer groups"))
            return
        try:
            self._groups.compact()
        except OSError as error:
            self._syncer.fail(error, "the groups file")
        if self._mode == "synced":
            self._groups.pins += 1
            self._syncer.sync(Wait(self._groups.fd, callbacks))
        else:
            self._answer(callbacks, None)

    # ── what a metric wants to know
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def sync_times(self) -> Histogram:
        """How long syncs took, ns."""
        return self._syncer.times

    @property
    def counters(self) -> dict[str, int]:
        """Quarantined ranges and their bytes since the start, bytes cut off torn tails at the start."""
        shared = self._shared
        return {
            "quarantined_ranges": shared.holes,
            "quarantined_bytes": shared.lost_bytes,
            "cut_bytes": shared.cut_bytes,
        }

    # ── the end
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Writes and syncs what is left, calls back, vouches for every segment, and lets others in. Idempotent."""
        if self._closed:
            return
        self.commit()
        for held in self._logs.values():
            try:
                held.write_waiting()
            except OSError as error:
                # the traceback says nothing more
                log.error("records lost", partition=str(held.key), reason=str(error))  # noqa: TRY400
        self._syncer.settle()
        self.poll()
        self._closed = True
        try:
            if self._syncer.failure is None:
                for held in self._logs.values():
                    held.seal()
        except OSError as error:
            log.warning("the next start will read more", reason=str(error))
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._room = -_NO_LIMIT
        self._syncer.close()
        self._shared.open.close_all()
        self._groups.close()
        if self._root >= 0:
            self._files.close(self._root)
            self._root = -1
        self._lock.release()


_LEAST = {
    "segment_bytes": 4096,
    "coalesce_bytes": 0,
    "index_interval": 64,
    "max_bytes": 0,
    "cache_bytes": 0,
    "open_files": 1,
}


def _check(mode: str, **sizes: int) -> None:
    if mode not in {"memory", "os", "synced"}:
        raise ConfigError(f"segment-log has the modes memory, os and synced, not {mode!r}")
    for name, value in sizes.items():
        if value < _LEAST[name]:
            raise ConfigError(f"segment-log: {name} is {value}, and {_LEAST[name]} is the least")


def why_not() -> str | None:
    """Why the log cannot be used on this machine; ``None`` if it can."""
    if not hasattr(os, "pwritev") or os.name != "posix":
        return "needs a POSIX system with pwritev (Linux, macOS 11)"
    if sys.byteorder != "little":
        return "needs a little-endian machine"
    return None


def _unknown(partition: TopicPartition) -> UnknownPartition:
    return UnknownPartition(f"nothing was ever published to {partition}")


def _unreadable(error: StorageError | OSError, partition: TopicPartition) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return StorageError(
        f"cannot read {partition}: {error.strerror or error}; see to the device, and try again"
    )


def _appended(done: Saved) -> Appended:
    return lambda _, error: done(error)
