"""A pool that keeps what comes back, in one list a size class.

Classes are the powers of two from `SMALLEST` to ``largest``. A buffer is as large as its class, so that any
buffer of a class serves any size of it: at most half of a buffer is wasted, and a stack of free buffers,
the warmest on top, is all the bookkeeping. Larger buffers are rare and worth their allocation: they are
made to measure and not kept.
"""

from __future__ import annotations

from portask.contracts import PoolStats
from portask.errors import PoolError

SMALLEST = 64
"""Bytes of the smallest class."""


class FreelistPool:
    """Keeps returned buffers by size class, up to ``max_held`` bytes; `Pool`.

    Args:
        max_held: Bytes kept for reuse, at most. What would exceed it is freed when it is given back.
        largest: Bytes of the largest class; rounded up to a power of two.
    """

    def __init__(self, max_held: int = 64 << 20, largest: int = 1 << 20) -> None:
        if max_held < 0 or largest < 1:
            raise ValueError(f"max_held ({max_held}) must be 0 or more bytes, largest ({largest}) 1 or more")
        # free[k] are buffers of 2**k bytes; the first few lists stay empty
        classes = (max(largest, SMALLEST) - 1).bit_length() + 1
        self._free: list[list[memoryview]] = [[] for _ in range(classes)]
        # by id, and holding the view: an id is not used again meanwhile
        self._lent: dict[int, memoryview] = {}
        self._max_held = max_held
        self._held = self._lent_bytes = self._taken = self._reused = 0

    def take(self, size: int) -> memoryview:
        """A view of ``size`` rounded up to its class, the warmest one first. See `Pool.take`."""
        if size <= 0:
            raise ValueError(f"a buffer has at least one byte, not {size}")
        self._taken += 1
        size_class = (max(size, SMALLEST) - 1).bit_length()
        if size_class >= len(self._free):
            buffer = memoryview(bytearray(size))
        elif self._free[size_class]:
            buffer = self._free[size_class].pop()
            self._held -= len(buffer)
            self._reused += 1
        else:
            buffer = memoryview(bytearray(1 << size_class))
        self._lent[id(buffer)] = buffer
        self._lent_bytes += len(buffer)
        return buffer

    def give(self, buffer: memoryview) -> None:
        """Keeps ``buffer`` for the next `take` of its class. See `Pool.give`."""
        size = len(buffer)  # first: a released view fails here, and nothing has changed
        if self._lent.pop(id(buffer), None) is None:
            raise PoolError("this buffer was given back before, or was never taken from this pool")
        self._lent_bytes -= size
        size_class = (size - 1).bit_length()
        if size_class < len(self._free) and self._held + size <= self._max_held:
            self._free[size_class].append(buffer)
            self._held += size

    def stats(self) -> PoolStats:
        """Counts; ``held`` are the bytes that wait to be reused, never more than ``max_held``."""
        return PoolStats(self._taken, self._reused, self._held, self._lent_bytes)
