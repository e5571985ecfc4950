"""Counts and times for any storage: `metered` puts a thin wrapper around one.

The wrapper has the second Protocols that the storage has (`Catalog`, `Deferred`, `Gathering`, `Producers`, …) and no
other, so ``isinstance`` says the same of both. It costs about half a microsecond an append.

Calls, bytes and errors are counted where the work ends, all of them. Latency is from the call to ``done``, so it
includes waiting for a commit or a sync; of appends, one in eight is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

from portask.contracts import (
    Appended,
    Bounded,
    Catalog,
    Closeable,
    Deferred,
    Durability,
    Explained,
    Found,
    Gathering,
    Grant,
    GroupPart,
    GroupState,
    Producers,
    Read,
    Sequenced,
    Shared,
    SharedGroups,
    Storage,
)
from portask.errors import PortaskError
from portask.measuring.histogram import Histogram
from portask.messages import RecordBatch, TopicPartition

_SAMPLE = 7
"""One append in eight is timed: reading the clock twice would cost as much as all the rest."""


class Measured:
    """One kind of call.

    Attributes:
        calls: Begun.
        done: Completed; the difference is the queue's depth.
        failed: Of those, with an error.
        bytes: Moved.
        latency: From call to completion, ns.
    """

    __slots__ = ("bytes", "calls", "done", "failed", "latency")

    def __init__(self) -> None:
        self.calls = self.done = self.failed = self.bytes = 0
        self.latency = Histogram()

    def snapshot(self) -> dict[str, int]:
        """The counts, and percentiles in ns."""
        return {
            "calls": self.calls,
            "waiting": self.calls - self.done,
            "failed": self.failed,
            "bytes": self.bytes,
            "p50_ns": self.latency.percentile(0.5),
            "p99_ns": self.latency.percentile(0.99),
            "p999_ns": self.latency.percentile(0.999),
            "max_ns": self.latency.largest,
        }


class Metered:
    """A storage that counts what another one does; made by `metered`.

    Attributes:
        storage: The one that does the work.
        appends: Of `append`; ``bytes`` are of whole batches.
        reads: Of `read`.
        lookups: Of `lookup`.
        flushes: Of `flush`.
        saves: Of `GroupState.save_group`.
        records: Appended.
        trims: Calls of `trim`.
    """

    durability: Durability

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.durability = storage.durability
        self.appends = Measured()
        self._append = storage.append
        self._appended = _appended(self)
        self.reads = Measured()
        self.lookups = Measured()
        self.flushes = Measured()
        self.saves = Measured()
        self.records = 0
        self.trims = 0

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `portask.contracts.Storage.append`."""
        appends = self.appends
        appends.calls = calls = appends.calls + 1
        begin = 0 if calls & _SAMPLE else perf_counter_ns()
        self._append(partition, batch, now, partial(self._appended, done, batch, begin))

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`."""
        reads = self.reads
        reads.calls += 1
        begin = perf_counter_ns()

        def finished(found: Any, error: PortaskError | None) -> None:
            reads.done += 1
            if error is None:
                reads.bytes += sum(map(len, found))
                reads.latency.record(perf_counter_ns() - begin)
            else:
                reads.failed += 1
            done(found, error)

        self.storage.read(partition, offset, limit, finished)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`."""
        self.storage.lookup(partition, when, _timed(self.lookups, done))

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """See `portask.contracts.Storage.trim`."""
        self.trims += 1
        self.storage.trim(partition, before, max_bytes)

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """See `portask.contracts.Storage.flush`."""
        self.storage.flush(_saved(self.flushes, done))

    def snapshot(self) -> dict[str, Any]:
        """Everything that was counted, by kind of call, for a metrics page. Costs some 0.2 ms."""
        shown: dict[str, Any] = {
            name: getattr(self, name).snapshot()
            for name in ("appends", "reads", "lookups", "flushes", "saves")
        }
        shown |= {"records": self.records, "trims": self.trims, "durability": self.durability.value}
        storage = self.storage
        if isinstance(storage, Catalog):
            sizes = {str(partition): storage.size(partition) for partition in storage.partitions()}
            shown["stored_bytes"] = sizes
        times = getattr(storage, "sync_times", None)
        if isinstance(times, Histogram):
            shown["syncs"] = {
                "calls": times.count,
                "total_ns": times.total,
                "p50_ns": times.percentile(0.5),
                "p99_ns": times.percentile(0.99),
                "max_ns": times.largest,
            }
        shown |= getattr(storage, "counters", {})
        return shown


class _Bounded:
    storage: Any

    def room(self) -> int:
        return int(self.storage.room())


class _Catalog:
    storage: Any

    def partitions(self) -> Iterable[TopicPartition]:
        found: Iterable[TopicPartition] = self.storage.partitions()
        return found

    def size(self, partition: TopicPartition) -> int:
        return int(self.storage.size(partition))


class _Deferred:
    storage: Any

    @property
    def notify(self) -> Callable[[], None]:
        found: Callable[[], None] = self.storage.notify
        return found

    @notify.setter
    def notify(self, notify: Callable[[], None]) -> None:
        self.storage.notify = notify

    def poll(self) -> int:
        return int(self.storage.poll())


class _Gathering:
    storage: Any

    def commit(self) -> None:
        self.storage.commit()


class _Producers:
    storage: Any

    def producers(self, partition: TopicPartition) -> Mapping[int, tuple[int, int, int]]:
        found: Mapping[int, tuple[int, int, int]] = self.storage.producers(partition)
        return found


class _Sequenced:
    storage: Any

    def resume(
        self,
        partition: TopicPartition,
        producer: int,
        epoch: int,
        sequence: int,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        self.storage.resume(partition, producer, epoch, sequence, done)


class _Shared:
    storage: Any

    @property
    def grown(self) -> Callable[[TopicPartition, int], None]:
        found: Callable[[TopicPartition, int], None] = self.storage.grown
        return found

    @grown.setter
    def grown(self, grown: Callable[[TopicPartition, int], None]) -> None:
        self.storage.grown = grown

    @property
    def lost(self) -> Callable[[TopicPartition, int], None]:
        found: Callable[[TopicPartition, int], None] = self.storage.lost
        return found

    @lost.setter
    def lost(self, lost: Callable[[TopicPartition, int], None]) -> None:
        self.storage.lost = lost

    def topics(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self.storage.topics()
        return found

    def declare(self, topic: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        self.storage.declare(topic, partitions, done)


class _Explained:
    storage: Any

    @property
    def promise(self) -> str:
        return str(self.storage.promise)


class _GroupState:
    storage: Any
    saves: Measured

    def save_group(
        self,
        group: str,
        partition: TopicPartition,
        state: bytes,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        self.saves.bytes += len(state)
        self.storage.save_group(group, partition, state, _saved(self.saves, done))

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        found: Iterable[tuple[str, TopicPartition, bytes]] = self.storage.load_groups()
        return found

    def drop_group(self, group: str) -> None:
        self.storage.drop_group(group)


class _SharedGroups:
    storage: Any
    saves: Measured

    @property
    def regranted(self) -> Callable[[str, TopicPartition, bool], None]:
        found: Callable[[str, TopicPartition, bool], None] = self.storage.regranted
        return found

    @regranted.setter
    def regranted(self, regranted: Callable[[str, TopicPartition, bool], None]) -> None:
        self.storage.regranted = regranted

    def begin(
        self,
        group: str,
        partition: TopicPartition,
        settings: bytes,
        start: int,
        done: Callable[[bytes, PortaskError | None], None],
    ) -> None:
        self.storage.begin(group, partition, settings, start, done)

    def claim(
        self,
        group: str,
        partition: TopicPartition,
        count: int,
        done: Callable[[Grant | None, PortaskError | None], None],
    ) -> None:
        self.storage.claim(group, partition, count, done)

    def report(
        self,
        group: str,
        partition: TopicPartition,
        held: tuple[bytes | None, int],
        counts: Sequence[int],
        done: Callable[[PortaskError | None], None] | None,
    ) -> None:
        self.saves.bytes += len(held[0] or b"")
        counted = None if done is None else _saved(self.saves, done)
        self.storage.report(group, partition, held, counts, counted)

    def group_parts(self, done: Callable[[Sequence[GroupPart], PortaskError | None], None]) -> None:
        self.storage.group_parts(done)

    def drop_group(self, group: str, done: Callable[[bool, PortaskError | None], None]) -> None:
        self.storage.drop_group(group, done)


class _Closeable:
    storage: Any

    def close(self) -> None:
        self.storage.close()


_ABILITIES: tuple[tuple[type, type], ...] = (
    (Bounded, _Bounded),
    (Catalog, _Catalog),
    (Deferred, _Deferred),
    (Gathering, _Gathering),
    (Producers, _Producers),
    (Sequenced, _Sequenced),
    (Shared, _Shared),
    (Explained, _Explained),
    (SharedGroups, _SharedGroups),
    (GroupState, _GroupState),
    (Closeable, _Closeable),
)
_classes: dict[tuple[type, ...], type[Metered]] = {}


def metered(storage: Storage) -> Metered:
    """``storage`` behind a wrapper that counts, with the same abilities; itself if it is one already."""
    if isinstance(storage, Metered):
        return storage
    has = tuple(mixin for protocol, mixin in _ABILITIES if isinstance(storage, protocol))
    made = _classes.get(has)
    if made is None:
        made = _classes[has] = type("Metered", (Metered, *has), {"__doc__": Metered.__doc__})
    return made(storage)


def _appended(owner: Metered) -> Callable[[Appended, RecordBatch, int, int, PortaskError | None], None]:
    appends = owner.appends

    def appended(
        done: Appended, batch: RecordBatch, begin: int, offset: int, error: PortaskError | None
    ) -> None:
        appends.done += 1
        if error is None:
            appends.bytes += len(batch.data)
            owner.records += batch.count
            if begin:
                appends.latency.record(perf_counter_ns() - begin)
        else:
            appends.failed += 1
        done(offset, error)

    return appended


def _timed(measured: Measured, done: Found) -> Found:
    measured.calls += 1
    begin = perf_counter_ns()

    def finished(offset: int, error: PortaskError | None) -> None:
        measured.done += 1
        measured.failed += error is not None
        measured.latency.record(perf_counter_ns() - begin)
        done(offset, error)

    return finished


def _saved(
    measured: Measured, done: Callable[[PortaskError | None], None]
) -> Callable[[PortaskError | None], None]:
    timed = _timed(measured, lambda _, error: done(error))
    return lambda error: timed(0, error)
