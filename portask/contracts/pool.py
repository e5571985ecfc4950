"""Where buffers come from, and go back to."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class PoolStats(NamedTuple):
    """Counts since the pool was made; ``held`` and ``lent`` are bytes now."""

    taken: int
    reused: int
    held: int
    lent: int


@runtime_checkable
class Pool(Protocol):
    """Hands out writable buffers by size class and takes them back. Single-threaded: one pool a loop."""

    def take(self, size: int) -> memoryview:
        """A writable view of at least ``size`` bytes. Contents are arbitrary.

        Raises:
            ValueError: ``size`` is not positive.
        """
        ...

    def give(self, buffer: memoryview) -> None:
        """Takes back exactly the view that `take` returned. The caller must hold no other view of it.

        Raises:
            PoolError: given twice, or not from this pool.
        """
        ...

    def stats(self) -> PoolStats:
        """Counts, for metrics and for tests of "no allocation in steady state"."""
        ...
