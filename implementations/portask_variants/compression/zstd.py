"""zstd as the strategies use it: one frame a batch, its size inside, no checksum (the batch has one)."""

from __future__ import annotations

from functools import cache

import zstandard

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask.wire.compression import ZSTD

MIN_LEVEL, MAX_LEVEL = -50, zstandard.MAX_COMPRESSION_LEVEL
"""Below -50 zstd finds next to nothing in messages (it would take -131072)."""


class Compressor:
    """zstd at one level, with one dictionary or none; may be called from any thread.

    A zstd context serves one thread at a time, holds the match tables (0.1 to some MiB, by level and largest
    batch) and costs more to make than a small batch costs to compress. So idle ones wait in a list: a caller
    takes one and puts it back (list.pop and list.append are atomic), and there are as many as callers were
    ever inside at once.
    """

    __slots__ = ("_dictionary", "_idle", "_level")

    def __init__(self, level: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        """Checks the level; contexts are made when needed.

        Raises:
            ConfigError: zstd has no such level.
        """
        if level not in range(MIN_LEVEL, MAX_LEVEL + 1):
            raise ConfigError(f"compression level {level!r}: use {MIN_LEVEL} to {MAX_LEVEL}")
        self._level = level
        self._dictionary = dictionary
        self._idle: list[zstandard.ZstdCompressor] = []

    def compress(self, raw: Buffer) -> bytes:
        """One zstd frame; keeps no reference to ``raw``."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = zstandard.ZstdCompressor(self._level, self._dictionary)
        try:
            return context.compress(raw)
        finally:
            self._idle.append(context)

    def pack(self, raw: Buffer) -> Packed | None:
        """The frame, or ``None`` when it is not smaller."""
        data = self.compress(raw)
        return Packed(ZSTD, 0, data) if len(data) < len(raw) else None


@cache
def at_level(level: int) -> Compressor:
    """The compressor of a level, shared by all streams of the process: contexts are large, streams many."""
    return Compressor(level)
