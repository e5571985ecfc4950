"""Whether a batch is made smaller, and how hard."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from portask.messages import Buffer


class Packed(NamedTuple):
    """A compressed record area and what a reader needs to know of it (`portask.wire.compression` names the numbers)."""

    algorithm: int
    dictionary: int
    data: Buffer


@runtime_checkable
class Compression(Protocol):
    """Decides whether and how hard to compress a record area, and does it. One instance a stream; keeps statistics.

    The way back is not a strategy: `portask.wire.compression.decompress` reads the batch's attributes,
    bounded by the raw length that the batch declares.
    """

    coalesce: int
    """Raw bytes worth gathering before compressing; 0 takes batches as they come."""

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The compressed form, or ``None`` to leave ``raw`` as it is (also when compressing did not make it smaller).

        Args:
            raw: The record area of one batch.
            load: How busy the caller is: 0.0 idle, 1.0 saturated (share of the last window it spent working).
        """
        ...
