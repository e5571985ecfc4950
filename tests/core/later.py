"""A storage that completes later, in whatever order between partitions the test chooses, and may fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from portask.contracts import Appended, Durability, Found, Read
from portask.errors import PortaskError, StorageFull
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage

Completion = Callable[[], None]


class LaterStorage:
    """Implements `Storage` and `Deferred` over a memory storage.

    Requests of one partition are carried out in order, when `finish` is called for it; their ``done`` waits for
    the broker's next `poll`.

    Attributes:
        failing: Payloads that cannot be stored: appends that hold one of them fail.
    """

    durability = Durability.SERVER

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.notify: Callable[[], None] = lambda: None
        self.failing: set[bytes] = set()
        self.pending: dict[TopicPartition, deque[Completion]] = {}
        self._finished: list[Completion] = []

    @property
    def waiting(self) -> bool:
        """Whether a request was not answered yet."""
        return any(self.pending.values()) or bool(self._finished)

    # ── the test's side ───────────────────────────────────────────────────────────────────────────────────────────

    def finish(self, key: TopicPartition, count: int = 1) -> int:
        """Carries out the oldest requests of a partition; returns how many there were."""
        queue = self.pending.get(key, deque())
        count = min(count, len(queue))
        for _ in range(count):
            queue.popleft()()
        if count:
            self.notify()
        return count

    def finish_all(self) -> None:
        """Everything that waits."""
        while any(self.finish(key, 1 << 30) for key in list(self.pending)):
            pass

    def _later(self, key: TopicPartition, work: Completion) -> None:
        self.pending.setdefault(key, deque()).append(work)

    # ── the broker's side ─────────────────────────────────────────────────────────────────────────────────────────

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        copy = RecordBatch(
            bytes(batch.data),
            *(getattr(batch, name) for name in batch.__struct_fields__[1:]),
        )

        def work() -> None:
            if any(payload in copy.data for payload in self.failing):
                self._finished.append(lambda: done(-1, StorageFull("no room")))
                return
            results: list[tuple[int, PortaskError | None]] = []
            self.inner.append(partition, copy, now, lambda offset, error: results.append((offset, error)))
            self._finished.append(lambda: done(*results[0]))

        self._later(partition, work)

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        def work() -> None:
            results: list[tuple[Sequence[Buffer], PortaskError | None]] = []
            self.inner.read(partition, offset, limit, lambda found, error: results.append((found, error)))
            self._finished.append(lambda: done(*results[0]))

        self._later(partition, work)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        def work() -> None:
            results: list[tuple[int, PortaskError | None]] = []
            self.inner.lookup(partition, when, lambda offset, error: results.append((offset, error)))
            self._finished.append(lambda: done(*results[0]))

        self._later(partition, work)

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        self._later(partition, lambda: self.inner.trim(partition, before, max_bytes))

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        self._finished.append(lambda: done(None))

    def poll(self) -> int:
        finished, self._finished = self._finished, []
        for call in finished:
            call()
        return len(finished)
