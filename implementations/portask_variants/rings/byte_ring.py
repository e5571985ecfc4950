"""A ring in one block of bytes: records back to back, each behind its length.

**Layout.** A head of 64-byte cache lines, then the data area::

    word 0      magic       ┐ line 0: written once, when the ring is made
    word 1      capacity    ┘
    word 8      put         line 1: bytes ever put, written by the producer only
    word 16     got         line 2: bytes ever taken, written by the consumer only
    word 24     closed      line 3: 0, then 1 for good; written by either side, always the same value
    byte 256…   data        capacity bytes, and a margin for one record

Words are native 64-bit integers. A record is its length as such a word, unaligned, and its bytes: exactly
`RECORD_OVERHEAD` more than itself.

**Two counters that only grow.** ``put - got`` bytes are in use; equal means empty, and no slot is lost to
tell full from empty. A position is ``counter % capacity``. At 1 GB/s a counter lasts 584 years.

**No record is ever split.** One that starts before the end of the data area may run over it, into the
margin. The next one then starts as far behind the beginning as the other ran over. The bytes that it skips
there and those in the margin have the same counter values, so ``put - got <= capacity`` protects both, and
neither padding nor a wrap marker is needed: the ring is full when its capacity is used, to the byte. The
margin is as large as the largest record.

**Publishing.** The producer writes the record, then ``put``. The consumer reads ``put``, then the record,
then writes ``got``, and only that allows the producer to overwrite it. What was not published does not
exist: a producer that dies in between leaves no trace. Between threads of one process CPython's lock orders
these steps; `shared_memory` says what orders them between processes.

**Batches.** Joining is done in C, one copy and one publication a batch. Taking many records reads one
length after the other, for each tells where the next one is; but a run of equal lengths is a table of
fixed-width rows, which ``struct`` reads in one pass, lengths included. If all lengths in the table agree,
each row began where the one before it ended, so they were records indeed; if one differs, the batch is
walked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from struct import Struct

from portask.contracts import RECORD_OVERHEAD
from portask.errors import RingClosed, RingEmpty, RingError, RingFull
from portask.messages import Buffer
from portask.reference.ring import largest_record, never_fits

MAGIC = int.from_bytes(b"PORTring", "little")
HEAD = 256
"""Bytes before the data area."""
MAGIC_WORD, CAPACITY, PUT, GOT, CLOSED = 0, 1, 8, 16, 24

_LENGTH = Struct("=Q")
_pack_length = _LENGTH.pack
_pack_length_into = _LENGTH.pack_into
_length_at = _LENGTH.unpack_from


@lru_cache(maxsize=256)
def _row(size: int) -> Struct:
    return Struct(f"=Q{size}s")


def size_of(capacity: int) -> int:
    """Bytes of memory that a ring of ``capacity`` needs."""
    return HEAD + capacity + largest_record(capacity) + RECORD_OVERHEAD


class ByteRing:
    """A bounded FIFO of byte records in one ``bytearray``; `Ring` and `BatchRing`, for two threads.

    Args:
        capacity: In bytes, overhead included; at least `portask.reference.ring.MIN_CAPACITY`.
    """

    capacity: int

    def __init__(self, capacity: int = 1 << 20) -> None:
        memory = memoryview(bytearray(size_of(capacity)))
        words = memory[:HEAD].cast("Q")
        words[MAGIC_WORD], words[CAPACITY] = MAGIC, capacity
        self._use(memory)

    def _use(self, memory: memoryview) -> None:
        """Works in ``memory``, whose head is already written."""
        self._words = memory[:HEAD].cast("Q")
        self._data = memory[HEAD:]
        self.capacity = self._words[CAPACITY]
        self._largest = largest_record(self.capacity)

    def put(self, record: Buffer) -> None:
        """Copies ``record`` in. See `Ring.put`."""
        words = self._words
        if words[CLOSED]:
            raise RingClosed("the ring is closed: nothing can be put")
        length = len(record)
        if length > self._largest:
            raise never_fits(length, self.capacity)
        put = words[PUT]
        after = put + RECORD_OVERHEAD + length
        if after - words[GOT] > self.capacity:
            raise RingFull(record)
        at = put % self.capacity
        start = at + RECORD_OVERHEAD
        _pack_length_into(self._data, at, length)
        self._data[start : start + length] = record
        words[PUT] = after

    def get(self) -> bytes:
        """The oldest record, a copy. See `Ring.get`."""
        words = self._words
        got, put = words[GOT], words[PUT]
        if got == put:
            self._raise_if_over()
            raise RingEmpty("the ring is empty")
        at = got % self.capacity
        (length,) = _length_at(self._data, at)
        start = at + RECORD_OVERHEAD
        after = got + RECORD_OVERHEAD + length
        if length > self._largest or after > put:
            raise self._broken(length, got)
        record = self._data[start : start + length].tobytes()
        words[GOT] = after
        return record

    def put_many(self, records: Sequence[Buffer]) -> int:
        """Copies in as many as fit, in order, and publishes them at once; returns how many.

        Raises:
            RingClosed: the ring was closed.
            ValueError: one of them can never fit. None was put.
        """
        words = self._words
        if words[CLOSED]:
            raise RingClosed("the ring is closed: nothing can be put")
        sizes = list(map(len, records))
        if not sizes:
            return 0
        longest = max(sizes)
        if longest > self._largest:
            raise never_fits(longest, self.capacity)
        count = len(sizes)
        cost = sum(sizes) + RECORD_OVERHEAD * count
        put = words[PUT]
        free = self.capacity - (put - words[GOT])
        at = put % self.capacity
        if cost <= free and at + cost <= self.capacity:
            self._data[at : at + cost] = _framed(records, sizes)
            words[PUT] = put + cost
            return count
        # Some do not fit, or they go around the end: those that start before the end, then the others.
        ends = list(accumulate(size + RECORD_OVERHEAD for size in sizes))
        count = bisect_right(ends, free)
        if not count:
            return 0
        split = min(count, bisect_left(ends, self.capacity - at) + 1)
        self._data[at : at + ends[split - 1]] = _framed(records[:split], sizes[:split])
        if split < count:
            at += ends[split - 1] - self.capacity
            rest = ends[count - 1] - ends[split - 1]
            self._data[at : at + rest] = _framed(records[split:count], sizes[split:count])
        words[PUT] = put + ends[count - 1]
        return count

    def get_many(self, limit: int) -> list[bytes]:
        """Up to ``limit`` records, oldest first, copied out. See `BatchRing.get_many`."""
        words = self._words
        got, put = words[GOT], words[PUT]
        if got == put:
            self._raise_if_over()
            return []
        records: list[bytes] = []
        while got < put and len(records) < limit:
            got += self._take(got, put, limit - len(records), records)
        words[GOT] = got
        return records

    def __len__(self) -> int:
        got = self._words[GOT]  # read first: the difference is never negative, whoever asks
        return min(self._words[PUT] - got, self.capacity)

    def close(self) -> None:
        """No more puts; what is inside can still be taken."""
        self._words[CLOSED] = 1

    def _take(self, got: int, put: int, limit: int, records: list[bytes]) -> int:
        """Appends up to ``limit`` records that start before the data area's end; returns their bytes."""
        data, largest = self._data, self._largest
        at = got % self.capacity
        stop = min(at + put - got, self.capacity)  # no record starts here or later
        length: int = _length_at(data, at)[0]
        if length > largest:
            raise self._broken(length, got)
        row = RECORD_OVERHEAD + length
        count = min(limit, (put - got) // row, (stop - at + row - 1) // row)
        last = at + (count - 1) * row
        if count > 1 and _length_at(data, at + row)[0] == length == _length_at(data, last)[0]:
            rows = _row(length).iter_unpack(data[at : at + count * row])
            table = [record for size, record in rows if size == length]
            if len(table) == count:
                records += table
                return count * row
        here = at
        ends = [at]
        for _ in range(limit):
            (length,) = _length_at(data, here)
            if length > largest:
                raise self._broken(length, got + here - at)
            here += RECORD_OVERHEAD + length
            ends.append(here)
            if here >= stop:
                break
        if here - at > put - got:
            raise self._broken(length, got + here - at)
        block = data[at:here].tobytes()
        records += [block[start - at + RECORD_OVERHEAD : end - at] for start, end in pairwise(ends)]
        return here - at

    def _raise_if_over(self) -> None:
        # Asked in this order: a record put just before closing is seen by the second question.
        if self._words[CLOSED] and self._words[GOT] == self._words[PUT]:
            raise RingClosed("the ring is closed and empty: nothing will come")

    def _broken(self, length: int, got: int) -> RingError:
        return RingError(
            f"the ring's memory was overwritten: a record of {length} bytes stands at {got}. Two producers, "
            "two consumers or a stray write did that; make a new ring"
        )


def _framed(records: Sequence[Buffer], sizes: list[int]) -> bytes:
    """The records, each behind its length."""
    first = sizes[0]
    if sizes.count(first) == len(sizes):
        return _pack_length(first).join((b"", *records))
    parts: list[Buffer] = [b""] * (2 * len(sizes))
    parts[::2] = map(_pack_length, sizes)
    parts[1::2] = records
    return b"".join(parts)
