"""LZ4, a contrast: no entropy coding, so several times faster to read, and larger."""

from __future__ import annotations

import lz4.frame

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask.wire.compression import LZ4

MIN_LEVEL, MAX_LEVEL = -64, lz4.frame.COMPRESSIONLEVEL_MAX


class Lz4:
    """Every batch as one LZ4 frame, without the content size that the batch header already has.

    Args:
        level: LZ4 level: 0 is the plain one, below it faster and larger, 3 to 12 the slow search ("HC").
    """

    coalesce = 0

    def __init__(self, level: int = 0) -> None:
        if level not in range(MIN_LEVEL, MAX_LEVEL + 1):
            raise ConfigError(f"LZ4 level {level!r}: give a whole number from {MIN_LEVEL} to {MAX_LEVEL}")
        self._level = level

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The batch as one LZ4 frame."""
        data = lz4.frame.compress(raw, self._level, store_size=False)
        return Packed(LZ4, 0, data) if len(data) < len(raw) else None
