"""A ring on `queue.SimpleQueue`: the standard library's hand-over between threads, made bounded.

What crosses the queue is a batch of records, so that a batch costs one queue operation; the consumer keeps
what is left of the batch it is working on. The accounting is the reference ring's: two counters, each
written by one side only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from queue import SimpleQueue

from portask.contracts import RECORD_OVERHEAD
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.messages import Buffer
from portask.reference.ring import largest_record, never_fits


class SimpleQueueRing:
    """A bounded FIFO of byte records on a `queue.SimpleQueue`; `Ring` and `BatchRing`.

    Args:
        capacity: In bytes, overhead included; at least `portask.reference.ring.MIN_CAPACITY`.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.capacity = capacity
        self._largest = largest_record(capacity)
        self._queue: SimpleQueue[Iterable[bytes]] = SimpleQueue()
        self._batch: deque[bytes] = deque()  # the consumer's: taken off the queue, not yet handed out
        self._put_bytes = 0  # written by the producer only
        self._got_bytes = 0  # written by the consumer only
        self._closed = False

    def put(self, record: Buffer) -> None:
        """Appends ``record``: the object itself when it is ``bytes``, else a copy. See `Ring.put`."""
        if self._closed:
            raise RingClosed("the ring is closed: nothing can be put")
        kept = bytes(record)
        length = len(kept)
        if length > self._largest:
            raise never_fits(length, self.capacity)
        after = self._put_bytes + length + RECORD_OVERHEAD
        if after - self._got_bytes > self.capacity:
            raise RingFull(record)
        self._put_bytes = after
        self._queue.put((kept,))

    def get(self) -> bytes:
        """The oldest record. See `Ring.get`."""
        batch = self._batch
        if not batch:
            self._next_batch()
            if not batch:
                raise RingEmpty("the ring is empty")
        record = batch.popleft()
        self._got_bytes += len(record) + RECORD_OVERHEAD
        return record

    def put_many(self, records: Sequence[Buffer]) -> int:
        """Puts as many as fit, in order; returns how many. See `BatchRing.put_many`.

        Raises:
            RingClosed: the ring was closed.
            ValueError: one of them can never fit. None was put.
        """
        if self._closed:
            raise RingClosed("the ring is closed: nothing can be put")
        if not records:
            return 0
        kept = [record if type(record) is bytes else bytes(record) for record in records]
        sizes = list(map(len, kept))
        longest = max(sizes)
        if longest > self._largest:
            raise never_fits(longest, self.capacity)
        cost = sum(sizes) + RECORD_OVERHEAD * len(sizes)
        free = self.capacity - (self._put_bytes - self._got_bytes)
        if cost > free:
            ends = list(accumulate(size + RECORD_OVERHEAD for size in sizes))
            count = bisect_right(ends, free)
            if not count:
                return 0
            del kept[count:]
            cost = ends[count - 1]
        self._put_bytes += cost
        self._queue.put(kept)
        return len(kept)

    def get_many(self, limit: int) -> list[bytes]:
        """Up to ``limit`` records, oldest first. See `BatchRing.get_many`."""
        batch = self._batch
        if not batch:
            self._next_batch()
        queue = self._queue
        while len(batch) < limit and not queue.empty():
            batch.extend(queue.get_nowait())
        if len(batch) <= limit:
            records = list(batch)
            batch.clear()
        else:
            take = batch.popleft
            records = [take() for _ in range(limit)]
        self._got_bytes += sum(map(len, records)) + RECORD_OVERHEAD * len(records)
        return records

    def __len__(self) -> int:
        got = self._got_bytes  # read first: the difference is never negative, whoever asks
        return min(self._put_bytes - got, self.capacity)

    def close(self) -> None:
        """No more puts; what is inside can still be taken."""
        self._closed = True

    def _next_batch(self) -> None:
        # `closed` is read before the queue: a record put just before closing is not missed.
        closed = self._closed
        if not self._queue.empty():
            self._batch.extend(self._queue.get_nowait())
        elif closed:
            raise RingClosed("the ring is closed and empty: nothing will come")
