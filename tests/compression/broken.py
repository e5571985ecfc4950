"""Strategies that break the contract, each in one way: the conformance suite must name it."""

from __future__ import annotations

import zlib

from portask.contracts import Packed
from portask.messages import Buffer
from portask.wire.compression import NONE, ZLIB, ZSTD


class Plain:
    coalesce = 0

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        data = zlib.compress(raw, 1)
        return Packed(ZLIB, 0, data) if len(data) < len(raw) else None


class Grows(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        return Packed(ZLIB, 0, zlib.compress(raw, 1))


class Loses(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        return super().pack(bytes(raw)[:-1] + b"?", load)


class Misnames(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        packed = super().pack(raw, load)
        return packed and packed._replace(algorithm=ZSTD)


class WithoutDictionary(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        packed = super().pack(raw, load)
        return packed and packed._replace(algorithm=ZSTD, dictionary=3)


class Chained(Plain):
    """One stream over all batches: no result unpacks without the ones before it."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(1)

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        data = self._stream.compress(raw) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        return Packed(ZLIB, 0, data) if len(data) < len(raw) else None


class KeepsTheView(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        self._last = memoryview(raw)
        return super().pack(raw, load)


class Aliases(Plain):
    """Gives back a view of the caller's buffer: as it is, declared as such, and still not the caller's to change."""

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        return Packed(NONE, 0, memoryview(raw)) if raw else None


class Remembers(Plain):
    def __init__(self) -> None:
        self._all: list[bytes] = []

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        self._all.append(bytes(raw) + b"!")
        return super().pack(raw, load)


class Wavers(Plain):
    def pack(self, raw: Buffer, load: float) -> Packed | None:
        self.coalesce += 1
        return super().pack(raw, load)
