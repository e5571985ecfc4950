"""zstd where it is likely to pay: large enough batches, clear enough gains."""

from __future__ import annotations

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask.wire.compression import ZSTD
from portask_variants.compression.zstd import at_level


class Threshold:
    """Compresses batches from a size on, and keeps the result when it saves a stated share.

    A small batch repeats little, and each call costs microseconds whatever the size; a slightly smaller batch
    still costs every reader a decompression.

    Args:
        level: zstd level.
        min_bytes: Batches below this many raw bytes are left alone.
        max_ratio: Keeps a result of at most this share of the raw size; 1.0 keeps every gain.
    """

    coalesce = 0

    def __init__(self, level: int = 1, min_bytes: int = 1024, max_ratio: float = 0.9) -> None:
        if min_bytes < 0:
            raise ConfigError(f"min_bytes {min_bytes}: give 0 or more bytes")
        if not 0 < max_ratio <= 1:
            raise ConfigError(f"max_ratio {max_ratio}: give a share above 0 and up to 1, such as 0.9")
        self._zstd = at_level(level)
        self._min_bytes = min_bytes
        self._max_ratio = max_ratio

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The batch as one zstd frame, or ``None`` below the thresholds."""
        size = len(raw)
        if size < self._min_bytes:
            return None
        data = self._zstd.compress(raw)
        packed = len(data)
        return Packed(ZSTD, 0, data) if packed < size and packed <= size * self._max_ratio else None
