"""A pool that cuts its buffers from arenas: large blocks, one class of buffers each.

The allocator is asked once an arena, not once a buffer, and never again in steady state: a buffer that
comes back goes on its class's stack of free ones, and its arena is kept for good. So memory does not go
back and forth, nor fragment; what the pool once needed it keeps, up to ``max_held``. Beyond that it hands
out loose buffers, made to measure and not kept.

An arena is cut from its front as buffers are first needed. The kernel gives pages when they are first
touched, so that the uncut part of an arena costs address space, not memory.
"""

from __future__ import annotations

from portask.contracts import PoolStats
from portask.errors import PoolError

SMALLEST = 64
"""Bytes of the smallest class. Classes are powers of two."""


class SlabPool:
    """Cuts buffers from arenas of ``arena`` bytes, ``max_held`` bytes of them at most; `Pool`.

    Args:
        max_held: Bytes in arenas, at most.
        arena: Bytes of one arena, and the largest class; a power of two, at least `SMALLEST`.
    """

    def __init__(self, max_held: int = 64 << 20, arena: int = 1 << 20) -> None:
        if max_held < 0 or arena < SMALLEST or arena & (arena - 1):
            raise ValueError(
                f"max_held ({max_held}) must be 0 or more bytes, arena ({arena}) a power of 2 from {SMALLEST}"
            )
        classes = arena.bit_length()
        self._arena = arena
        self._max_held = max_held
        # by class: buffers of 2**k bytes; the first few classes are not used
        self._free: list[list[memoryview]] = [[] for _ in range(classes)]
        self._uncut: list[memoryview] = [memoryview(b"")] * classes
        # by id, and holding the view: an id is not used again meanwhile
        self._lent: dict[int, memoryview] = {}
        self._loose: dict[int, memoryview] = {}
        self._arenas = self._lent_bytes = self._loose_bytes = self._taken = self._reused = 0

    def take(self, size: int) -> memoryview:
        """A view of ``size`` rounded up to its class, the warmest one first. See `Pool.take`."""
        if size <= 0:
            raise ValueError(f"a buffer has at least one byte, not {size}")
        self._taken += 1
        size_class = (max(size, SMALLEST) - 1).bit_length()
        if size > self._arena:
            return self._take_loose(size)
        free = self._free[size_class]
        if free:
            buffer = free.pop()
            self._reused += 1
        else:
            if not self._uncut[size_class]:
                if self._arenas + self._arena > self._max_held:
                    return self._take_loose(size)
                self._uncut[size_class] = memoryview(bytearray(self._arena))
                self._arenas += self._arena
            uncut = self._uncut[size_class]
            buffer, self._uncut[size_class] = uncut[: 1 << size_class], uncut[1 << size_class :]
        self._lent[id(buffer)] = buffer
        self._lent_bytes += len(buffer)
        return buffer

    def _take_loose(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        self._loose[id(buffer)] = buffer
        self._loose_bytes += size
        return buffer

    def give(self, buffer: memoryview) -> None:
        """Keeps ``buffer`` for the next `take` of its class, unless it is a loose one. See `Pool.give`."""
        size = len(buffer)  # first: a released view fails here, and nothing has changed
        if self._lent.pop(id(buffer), None) is not None:
            self._lent_bytes -= size
            self._free[(size - 1).bit_length()].append(buffer)
        elif self._loose.pop(id(buffer), None) is not None:
            self._loose_bytes -= size
        else:
            raise PoolError("this buffer was given back before, or was never taken from this pool")

    def stats(self) -> PoolStats:
        """Counts; ``held`` are the bytes of the arenas that are not lent now."""
        return PoolStats(
            self._taken, self._reused, self._arenas - self._lent_bytes, self._lent_bytes + self._loose_bytes
        )
