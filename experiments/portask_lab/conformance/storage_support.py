"""A storage under test, as if it completed at once; and records that can be told apart."""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Self

from portask import registry
from portask.contracts import Closeable, Codec, Deferred, Gathering, Storage
from portask.errors import PortaskError
from portask.messages import Buffer, Message, RecordBatch, TopicPartition
from portask.registry import Entry
from portask.wire import batches
from portask.wire.compression import decompress
from portask_lab.conformance.suite import require

NOW = 1_700_000_000_000_000
_PATIENCE = 5.0


@cache
def _codec() -> Codec:
    made: Codec = registry.get("codec", registry.REFERENCE_NAMES["codec"]).make()
    return made


def made(number: int, size: int = 0) -> Message:
    """Record ``number``: some with a key, some with headers, all different."""
    payload = b"record %d " % number + bytes(max(0, size - 12))
    key = b"key %d" % (number % 7) if number % 3 == 0 else None
    headers = {"n": str(number)} if number % 4 == 0 else None
    return Message(payload, key, headers, NOW - 5_000_000 + number * 1000)


def batch(
    first: int,
    count: int,
    *,
    size: int = 0,
    ttl: int = 0,
    producer: int = 0,
    epoch: int = 0,
    sequence: int = 0,
) -> RecordBatch:
    """The records ``first`` to ``first + count - 1`` as a producer would send them."""
    messages = [made(number, size) for number in range(first, first + count)]
    base = messages[0].timestamp
    data = batches.build(
        _codec().encode(messages, base),
        count,
        codec=_codec().wire_id,
        base_timestamp=base,
        ttl=ttl,
        producer=producer,
        epoch=epoch,
        sequence=sequence,
    )
    return batches.parse(data)


class Store:
    """Makes the storage, in a folder of its own if it wants a ``path``; waits for its callbacks; closes it.

    A `Gathering` one is told to commit, a `Deferred` one is polled.

    Attributes:
        storage: The one under test.
        limited: Whether it took ``max_bytes``.
    """

    def __init__(self, entry: Entry, max_bytes: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="portask-conformance-")
        wanted = inspect.signature(entry.load()).parameters
        self.limited = max_bytes is not None and "max_bytes" in wanted
        options: dict[str, Any] = {"max_bytes": max_bytes} if self.limited else {}
        if "path" in wanted:
            options["path"] = self._folder.name
        self.storage: Storage = entry.make(**options)

    def append(self, key: TopicPartition, data: RecordBatch, now: int = NOW) -> int:
        """The base offset.

        Raises:
            PortaskError: what the storage said instead.
        """
        offset: int = self._ask(lambda done: self.storage.append(key, data, now, done))
        return offset

    def append_together(self, appends: Sequence[tuple[TopicPartition, RecordBatch]]) -> list[int]:
        """The base offsets of appends that share a turn; each partition's must complete in order."""
        completed: dict[TopicPartition, list[int]] = {}

        def ask(done: Callable[[Any, PortaskError | None], None]) -> None:
            bases: list[int] = [-1] * len(appends)

            def complete(place: int) -> Callable[[int, PortaskError | None], None]:
                def appended(base: int, error: PortaskError | None) -> None:
                    order = completed.setdefault(appends[place][0], [])
                    require(bases[place] < 0, "a callback was called twice")
                    require(
                        not order or order[-1] < place, "the appends of a partition did not complete in order"
                    )
                    order.append(place)
                    bases[place] = base
                    if error is not None or min(bases) >= 0:
                        done(bases, error)

                return appended

            for place, (key, data) in enumerate(appends):
                self.storage.append(key, data, NOW, complete(place))

        found: list[int] = self._ask(ask)
        return found

    def raw(self, key: TopicPartition, offset: int, limit: int) -> Sequence[Buffer]:
        """What a read gives."""
        found: Sequence[Buffer] = self._ask(lambda done: self.storage.read(key, offset, limit, done))
        return found

    def read(self, key: TopicPartition, offset: int, limit: int) -> list[RecordBatch]:
        """What a read gives, checked."""
        return [batches.parse(data) for data in self.raw(key, offset, limit)]

    def records(self, key: TopicPartition, offset: int = 0, limit: int = 100_000) -> list[Message]:
        """Every record from ``offset`` on, in as many reads as it takes."""
        found: list[Message] = []
        while batches_read := self.read(key, offset, limit):
            for each in batches_read:
                require(
                    each.base_offset <= offset,
                    f"offset {offset} was due, a batch begins at {each.base_offset}",
                )
                body = decompress(each.attributes, each.body, each.raw_length)
                messages = _codec().decode(body, each.count, each.base_timestamp)
                found += messages[offset - each.base_offset :]
                offset = each.base_offset + each.count
        return found

    def lookup(self, key: TopicPartition, when: int) -> int:
        """The offset."""
        offset: int = self._ask(lambda done: self.storage.lookup(key, when, done))
        return offset

    def flush(self) -> None:
        """Waits for it."""
        self._ask(lambda done: self.storage.flush(lambda error: done(None, error)))

    def _ask(self, ask: Callable[[Callable[[Any, PortaskError | None], None]], None]) -> Any:
        answers: list[tuple[Any, PortaskError | None]] = []
        ask(lambda value, error: answers.append((value, error)))
        deadline = time.monotonic() + _PATIENCE
        if isinstance(self.storage, Gathering):
            self.storage.commit()
        while not answers:
            require(isinstance(self.storage, Deferred), "the callback was not called, and it is not Deferred")
            require(time.monotonic() < deadline, f"the callback was not called within {_PATIENCE:g} s")
            if isinstance(self.storage, Deferred) and not self.storage.poll():
                time.sleep(0.0005)
        require(len(answers) == 1, f"the callback was called {len(answers)} times")
        value, error = answers[0]
        if error is not None:
            raise error
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.storage, Closeable):
            self.storage.close()
        self._folder.cleanup()
