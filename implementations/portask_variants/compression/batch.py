"""Gather first, then compress: the repetition is between messages, not inside them."""

from __future__ import annotations

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask_variants.compression.zstd import at_level

MAX_COALESCE = 16 << 20


class BatchCoalescing:
    """Asks its caller to gather batches up to ``coalesce`` raw bytes, then compresses them as one.

    The caller gathers (a producer while it lingers, a storage while it appends), because only it knows how
    long records may wait and which batches may be joined. A batch that comes small all the same is compressed
    as it is.

    Args:
        coalesce: Raw bytes worth gathering. 64 KiB lies within every zstd level's window and is unfolded in
            some 50 µs.
        level: zstd level. Above 1 there is room here: one call's cost is spread over many records.
    """

    def __init__(self, coalesce: int = 65536, level: int = 3) -> None:
        if not 0 < coalesce <= MAX_COALESCE:
            raise ConfigError(f"coalesce {coalesce}: give 1 to {MAX_COALESCE:,} bytes")
        self.coalesce = coalesce
        self._zstd = at_level(level)

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The gathered records as one zstd frame."""
        return self._zstd.pack(raw)
