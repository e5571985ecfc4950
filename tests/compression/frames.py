"""Compressed bytes as strangers might send them, made by hand where no library would make them."""

from __future__ import annotations

import struct
import zlib

import lz4.frame
import zstandard

BLOCK = 128 << 10
MIB = 1 << 20
GIB = 1 << 30


def zstd_zeros(size: int, declared: int | None = None, window_log: int = 17) -> bytes:
    """A zstd frame of ``size`` zeros in run-length blocks, 4 bytes for 128 KiB (RFC 8878 §3.1.1)."""
    descriptor = 0x00 if declared is None else 0xC0
    frame = bytearray(struct.pack("<IBB", 0xFD2FB528, descriptor, window_log - 10 << 3))
    if declared is not None:
        frame += struct.pack("<Q", declared)
    while size:
        length = min(size, BLOCK)
        size -= length
        frame += struct.pack("<I", (0 if size else 1) | 1 << 1 | length << 3)[:3] + b"\0"
    return bytes(frame)


def zstd_unsized(raw: bytes, level: int = 1, *, checksum: bool = False, flush_every: int = 0) -> bytes:
    """A zstd frame that does not say how long its content is, as streaming encoders write it."""
    stream = zstandard.ZstdCompressor(level, write_checksum=checksum).compressobj()
    step = flush_every or len(raw) or 1
    parts = []
    for start in range(0, len(raw), step):
        parts += [stream.compress(raw[start : start + step]), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*parts, stream.flush()])


def zlib_zeros(size: int, piece: int = 16 * MIB) -> bytes:
    """A zlib stream of ``size`` zeros (a multiple of ``piece``), its checksum right."""
    stream = zlib.compressobj(9, wbits=-15)
    block = stream.compress(bytes(piece)) + stream.flush(zlib.Z_FULL_FLUSH)
    adler = (size % 65521) << 16 | 1
    return b"\x78\xda" + block * (size // piece) + stream.flush() + struct.pack(">I", adler)


def lz4_zeros(size: int, piece: int = 4 * MIB, *, store_size: bool = False) -> bytes:
    """An LZ4 frame of ``size`` zeros (a multiple of ``piece``)."""
    stream = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB, block_linked=False)
    parts = [stream.begin(size if store_size else 0)]
    parts += [stream.compress(bytes(piece)) for _ in range(size // piece)]
    return b"".join([*parts, stream.flush()])
