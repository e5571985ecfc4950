"""A storage that is far away."""

from __future__ import annotations

from collections.abc import Callable

from portask.contracts import Appended, Durability, Found, Read
from portask.errors import PortaskError
from portask.messages import RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage


class LateStorage:
    """The memory storage, as if it were far away: callbacks wait until the test lets them through."""

    durability = Durability.SERVER

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.waiting: list[Callable[[], None]] = []
        self.notify: Callable[[], None] = lambda: None

    def append(self, partition: TopicPartition, found: RecordBatch, now: int, done: Appended) -> None:
        self.inner.append(partition, found, now, lambda o, e: self._later(lambda: done(o, e)))

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        self.inner.read(partition, offset, limit, lambda f, e: self._later(lambda: done(f, e)))

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        self.inner.lookup(partition, when, lambda o, e: self._later(lambda: done(o, e)))

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        self.inner.trim(partition, before, max_bytes)

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        self._later(lambda: done(None))

    def poll(self) -> int:
        """Lets everything through that waits now."""
        if self.holding:
            return 0
        ready, self.waiting = self.waiting, []
        for call in ready:
            call()
        return len(ready)

    holding = False

    def _later(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)
        self.notify()
