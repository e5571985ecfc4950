"""The ceiling beside storages on a server: redis-py by itself, with the same batches in the same pipelines.

Appends that wait are joined as Portask's are, and sent as plain ``XADD`` in pipelines of about the same size by one
thread with redis-py's blocking client, which is the fastest that it has. Nothing is checked, numbered, tried again or
shared; so what a variant has less than this is what all that costs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from portask.contracts import COALESCE_WINDOW_US, Appended, Durability, Found, Read
from portask.errors import PortaskError, StorageError
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.storage.gathering import gather
from portask.wire import batches

_PIPELINE = 512 << 10
"""Bytes of batches in a pipeline, about."""
_JOINED = 64 << 10


class Direct:
    """As much of a `Storage` as the workloads call; one partition."""

    durability = Durability.SERVER

    def __init__(self, url: str = "redis://127.0.0.1:6379", *, prefix: str = "direct") -> None:
        from redis import Redis  # noqa: PLC0415 - optional, or only here

        self._client: Any = Redis.from_url(url, protocol=2)
        self._name = f"{prefix}:log"
        self.notify: Callable[[], None] = lambda: None
        kept = [str(self._client.config_get(name)) for name in ("appendonly", "appendfsync")]
        self.promise = "appendonly no" if "'no'" in kept[0] else f"appendfsync {kept[1].split(chr(39))[3]}"
        self._next = 0
        self._pending: deque[tuple[bytes, int, Appended]] = deque()
        self._completed: deque[tuple[Appended, int, PortaskError | None]] = deque()
        self._work = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """Appends, some time; `poll` tells."""
        data = bytes(batch.data)
        if batch.count == 1:
            data = batches.stamp(self._next, now) + data[batches.STAMP_SIZE :]
        self._pending.append((data, self._next, done))
        self._next += batch.count

    def commit(self) -> None:
        """Has what was appended sent."""
        if self._pending:
            with self._work:
                self._work.notify()

    def _send(self) -> None:
        while True:
            with self._work:
                while not self._pending and not self._over:
                    self._work.wait()
            if self._over:
                return
            sent: list[tuple[bytes, int, Appended]] = []
            size = 0
            while self._pending and size < _PIPELINE:
                sent.append(self._pending.popleft())
                size += len(sent[-1][0])
            error: PortaskError | None = None
            try:
                self._execute(sent)
            except Exception as reason:  # noqa: BLE001 - the workload says that it failed
                error = StorageError(str(reason))
            self._completed.extend((done, -1 if error else base, error) for _, base, done in sent)
            self.notify()

    def _execute(self, sent: list[tuple[bytes, int, Appended]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        base = sent[0][1]
        for data in gather([data for data, _, _ in sent], _JOINED, COALESCE_WINDOW_US):
            count = batches.peek(data)[2]
            pipeline.execute_command("XADD", self._name, f"{base + count - 1}-{count}", "b", bytes(data))
            base += count
        pipeline.execute()

    def poll(self) -> int:
        """Calls back."""
        count = 0
        while self._completed:
            done, base, error = self._completed.popleft()
            done(base, error)
            count += 1
        return count

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """Entries from the one that holds ``offset`` on, at once."""
        count = max(1, limit // _JOINED)
        found: list[Buffer] = []
        reply = self._client.execute_command(
            "XRANGE", self._name, offset, "+", "COUNT", count, NEVER_DECODE=True
        )
        for name, fields in reply if isinstance(reply, list) else ():
            last, _, records = name.partition(b"-")
            data = fields[b"b"] if isinstance(fields, dict) else fields[1]
            base = int(last) - int(records) + 1
            found.append(base.to_bytes(8, "little") + data[8:])
        done(found, None)

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """The next offset."""
        done(self._next, None)

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """Nothing more to do: whoever calls it has waited for the appends."""
        done(None)

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """Never called."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the thread and disconnects. Idempotent."""
        with self._work:
            self._over = True
            self._work.notify()
        self._thread.join()
        self._client.close()
