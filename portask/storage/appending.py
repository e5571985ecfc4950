"""The half of a log that takes records: appends are gathered, written once a turn, synced by groups, and called back.

`SegmentLog` is this and the half that gives them back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from portask.contracts import Compression
from portask.errors import PortaskError, StorageError, StorageFull
from portask.messages import TopicPartition
from portask.storage.files import explained
from portask.storage.groups import GroupLog
from portask.storage.partition import PartitionLog
from portask.storage.segments import Segment
from portask.storage.shared import Shared
from portask.storage.syncing import Syncer, Wait
from portask.storage.turns import NO_LIMIT, Pending, Saved, Turn, Turns

_WAITING = 1 << 20
"""Mode ``memory``: bytes a partition keeps in RAM only."""


class _Written(NamedTuple):
    """Appends that wait for a sync."""

    log: PartitionLog
    segment: Segment
    at: int
    turn: Turn
    pending: Pending


class Appending(Turns[PartitionLog]):
    """Appends and saves."""

    def __init__(
        self,
        shared: Shared,
        groups: GroupLog,
        *,
        mode: str,
        coalesce_bytes: int,
        compression: Compression | None,
    ) -> None:
        super().__init__(coalesce_bytes, compression)
        self._shared = shared
        self._syncer: Syncer = shared.syncer
        self._groups = groups
        self._mode = mode

    def _new(self, partition: TopicPartition) -> PartitionLog:
        return PartitionLog(self._shared, partition)

    def _refusal(self, size: int) -> StorageError:
        if self._closed:
            return StorageError("the log is closed")
        if self._syncer.failure is not None:
            return self._syncer.failure
        return StorageFull(
            f"{size:,} bytes more are above the log's limit: trim, or raise storage.options.max_bytes"
        )

    def _waiting(self) -> bool:
        return self._groups.waiting

    def _store_all(self) -> None:
        """Writes what waits everywhere."""
        for held in self._take_dirty():
            self._store(held)
        if self._groups.waiting:
            self._store_groups()

    def _store(self, held: PartitionLog) -> None:
        """Writes what waits in one partition."""
        pending, turn = self._take(held)
        parts, size = turn.parts, turn.size
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
            held.in_flight.append(turn.standings)
            self._syncer.sync(Wait(segment.fd, _Written(held, segment, at, turn, pending)))
            return
        if mode == "os":
            held.reveal(turn)
        self._completed.append((iter(pending), None))

    # ── completing later ──────────────────────────────────────────────────────────────────────────────────

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

    def flush(self, done: Saved) -> None:
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
