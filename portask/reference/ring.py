"""The reference ring: a `collections.deque` between one producer and one consumer.

Two counters do the accounting, and no lock. ``_put_bytes`` is written by the producer alone, ``_got_bytes``
by the consumer alone; the difference is what the ring holds. Each side counts on the careful side of its
own step (the producer before it appends, the consumer after it took), so a stale look at the other's
counter can only make the ring seem fuller than it is: it never holds more than its capacity.
``deque.append`` and ``popleft`` are atomic in CPython.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from portask.contracts import RECORD_OVERHEAD
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.messages import Buffer

MIN_CAPACITY = 64
"""Bytes. Below it, framing alone would break the promise that half of the capacity can be used."""


def largest_record(capacity: int) -> int:
    """The longest record, in bytes, that a ring of ``capacity`` bytes takes.

    Raises:
        ValueError: the capacity is too small for a ring.
    """
    if capacity < MIN_CAPACITY:
        raise ValueError(f"a ring of {capacity} bytes is too small: give it at least {MIN_CAPACITY}")
    return capacity // 8


def never_fits(length: int, capacity: int) -> ValueError:
    """The error for a record that is too long for the ring, however empty the ring is."""
    return ValueError(
        f"a record of {length} bytes never fits: a ring of {capacity} bytes takes records of up to "
        f"{capacity // 8}; give the ring more capacity or split the record"
    )


class DequeRing:
    """A bounded FIFO of byte records on a deque; `Ring` and `BatchRing`, for two threads.

    Args:
        capacity: In bytes, overhead included; at least `MIN_CAPACITY`.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.capacity = capacity
        self._largest = largest_record(capacity)
        self._records: deque[bytes] = deque()
        self._put_bytes = 0  # written by the producer only
        self._got_bytes = 0  # written by the consumer only
        self._closed = False

    def put(self, record: Buffer) -> None:
        """Appends ``record``: the object itself when it is ``bytes``, else a copy. See `Ring.put`."""
        if self._closed:
            raise RingClosed("the ring is closed: nothing can be put")
        kept = bytes(record)
        if len(kept) > self._largest:
            raise never_fits(len(kept), self.capacity)
        cost = len(kept) + RECORD_OVERHEAD
        if len(self) + cost > self.capacity:
            raise RingFull(record)
        self._put_bytes += cost
        self._records.append(kept)

    def get(self) -> bytes:
        """The oldest record. See `Ring.get`."""
        try:
            record = self._records.popleft()
        except IndexError:
            self._raise_if_over()
            raise RingEmpty("the ring is empty") from None
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
        kept = [record if type(record) is bytes else bytes(record) for record in records]
        longest = max(map(len, kept), default=0)
        if longest > self._largest:
            raise never_fits(longest, self.capacity)
        count = len(kept)
        cost = sum(map(len, kept)) + RECORD_OVERHEAD * count
        free = self.capacity - len(self)
        while cost > free:
            count -= 1
            cost -= len(kept[count]) + RECORD_OVERHEAD
        self._put_bytes += cost
        self._records.extend(kept[:count])
        return count

    def get_many(self, limit: int) -> list[bytes]:
        """Up to ``limit`` records, oldest first. See `BatchRing.get_many`."""
        if not self._records:
            self._raise_if_over()
        take = self._records.popleft
        records = [take() for _ in range(min(limit, len(self._records)))]
        self._got_bytes += sum(map(len, records)) + RECORD_OVERHEAD * len(records)
        return records

    def __len__(self) -> int:
        got = self._got_bytes  # read first: the difference is never negative, whoever asks
        return min(self._put_bytes - got, self.capacity)

    def close(self) -> None:
        """No more puts; what is inside can still be taken."""
        self._closed = True

    def _raise_if_over(self) -> None:
        # Asked in this order: a record put just before closing is seen by the second question.
        if self._closed and not self._records:
            raise RingClosed("the ring is closed and empty: nothing will come")
