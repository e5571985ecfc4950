"""Drives any storage, whether it completes at once or later, as if it completed at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

from portask.contracts import Closeable, Deferred, Gathering, Storage
from portask.errors import PortaskError, VariantUnavailable
from portask.messages import Buffer, Message, RecordBatch, TopicPartition
from portask.reference.codec import Cbor2Codec
from portask.registry import Entry
from portask.wire import batches
from portask_lab.conformance.suite import NotApplicable, Violation

PATIENCE = 10.0
"""Seconds that a storage may take for one call before the check gives up."""
BASE = 1_700_000_000_000_000
"""µs: when the checks' clock begins."""
KEY = TopicPartition("conformance.storage", 0)
CODEC = Cbor2Codec()


class Driver:
    """One storage under test."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def append(self, batch: RecordBatch, now: int = BASE, key: TopicPartition = KEY) -> int:
        """The base offset; raises the storage's error."""
        return int(self._wait(lambda done: self.storage.append(key, batch, now, done)))

    def append_all(
        self, found: Sequence[RecordBatch], now: int = BASE, key: TopicPartition = KEY
    ) -> list[int]:
        """Appends without waiting in between; base offsets in the order in which they completed."""
        offsets: list[int] = []
        failed: list[PortaskError] = []

        def done(offset: int, error: PortaskError | None) -> None:
            if error is None:
                offsets.append(offset)
            else:
                failed.append(error)

        for batch in found:
            self.storage.append(key, batch, now, done)
        self._pump(lambda: len(offsets) + len(failed) == len(found))
        if failed:
            raise failed[0]
        return offsets

    def read(self, offset: int, limit: int = 1 << 30, key: TopicPartition = KEY) -> Sequence[Buffer]:
        """The batches; raises the storage's error."""
        found: Sequence[Buffer] = self._wait(lambda done: self.storage.read(key, offset, limit, done))
        return found

    def lookup(self, when: int, key: TopicPartition = KEY) -> int:
        """The offset; raises the storage's error."""
        return int(self._wait(lambda done: self.storage.lookup(key, when, done)))

    def flush(self) -> None:
        """Returns once everything appended is as durable as declared."""
        self._wait(lambda done: self.storage.flush(lambda error: done(None, error)))

    def messages(self, offset: int = 0, key: TopicPartition = KEY) -> list[tuple[int, Message]]:
        """Every record from ``offset`` on with its offset, read in as many steps as it takes."""
        found: list[tuple[int, Message]] = []
        end = self.lookup(-1, key)
        while offset < end:
            got = records(self.read(offset, 100_000, key))
            fresh = [(at, message) for at, message in got if at >= offset]
            if not fresh:
                raise Violation(f"a read from offset {offset} of {end} gave nothing new")
            found += fresh
            offset = fresh[-1][0] + 1
        return found

    def _wait(self, call: Callable[[Callable[[Any, PortaskError | None], None]], None]) -> Any:
        outcome: list[tuple[Any, PortaskError | None]] = []
        call(lambda result, error: outcome.append((result, error)))
        self._pump(lambda: bool(outcome))
        if len(outcome) != 1:
            raise Violation(f"done was called {len(outcome)} times for one call")
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def _pump(self, finished: Callable[[], bool]) -> None:
        storage = self.storage
        deadline = time.monotonic() + PATIENCE
        while not finished():
            if isinstance(storage, Gathering):
                storage.commit()
            if isinstance(storage, Deferred):
                storage.poll()
            if finished():
                return
            if not isinstance(storage, Deferred):
                raise Violation(
                    "done was not called, and the storage is not Deferred: nothing will ever call it"
                )
            if time.monotonic() > deadline:
                raise Violation(f"done was not called within {PATIENCE:g} s")
            time.sleep(0.0005)


@contextmanager
def storage_of(entry: Entry, **options: Any) -> Iterator[Driver]:
    """A fresh storage of the variant, in a temporary folder or on a throw-away server if it needs one; then closed."""
    with (
        tempfile.TemporaryDirectory(prefix="portask-conform-") as folder,
        sandboxed(entry) as sandbox,
    ):
        options = {**sandbox, **options}
        if "path" in signature(entry.load()).parameters:
            options = {"path": f"{folder}/data", **options}
        storage = entry.make(**options)
        try:
            yield Driver(storage)
        finally:
            if isinstance(storage, Closeable):
                storage.close()


@contextmanager
def sandboxed(entry: Entry) -> Iterator[dict[str, Any]]:
    """Options for an instance that shares nothing.

    Raises:
        NotApplicable: there is no server here to try it on.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(entry.sandboxed())
        except VariantUnavailable as error:
            raise NotApplicable(str(error)) from None
        yield found


def batch_of(
    *payloads: bytes, timestamp: int = BASE, ttl: int = 0, producer: int = 0, sequence: int = 0
) -> RecordBatch:
    """A checked batch of these payloads, 3 µs apart."""
    found = [Message(payload, timestamp=timestamp + 3 * index) for index, payload in enumerate(payloads)]
    body = CODEC.encode(found, timestamp)
    data = batches.build(
        body, len(found), codec=1, base_timestamp=timestamp, ttl=ttl, producer=producer, sequence=sequence
    )
    return batches.parse(data)


def records(found: Sequence[Buffer]) -> list[tuple[int, Message]]:
    """Every record of stored batches with its offset. Checks each batch's checksum on the way."""
    out: list[tuple[int, Message]] = []
    for data in found:
        batch = batches.parse(data)
        decoded = CODEC.decode(batch.body, batch.count, batch.base_timestamp)
        out += [(batch.base_offset + index, message) for index, message in enumerate(decoded)]
    return out
