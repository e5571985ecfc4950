"""zstd on every batch, whatever it holds."""

from __future__ import annotations

from portask.contracts import Packed
from portask.messages import Buffer
from portask_variants.compression.zstd import at_level


class Always:
    """Compresses every batch at one level; a batch that does not shrink travels as it is (its cost is spent).

    Args:
        level: zstd level. 1 is zstd's fast end with real entropy coding; higher ones pay on large batches
            only.
    """

    coalesce = 0

    def __init__(self, level: int = 1) -> None:
        self._zstd = at_level(level)

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The batch as one zstd frame."""
        return self._zstd.pack(raw)
