"""What a turn brings, gathered until its end: appends, and the callbacks they wait for.

`Turns` is the half of a storage that takes records without storing any. What derives from it stores them: as segments
of files (`portask.storage.appending`), or in another way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from portask.contracts import Appended, Compression
from portask.errors import OffsetOutOfRange, PortaskError, StorageError, UnknownPartition
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.storage.gathering import gather, packer
from portask.storage.index import Standing
from portask.wire import batches

GATHERED = 1 << 20
"""Bytes of appends after which they are stored even though the turn goes on."""
NO_LIMIT = 1 << 62

Pending = Sequence[tuple[int, bytes, Appended]]
"""Appends: base offset, stamped batch, callback."""
Saved = Callable[[PortaskError | None], None]
_stamp = batches.stamp


class Turn(NamedTuple):
    """What one turn appended to a partition."""

    base: int
    end: int
    parts: Sequence[Buffer]
    size: int
    standings: Sequence[tuple[int, Standing]]


class Gathered:
    """What is known of one partition, and what waits to be stored in it.

    Attributes:
        key: Its name.
        first: The oldest offset that retention left.
        next: Readers see what is before it: it has the durability that the mode declares.
        assigned: What is before it was given to appends.
        bytes: Of stored batches.
        producers: Where each producer stands, as far as readers see.
        pending: Appends since the last commit.
        pending_bytes: Of those.
        ones: How many of them have one record.
        standings: Their producers.
    """

    def __init__(self, key: TopicPartition) -> None:
        self.key = key
        self.first = self.next = self.assigned = self.bytes = 0
        self.producers: dict[int, Standing] = {}
        self.pending: list[tuple[int, bytes, Appended]] = []
        self.pending_bytes = 0
        self.ones = 0
        self.standings: list[tuple[int, Standing]] = []

    def forget_producers(self) -> list[int]:
        """Drops those whose records were all trimmed, so that the table does not grow for ever; returns them."""
        gone = [producer for producer, standing in self.producers.items() if standing[2] < self.first]
        for producer in gone:
            del self.producers[producer]
        return gone


Log = TypeVar("Log", bound=Gathered)


class Turns(ABC, Generic[Log]):
    """Gathers appends, and calls back; what derives from it says how a turn is stored.

    Args:
        coalesce_bytes: Target size of batches that are joined from small ones.
        compression: Packs joined batches; ``None`` leaves them.

    Attributes:
        notify: See `portask.contracts.Deferred`.
        load: How busy the owner is, 0 to 1: what the compression strategy is told.
    """

    def __init__(self, coalesce_bytes: int, compression: Compression | None) -> None:
        self.notify: Callable[[], None] = lambda: None
        self.load = 0.0
        self._coalesce_bytes = coalesce_bytes
        self._finish = packer(compression, lambda: self.load) if compression is not None else None
        self._closed = False
        self._room = NO_LIMIT
        self._logs: dict[TopicPartition, Log] = {}
        self._dirty: list[Log] = []
        self._gathered = 0
        self._completed: deque[tuple[Iterator[tuple[int, bytes, Appended]], PortaskError | None]] = deque()
        self._completing = False

    # ── what a storage adds ───────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def _new(self, partition: TopicPartition) -> Log:
        """A partition that nothing was ever appended to.

        Raises:
            StorageError: it cannot be had.
        """

    @abstractmethod
    def _refusal(self, size: int) -> StorageError:
        """Why an append of so many bytes, more than ``_room``, is not taken."""

    @abstractmethod
    def _waiting(self) -> bool:
        """Whether `_store_all` has something to do."""

    @abstractmethod
    def _store_all(self) -> None:
        """Stores what waits everywhere, or begins to; what is completed goes to `_answer`."""

    # ── taking records ────────────────────────────────────────────────────────────────────────────────────

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
                held = self._logs[partition] = self._new(partition)
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
        if self._gathered > GATHERED:
            self.commit()

    def commit(self) -> None:
        """See `portask.contracts.Gathering.commit`. Costs little a partition, and callbacks."""
        if self._dirty or self._waiting():
            self._store_all()
        if self._completed:
            self._complete()

    def _take_dirty(self) -> list[Log]:
        """The partitions in which something waits; they count as clean from here on."""
        dirty, self._dirty = self._dirty, []
        self._gathered = 0
        return dirty

    def _take(self, held: Log) -> tuple[Pending, Turn]:
        """What waits in one partition, neighbouring one-record batches as one. It waits no more."""
        pending, held.pending = held.pending, []
        standings: Sequence[tuple[int, Standing]] = ()
        if held.standings:
            standings, held.standings = held.standings, []
        parts: Sequence[Buffer] = [data for _, data, _ in pending]
        size = held.pending_bytes
        held.pending_bytes = 0
        if held.ones:
            if held.ones > 1:
                parts = gather(parts, self._coalesce_bytes, 0, self._finish)
                given, size = size, sum(map(len, parts))
                self._room += given - size
            held.ones = 0
        return pending, Turn(pending[0][0], held.assigned, parts, size, standings)

    # ── calling back ──────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, callbacks: Iterable[Saved], error: PortaskError | None) -> None:
        """Has callbacks that want no offset called."""
        self._completed.append((iter([(0, b"", _appended(done)) for done in callbacks]), error))

    def _complete(self) -> int:
        """Calls back. A callback that raises ends it; the others are called by the next `poll`."""
        if self._completing:
            return 0  # a callback appended so much that it was stored: the outer call goes on
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

    def _notified(self) -> None:
        self.notify()  # looked up late: the owner sets it

    # ── what is there ─────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, partition: TopicPartition) -> Log:
        """The partition that a reader asks for; what was appended before is there.

        Raises:
            UnknownPartition: nothing was ever appended to it.
            StorageError: the log is closed.
        """
        if self._closed:
            raise StorageError("the log is closed")
        if self._dirty:
            self.commit()
        held = self._logs.get(partition)
        if held is None or not held.next:
            raise UnknownPartition(f"nothing was ever published to {partition}")
        return held

    def _readable(self, partition: TopicPartition, offset: int) -> Log:
        """The partition that a reader asks for, if it holds the offset, or that is the next one.

        Raises:
            UnknownPartition: nothing was ever appended to it.
            OffsetOutOfRange: it does not hold it.
        """
        held = self._asked(partition)
        if not held.first <= offset <= held.next:
            text = f"offset {offset} of {partition} is not there: it holds {held.first} to {held.next}"
            raise OffsetOutOfRange(text, held.first, held.next)
        return held

    def partitions(self) -> Iterable[TopicPartition]:
        """See `portask.contracts.Catalog`."""
        return [partition for partition, held in self._logs.items() if held.next]

    def size(self, partition: TopicPartition) -> int:
        """See `portask.contracts.Catalog`."""
        held = self._logs.get(partition)
        return held.bytes if held else 0

    def producers(self, partition: TopicPartition) -> Mapping[int, Standing]:
        """See `portask.contracts.Producers`."""
        held = self._logs.get(partition)
        return held.producers if held else {}


def _appended(done: Saved) -> Appended:
    return lambda _, error: done(error)
