"""Any attributes, bytes and declared length give exactly that length, or a `BatchError`.

Run it for as long as you like: ``python -m tests.fuzz.fuzz_decompress [-max_total_time=60] [corpus folder]``.
"""

from __future__ import annotations

import importlib
import sys
import zlib

import lz4.frame
import zstandard

from portask.errors import BatchError
from portask.wire import compression
from portask.wire.compression import LZ4, NONE, ZLIB, ZSTD, Dictionaries
from portask_variants.compression.dictionary import train

MAX_RAW = 1 << 20
SAMPLES = [b'{"id":%d,"kind":"created","customer":"c-%d"}' % (i * 7919, i % 50) for i in range(300)]
DICTIONARIES: Dictionaries = train(SAMPLES, 1024, 1)


def one_input(data: bytes) -> None:
    """The first six bytes are the attributes and the raw length, the rest the record area."""
    attributes = int.from_bytes(data[:2], "little")
    raw_length = int.from_bytes(data[2:6], "little") % MAX_RAW
    try:
        raw = compression.decompress(attributes, data[6:], raw_length, DICTIONARIES)
    except BatchError:
        return
    if len(raw) != raw_length:
        raise AssertionError(f"{raw_length} bytes declared, {len(raw)} came")


def seeds() -> list[bytes]:
    """Valid inputs to start from: one an algorithm, and a batch with the dictionary."""
    raw = b"".join(SAMPLES[:5])
    trained = zstandard.ZstdCompressionDict(DICTIONARIES[1])
    packed = [
        (NONE, raw),
        (ZSTD, zstandard.compress(raw)),
        (ZSTD | 1 << 8, zstandard.ZstdCompressor(dict_data=trained).compress(raw)),
        (LZ4, lz4.frame.compress(raw)),
        (ZLIB, zlib.compress(raw)),
    ]
    return [
        attributes.to_bytes(2, "little") + len(raw).to_bytes(4, "little") + data
        for attributes, data in packed
    ]


if __name__ == "__main__":
    import atheris

    for seed in seeds():
        one_input(seed)
    with atheris.instrument_imports(include=["portask.wire.compression"]):  # the rest would take ten seconds
        importlib.reload(compression)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
