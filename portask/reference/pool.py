"""The reference pool: no pool. Every buffer is allocated when it is taken."""

from __future__ import annotations

from portask.contracts import PoolStats
from portask.errors import PoolError


class NoPool:
    """Allocates every time; `Pool`. The allocator zeroes what it hands out, and that is part of the cost."""

    def __init__(self) -> None:
        # by id, and holding the view: an id is not used again meanwhile
        self._lent: dict[int, memoryview] = {}
        self._lent_bytes = 0
        self._taken = 0

    def take(self, size: int) -> memoryview:
        """A writable view of exactly ``size`` zero bytes. See `Pool.take`."""
        if size <= 0:
            raise ValueError(f"a buffer has at least one byte, not {size}")
        buffer = memoryview(bytearray(size))
        self._lent[id(buffer)] = buffer
        self._lent_bytes += size
        self._taken += 1
        return buffer

    def give(self, buffer: memoryview) -> None:
        """Forgets ``buffer``; its memory is freed with the caller's last reference. See `Pool.give`."""
        size = len(buffer)  # first: a released view fails here, and nothing has changed
        if self._lent.pop(id(buffer), None) is None:
            raise PoolError("this buffer was given back before, or was never taken from this pool")
        self._lent_bytes -= size

    def stats(self) -> PoolStats:
        """Nothing is ever reused or held."""
        return PoolStats(taken=self._taken, reused=0, held=0, lent=self._lent_bytes)
