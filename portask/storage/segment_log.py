"""The durable storage that needs nothing but a folder: `SegmentLog`.

::

    FOLDER/lock                               held by the one process that has the log open
    FOLDER/storage                            says segment-log (`portask.storage.lock`)
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
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from portask.contracts import Compression, Durability, Found, Read
from portask.errors import StorageError
from portask.measuring.histogram import Histogram
from portask.messages import TopicPartition
from portask.storage import dividing, reading, recovery
from portask.storage.appending import Appending
from portask.storage.files import Files
from portask.storage.gathering import gather
from portask.storage.groups import GroupLog
from portask.storage.lock import FolderLock, claim
from portask.storage.options import check
from portask.storage.partition import PartitionLog
from portask.storage.segments import Segment
from portask.storage.shared import Shared
from portask.storage.syncing import Syncer
from portask.storage.trimming import trim
from portask.storage.turns import NO_LIMIT

log = structlog.get_logger("portask.storage")

NAME = "segment-log"
TOPICS = "topics"


class SegmentLog(Appending):
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
        check(
            NAME,
            ("memory", "os", "synced"),
            mode,
            segment_bytes=segment_bytes,
            coalesce_bytes=coalesce_bytes,
            index_interval=index_interval,
            max_bytes=max_bytes,
            cache_bytes=cache_bytes,
            open_files=open_files,
        )
        self.durability = Durability(mode)
        self._files = files or Files()
        self._folder = os.fspath(path)
        new = not Path(path).exists()
        Path(path).mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._folder)
        try:
            claim(self._files, self._folder, NAME)
            self._root = self._files.open_to_read(self._folder)
        except BaseException:
            self._lock.release()
            raise
        topics = f"{self._folder}/{TOPICS}"
        shared = Shared(
            self._files,
            topics,
            Syncer(self._files, self._root, self._notified),
            segment_bytes=segment_bytes,
            index_interval=index_interval,
            cache_bytes=cache_bytes,
            open_files=open_files,
        )
        groups = GroupLog(self._files, self._folder)
        super().__init__(shared, groups, mode=mode, coalesce_bytes=coalesce_bytes, compression=compression)
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
        self._room = (max_bytes or NO_LIMIT) - used

    @staticmethod
    def divide(path: str, places: int, owner: Callable[[TopicPartition], int]) -> dividing.Divided:
        """See `portask.contracts.Divisible.divide`, and `portask.storage.dividing` for how."""
        return dividing.divide(NAME, path, places, owner)

    # ── a start ───────────────────────────────────────────────────────────────────────────────────────────

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
            if self._mode == "synced" and found.scanned:
                self._sync_found(held, [segment for segment, _ in found.bare])
            self._logs[partition] = held
        groups = self._groups.restore()
        if self._mode == "synced" and self._groups.fd >= 0:
            self._files.sync(self._groups.fd)
        if groups.damaged:
            log.error("damaged group state skipped", bytes=groups.damaged, file=f"{self._folder}/groups.log")
        log.info("log opened", folder=self._folder, partitions=len(self._logs), scanned_bytes=scanned)

    def _sync_found(self, held: PartitionLog, bare: list[Segment]) -> None:
        """What a killed process wrote may be in the kernel only; nobody shall see it before the device has it."""
        for segment in (*bare, held.segments[-1]):
            self._files.sync(self._shared.open.fd(segment))
        topic = held.folder.rpartition("/")[0]
        for folder in (held.folder, topic, topic.rpartition("/")[0], self._folder):
            self._files.sync_folder(folder)

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`. Completes at once; offsets that were quarantined are skipped.

        Errors: besides those of the contract, `StorageError` when the device does not give the bytes. When all up to
        the end was quarantined, `OffsetOutOfRange` with the end as ``first``.
        """
        try:
            held = self._readable(partition, offset)
            found = gather(held.read(offset, limit), self._coalesce_bytes) if offset < held.next else ()
        except (StorageError, OSError) as error:
            done((), _unreadable(error, partition))
        else:
            done(found, None)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`. Completes at once; `LATEST` is the end of what readers see."""
        try:
            held = self._asked(partition)
            offset = reading.lookup(held, when)
        except (StorageError, OSError) as error:
            done(-1, _unreadable(error, partition))
        else:
            done(offset, None)

    def room(self) -> int:
        """See `portask.contracts.Bounded`."""
        return self._room if self._room > -NO_LIMIT // 2 else NO_LIMIT  # a log that failed says so itself

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
            trim(held, before, max_bytes)
        except (StorageError, OSError) as error:
            log.warning("not trimmed", partition=str(partition), reason=str(error))
        self._room += stored - held.bytes

    # ── what a metric wants to know ───────────────────────────────────────────────────────────────────────

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

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────

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
        self._room = -NO_LIMIT
        self._syncer.close()
        self._shared.open.close_all()
        self._groups.close()
        if self._root >= 0:
            self._files.close(self._root)
            self._root = -1
        self._lock.release()


def _unreadable(error: StorageError | OSError, partition: TopicPartition) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return StorageError(
        f"cannot read {partition}: {error.strerror or error}; see to the device, and try again"
    )
