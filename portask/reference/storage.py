"""A log in RAM: the specification of what a storage does, and the storage of choice where a restart may forget.

A partition is a list of whole batches in offset order, and beside it two arrays to find them by: base
offsets, and the append time of the newest record in each. Messages published one at a time are gathered into
batches of about 64 KiB (`portask.wire.coalesce`), so that 100,000 queued messages of 64 bytes take some 8 MB
and a reader that fell behind reads few, large batches.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping

from portask.contracts import EARLIEST, LATEST, Appended, Compression, Durability, Found, Read
from portask.errors import OffsetOutOfRange, PortaskError, StorageFull, UnknownPartition
from portask.messages import RecordBatch, TopicPartition
from portask.wire import batches
from portask.wire.coalesce import Coalescer, coalescer
from portask.wire.compression import attributes_for

_ENTRY_OVERHEAD = 33 + 8 + 16
"""Bytes a stored batch costs beside its own: the bytes object, its list slot, two array cells."""


class _Log:
    """One partition."""

    __slots__ = ("bases", "first", "lasts", "next", "open", "producers", "recent", "size", "stored")

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.bases = array("Q")  # base offset of each stored batch
        self.lasts = array("Q")  # append time of the newest record in each
        self.open: Coalescer | None = None
        # The open one before: a reader at the tail stands in the middle of it when it is closed, and should not
        # get again what it had. Costs its bytes once a partition.
        self.recent: Coalescer | None = None
        self.producers: dict[int, tuple[int, int, int]] = {}
        self.first = 0
        self.next = 0
        self.size = 0


class MemoryStorage:
    """Keeps batches in RAM. Lost when the process ends.

    Args:
        max_bytes: Bytes over all partitions; beyond it appends fail with `StorageFull`. Nothing is ever
            dropped silently.
        coalesce_bytes: Target size of a gathered batch.
        compression: Packs gathered batches when they are closed; ``None`` leaves them.
    """

    durability = Durability.MEMORY

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        coalesce_bytes: int = 64 * 1024,
        compression: Compression | None = None,
    ) -> None:
        self._logs: dict[TopicPartition, _Log] = {}
        self._groups: dict[tuple[str, TopicPartition], bytes] = {}
        self._max_bytes = max_bytes
        self._coalesce_bytes = coalesce_bytes
        self._compression = compression
        self._coalescer = coalescer()
        self._used = 0
        self.load = 0.0
        """How busy the owner is, 0 to 1: what the compression strategy is told."""

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `portask.contracts.Storage.append`. Completes at once."""
        data = batch.data
        if self._used + len(data) > self._max_bytes:
            text = f"the memory storage holds its {self._max_bytes:,} bytes: trim, or raise memory.max_bytes"
            done(-1, StorageFull(text))
            return
        log = self._logs.get(partition)
        if log is None:
            log = self._logs[partition] = _Log()
        before = log.size
        base = log.next
        if batch.count > 1 or not (Coalescer.fits(batch) and self._gather(log, batch, now)):
            if log.open is not None:
                self._close(log)
            stamped = b"".join((batches.stamp(base, now), memoryview(data)[batches.STAMP_SIZE :]))
            log.stored.append(stamped)
            log.bases.append(base)
            log.lasts.append(now)
            log.size += len(stamped) + _ENTRY_OVERHEAD
            if batch.producer:
                log.producers[batch.producer] = batches.standing(batch, base)
        log.next = base + batch.count
        self._used += log.size - before
        done(base, None)

    def room(self) -> int:
        """See `portask.contracts.Bounded`."""
        return self._max_bytes - self._used

    def _gather(self, log: _Log, batch: RecordBatch, now: int) -> bool:
        """Adds a one-record batch to the open one, or begins another with it."""
        gathered = log.open
        if gathered is not None:
            before = len(gathered)
            if gathered.add(batch, now):
                log.size += len(gathered) - before
                return True
            self._close(log)
        gathered = self._coalescer(batch, log.next, now, self._coalesce_bytes)
        if not gathered.add(batch, now):
            return False
        log.open = gathered
        log.size += len(gathered)
        return True

    def _close(self, log: _Log) -> None:
        """Turns the open batch into a stored one."""
        gathered = log.open
        if gathered is None:
            return
        log.open, log.recent = None, gathered
        batch = self._packed(gathered.batch())
        log.stored.append(batch)
        log.bases.append(gathered.base_offset)
        log.lasts.append(gathered.last_append)
        log.size += len(batch) + _ENTRY_OVERHEAD - len(gathered)

    def _packed(self, batch: bytes) -> bytes:
        if self._compression is None:
            return batch
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

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`. Completes at once."""
        log = self._logs.get(partition)
        if log is None:
            done((), UnknownPartition(f"nothing was ever published to {partition}"))
            return
        if not log.first <= offset <= log.next:
            text = f"offset {offset} of {partition} is not there: it holds {log.first} to {log.next}"
            done((), OffsetOutOfRange(text, log.first, log.next))
            return
        found: list[bytes] = []
        gathered = log.open
        stored_end = log.next if gathered is None else gathered.base_offset
        if offset < stored_end:
            at = bisect_right(log.bases, offset) - 1
            recent = log.recent
            if recent is not None and log.bases[at] == recent.base_offset < offset:
                found.append(recent.batch(offset))
                limit -= len(found[0])
                at += 1
            for at in range(at, len(log.stored)):  # noqa: B020 - a slice would copy all that is still to come
                batch = log.stored[at]
                if found and limit < len(batch):
                    done(found, None)
                    return
                found.append(batch)
                limit -= len(batch)
        if gathered is not None and offset < log.next and (limit > 0 or not found):
            found.append(gathered.batch(max(offset, stored_end)))
        done(found, None)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`. Completes at once."""
        log = self._logs.get(partition)
        if log is None:
            done(-1, UnknownPartition(f"nothing was ever published to {partition}"))
        elif when == EARLIEST:
            done(log.first, None)
        elif when == LATEST:
            done(log.next, None)
        else:
            at = bisect_left(log.lasts, when)
            if at < len(log.bases):
                done(log.bases[at], None)
            elif log.open is not None and log.open.last_append >= when:
                done(log.open.base_offset, None)
            else:
                done(log.next, None)

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """See `portask.contracts.Storage.trim`. Costs a move of the list's remaining slots."""
        log = self._logs.get(partition)
        if log is None:
            return
        bases = log.bases
        following = log.next if log.open is None else log.open.base_offset
        last = len(log.stored) - (log.open is None)  # the newest batch stays
        drop = 0
        size, end = log.size, log.first
        most = size if max_bytes is None else max_bytes
        while drop < last:
            behind = bases[drop + 1] if drop + 1 < len(bases) else following
            if behind > before and size <= most:
                break
            end = behind
            size -= len(log.stored[drop]) + _ENTRY_OVERHEAD
            drop += 1
        if drop:
            log.first = end
            del log.stored[:drop], log.bases[:drop], log.lasts[:drop]
            self._used -= log.size - size
            log.size = size
            if log.producers:
                log.producers = {
                    producer: state for producer, state in log.producers.items() if state[2] >= log.first
                }

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """Nothing is ever waiting."""
        done(None)

    def partitions(self) -> Iterable[TopicPartition]:
        """See `portask.contracts.Catalog`."""
        return self._logs.keys()

    def size(self, partition: TopicPartition) -> int:
        """See `portask.contracts.Catalog`."""
        log = self._logs.get(partition)
        return log.size if log else 0

    def producers(self, partition: TopicPartition) -> Mapping[int, tuple[int, int, int]]:
        """See `portask.contracts.Producers`."""
        log = self._logs.get(partition)
        return log.producers if log else {}

    def save_group(
        self,
        group: str,
        partition: TopicPartition,
        state: bytes,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        """See `portask.contracts.GroupState`. Completes at once."""
        self._groups[group, partition] = state
        done(None)

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        """See `portask.contracts.GroupState`."""
        return [(group, partition, state) for (group, partition), state in self._groups.items()]

    def drop_group(self, group: str) -> None:
        """See `portask.contracts.GroupState`."""
        for key in [key for key in self._groups if key[0] == group]:
            del self._groups[key]
