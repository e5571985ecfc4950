"""How byte records get from a producer to a consumer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from portask.messages import Buffer


@runtime_checkable
class Ring(Protocol):
    """A bounded FIFO of byte records between one producer and one consumer. Never blocks.

    Made with ``capacity`` in bytes. A record occupies its length and `RECORD_OVERHEAD` (framing, alignment).
    A ring accepts at least half its capacity in records of any one size up to an eighth of it, and never
    holds more than its capacity.
    """

    capacity: int

    def put(self, record: Buffer) -> None:
        """Appends a copy of, or a reference to, ``record`` (which must not change afterwards).

        Raises:
            RingFull: no room now; carries the record.
            RingClosed: the ring was closed.
            ValueError: the record can never fit: larger than an eighth of the capacity.
        """
        ...

    def get(self) -> bytes:
        """The oldest record.

        Raises:
            RingEmpty: nothing now.
            RingClosed: nothing, and closed: nothing will come.
        """
        ...

    def __len__(self) -> int:
        """Bytes in use, overhead included. Exact for the caller's own side, a moment old for the other's."""
        ...

    def close(self) -> None:
        """No more puts; what is inside can still be taken. Idempotent. The last side to close frees what is shared."""
        ...


RECORD_OVERHEAD = 8
"""Bytes a record costs in a ring beside its own."""


@runtime_checkable
class BatchRing(Protocol):
    """A ring that moves many records per call."""

    def put_many(self, records: Sequence[Buffer]) -> int:
        """Puts as many as fit, in order; returns how many: ``records[n:]`` did not fit."""
        ...

    def get_many(self, limit: int) -> list[bytes]:
        """Up to ``limit`` records, oldest first; empty when there are none.

        Raises:
            RingClosed: nothing, and closed.
        """
        ...


@runtime_checkable
class SharedRing(Protocol):
    """A ring whose other end may be opened by name in another process."""

    name: str

    @classmethod
    def attach(cls, name: str) -> Ring:
        """The same ring, opened by another process."""
        ...


@runtime_checkable
class WaitingRing(Protocol):
    """A ring whose consumer waits outside of the interpreter: other threads run meanwhile, and nothing is polled."""

    def wait(self, timeout: float, spin: float = 0.0) -> bool:
        """Returns as soon as there is something to take, or to hear: whether that came within ``timeout`` seconds.

        Args:
            timeout: Seconds at most, ``math.inf`` for good. A signal's handler runs meanwhile, within 50 ms.
            spin: Of these, seconds spent looking all the time: burns one core, and saves the µs that waking a
                sleeper takes. Then it sleeps.

        It says ``True`` also when the ring is closed: the next `Ring.get` tells. Where several consume, another may
        have been faster.
        """
        ...
