"""The half of a log that takes records: appends are gathered, written once a turn, synced by groups, and called back.

`SegmentLog` is this and the half that gives them back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from portask.contracts import Appended, Compression
from portask.errors import PortaskError, StorageError, StorageFull
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.storage.files import explained
from portask.storage.gathering import gather, packer
from portask.storage.groups import GroupLog, Saved
from portask.storage.index import Standing
from portask.storage.partition import PartitionLog
from portask.storage.segments import Segment
from portask.storage.shared import Shared, Turn
from portask.storage.syncing import Syncer, Wait
from portask.wire import batches

_GATHERED = 1 << 20
"""Bytes of appends after which they are written even though the turn goes on."""
_WAITING = 1 << 20
"""Mode ``memory``: bytes a partition keeps in RAM only."""
NO_LIMIT = 1 << 62
_stamp = batches.stamp
_Pending = list[tuple[int, bytes, Appended]]


class _Written(NamedTuple):
    """Appends that wait for a sync."""

    log: PartitionLog
    segment: Segment
    at: int
    turn: Turn
    pending: _Pending


class Appending:
    """Appends and saves.

    Attributes:
        notify: See `portask.contracts.Deferred`.
        load: How busy the owner is, 0 to 1: what the compression strategy is told.
    """

    def __init__(
        self,
        shared: Shared,
        groups: GroupLog,
        *,
        mode: str,
        coalesce_bytes: int,
        compression: Compression | None,
    ) -> None:
        self.notify: Callable[[], None] = lambda: None
        self.load = 0.0
        self._shared = shared
        self._syncer: Syncer = shared.syncer
        self._groups = groups
        self._mode = mode
        self._coalesce_bytes = coalesce_bytes
        self._finish = packer(compression, lambda: self.load) if compression is not None else None
        self._closed = False
        self._room = NO_LIMIT
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._dirty: list[PartitionLog] = []
        self._gathered = 0
        self._completed: deque[tuple[Iterator[tuple[int, bytes, Appended]], PortaskError | None]] = deque()
        self._completing = False

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
        if self._dirty or self._groups.waiting:
            self._store_all()
        if self._completed:
            self._complete()

    def _store_all(self) -> None:
        """Writes what waits everywhere."""
        dirty, self._dirty = self._dirty, []
        self._gathered = 0
        for held in dirty:
            self._store(held)
        if self._groups.waiting:
            self._store_groups()

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
            if self._syncer.failure is not None:
                raise self._syncer.failure
            if mode == "memory":
                if held.unwritten_bytes + size > _WAITING:
                    held.write_waiting()
                held.keep(turn)
            else:
                segment, at = held.write(parts, size)
        except (OSError, StorageError) as error:
            held.assigned = held.next if mode == "memory" else held.end
            self._room = self._room + size if self._syncer.failure is None else -NO_LIMIT
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

    # ── completing later ──────────────────────────────────────────────────────────────────────────────────

    def _notified(self) -> None:
        self.notify()  # looked up late: the owner sets it

    def poll(self) -> int:
        """See `portask.contracts.Deferred.poll`. Commits, too."""
        if self._dirty or self._groups.waiting:
            self._store_all()
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
            self._room = -NO_LIMIT  # nothing is taken any more
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

    # ── group state ───────────────────────────────────────────────────────────────────────────────────────

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


def _appended(done: Saved) -> Appended:
    return lambda _, error: done(error)
