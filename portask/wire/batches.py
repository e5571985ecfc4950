"""Record batches: a 64-byte header, then records. The same bytes travel from producer to log to consumer.

::

    off size field             little-endian, "<QQIIBBHIIIQQHHI"
      0    8 base offset       stamped by the broker
      8    8 append time, µs   stamped by the broker
     16    4 batch length      bytes, header included
     20    4 CRC32C            of bytes 24..end: the broker's stamp stays outside
     24    1 version           1
     25    1 codec             the codec's wire id: 1 CBOR sequence, 2 MessagePack
     26    2 attributes        bits 0-3 compression algorithm, 8-15 dictionary id, the rest reserved
     28    4 record count      at least 1
     32    4 raw length        of the record area before compression
     36    4 TTL               ms after the append, 0 for never
     40    8 base timestamp    µs since the epoch
     48    8 producer id       0 for none
     56    2 producer epoch
     58    2 zero              reserved
     60    4 first sequence    of the producer, 0 for none

The broker reads headers and never decodes a payload; whoever decodes must check that the raw length is what
came out.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from crc32c import crc32c

from portask.errors import BatchCorrupt, BatchTooLarge
from portask.messages import Buffer, RecordBatch
from portask.wire import accelerate

BATCH_HEADER_SIZE = 64
BATCH_VERSION = 1
STAMP_SIZE = 16
MAX_RAW_LENGTH = 64 * 1024 * 1024
"""Most raw bytes that one batch may declare unless a caller sets another limit."""
ANY_RAW_LENGTH = 0xFFFF_FFFF
"""The limit for batches that are stored: they were checked against the limit of their time."""

_HEADER = Struct("<QQIIBBHIIIQQHHI")
_CHECKED = Struct("<BBHIIIQQHHI")
_STAMP = Struct("<QQ")
_PRODUCER = Struct("<QHHI")
_LENGTH_AT = Struct("<I")
_PEEK = Struct("<QQ12xI4xI")
_RESERVED_ATTRIBUTES = 0x00F0


def build(
    body: Buffer,
    count: int,
    *,
    codec: int,
    base_timestamp: int,
    attributes: int = 0,
    raw_length: int | None = None,
    ttl: int = 0,
    producer: int = 0,
    epoch: int = 0,
    sequence: int = 0,
    base_offset: int = 0,
    append_time: int = 0,
) -> bytes:
    """The bytes of a batch around an encoded (and maybe compressed) record area. Copies ``body`` once.

    Args:
        body: The record area.
        count: Records in it.
        codec: Wire id of the codec that wrote it.
        base_timestamp: µs since the epoch.
        attributes: Compression of ``body``; 0 for none.
        raw_length: Bytes of the record area before compression; ``len(body)`` if not given.
        ttl: ms after the append, 0 for never.
        producer: Producer id, 0 for none.
        epoch: Producer epoch.
        sequence: First sequence number.
        base_offset: Stamp; the broker's to set.
        append_time: Stamp, µs; the broker's to set.
    """
    length = len(body)
    tail = _CHECKED.pack(
        BATCH_VERSION,
        codec,
        attributes,
        count,
        length if raw_length is None else raw_length,
        ttl,
        base_timestamp,
        producer,
        epoch,
        0,
        sequence,
    )
    head = base_offset.to_bytes(8, "little") + append_time.to_bytes(8, "little")
    sizes = (BATCH_HEADER_SIZE + length).to_bytes(4, "little") + crc32c(body, crc32c(tail)).to_bytes(
        4, "little"
    )
    return b"".join((head, sizes, tail, body))


def numbered(batch: bytes, producer: int, epoch: int, sequence: int) -> bytes:
    """A copy of a batch that carries its producer's id, epoch and first sequence number."""
    tail = batch[24:48] + _PRODUCER.pack(producer, epoch, 0, sequence)
    body = memoryview(batch)[BATCH_HEADER_SIZE:]
    return b"".join((batch[:20], crc32c(body, crc32c(tail)).to_bytes(4, "little"), tail, body))


def checksum(batch: Buffer) -> int:
    """The CRC32C in the header of a batch that was checked before."""
    (check,) = _LENGTH_AT.unpack_from(batch, 20)
    return int(check)


stamp: Callable[[int, int], bytes] = _STAMP.pack
"""The first 16 bytes of a batch as the broker writes them: base offset and append time."""


def parse(data: Buffer, max_raw_length: int = MAX_RAW_LENGTH) -> RecordBatch:
    """``data`` as exactly one batch, every header field and the checksum verified.

    About 0.6 µs plus the checksum, or 0.2 µs by a helper (`portask.wire.accelerate`).

    Raises:
        BatchCorrupt: a length, a reserved field or the checksum is wrong.
        BatchTooLarge: more raw bytes declared than ``max_raw_length``.
    """
    quick = accelerate.helper("parse_batch")
    if quick is not None:
        found: RecordBatch | None = quick(data, max_raw_length)
        if found is not None:
            return found
    return _examine(data, max_raw_length)


def _examine(data: Buffer, max_raw_length: int) -> RecordBatch:
    size = len(data)
    if size < BATCH_HEADER_SIZE:
        raise BatchCorrupt(f"{size} bytes are too few for a batch: its header alone is {BATCH_HEADER_SIZE}")
    (
        offset,
        time,
        length,
        check,
        version,
        codec,
        attributes,
        count,
        raw,
        ttl,
        base,
        producer,
        epoch,
        zero,
        sequence,
    ) = _HEADER.unpack_from(data)
    if length != size:
        raise BatchCorrupt(f"the batch says it is {length:,} bytes long, {size:,} came")
    if crc32c(memoryview(data)[24:]) != check:
        raise BatchCorrupt("the batch's checksum does not match its bytes")
    if version != BATCH_VERSION:
        raise BatchCorrupt(f"batch version {version} is not known here: this is version {BATCH_VERSION}")
    if zero or not count:
        raise BatchCorrupt(
            "the batch has no records" if not count else "a reserved field of the batch is not zero"
        )
    if attributes & _RESERVED_ATTRIBUTES:
        raise BatchCorrupt(f"reserved attributes of the batch are set: {attributes:#06x}")
    if raw > max_raw_length:
        raise BatchTooLarge(f"the batch unfolds to {raw:,} bytes, above the limit of {max_raw_length:,}")
    if not attributes and raw != size - BATCH_HEADER_SIZE:
        raise BatchCorrupt(
            f"an uncompressed batch declares {raw:,} raw bytes and carries {size - BATCH_HEADER_SIZE:,}"
        )
    if count > raw:
        raise BatchCorrupt(f"{count:,} records cannot fit in {raw:,} raw bytes")
    return RecordBatch(
        data, count, codec, attributes, raw, ttl, base, producer, epoch, sequence, offset, time
    )


def split(data: Buffer, max_raw_length: int = MAX_RAW_LENGTH) -> list[RecordBatch]:
    """The batches that lie back to back in a DELIVER body, each a checked view.

    Raises:
        BatchCorrupt: they do not fill ``data`` exactly, or one of them is corrupt.
        BatchTooLarge: see `parse`.
    """
    view = memoryview(data)
    quick = accelerate.helper("split_batches")
    if quick is not None:
        found: list[RecordBatch] | None = quick(view, max_raw_length)
        if found is not None:
            return found
    batches = []
    start, size = 0, len(view)
    while start < size:
        if size - start < BATCH_HEADER_SIZE:
            raise BatchCorrupt(f"{size - start} bytes after the last batch are no batch")
        (length,) = _LENGTH_AT.unpack_from(view, start + STAMP_SIZE)
        if length < BATCH_HEADER_SIZE or length > size - start:
            raise BatchCorrupt(f"a batch says it is {length:,} bytes long where {size - start:,} are left")
        batches.append(_examine(view[start : start + length], max_raw_length))
        start += length
    return batches


def peek(data: Buffer) -> tuple[int, int, int, int]:
    """Base offset, append time, record count and TTL of a batch that was checked before. About 0.3 µs."""
    offset, time, count, ttl = _PEEK.unpack_from(data)
    return offset, time, count, ttl


def standing(batch: RecordBatch, base_offset: int) -> tuple[int, int, int]:
    """Where its producer stands after ``batch``: (epoch, last sequence number, offset of that record)."""
    last = batch.count - 1
    return batch.epoch, batch.sequence + last & 0xFFFFFFFF, base_offset + last


def expired(data: Buffer, now: int) -> bool:
    """Whether a batch that was checked before is past its TTL at ``now``, µs since the epoch."""
    _, time, _, ttl = _PEEK.unpack_from(data)
    return ttl > 0 and expires_at(time, ttl) <= now


def expires_at(append_time: int, ttl: int) -> int:
    """When a batch stops being delivered, µs since the epoch; 0 for never."""
    return append_time + ttl * 1000 if ttl else 0
