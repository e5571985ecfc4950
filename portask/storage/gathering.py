"""Stored one-record batches that lie side by side become one batch: when a turn is written, and when it is read.

The same as `portask.wire.coalesce` does for batches that arrive one by one, for those that are stamped already. Only
batches of one record that differ in nothing but that record are gathered: uncompressed CBOR, no producer id (its
sequence numbers must stay), the same TTL, append times close together (equal where a TTL counts from them). The record
moves as it is but for its first field, the timestamp delta, which counts from another base afterwards. One that cannot
be read stays alone: it would spoil the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct

from portask.contracts import COALESCE_WINDOW_US, Compression
from portask.messages import Buffer
from portask.wire import accelerate, batches, cbor
from portask.wire.coalesce import CBOR_SEQUENCE
from portask.wire.compression import attributes_for

SMALL = batches.BATCH_HEADER_SIZE + 4096
"""Largest batch that is gathered, in bytes."""

_FIELDS = Struct("<QQ8xQ4xIQQ8x")
"""Base offset, append time, bytes 24 to 31, TTL, base timestamp, producer."""
# Bytes 24..31 of a batch of one uncompressed CBOR record: version, codec, attributes, count.
(_ONE,) = Struct("<Q").unpack(Struct("<BBHI").pack(batches.BATCH_VERSION, CBOR_SEQUENCE, 0, 1))
_RECORD = 0x84  # a CBOR array of four (RFC 8949 §3.1, major type 4)
_DELTA_AT = batches.BATCH_HEADER_SIZE + 1
_LIMIT = 1 << 64

Finish = Callable[[bytes], bytes]


def gather(
    found: Sequence[Buffer], target: int, window: int = COALESCE_WINDOW_US, finish: Finish | None = None
) -> Sequence[Buffer]:
    """``found`` with every run of small neighbours replaced by one batch.

    About 2 µs a record, or 0.2 µs by a helper (`portask.wire.accelerate`).

    Args:
        found: Whole stamped batches in offset order. Offsets may be missing between them.
        target: Most bytes of records in a gathered batch.
        window: µs by which append times within a gathered batch may differ.
        finish: Applied to gathered batches, for instance to compress them.
    """
    if len(found) < 2:
        return found
    quick = accelerate.helper("gather_batches")
    if quick is not None:
        joined: list[Buffer] = quick(found, target, window, finish)
        return joined
    out: list[Buffer] = []
    run: _Run | None = None
    for batch in found:
        if _DELTA_AT < len(batch) <= SMALL:
            fields = _FIELDS.unpack_from(batch)
            if fields[2] == _ONE and not fields[5] and _is_record(memoryview(batch)):
                if run is not None:
                    if run.take(batch, fields, target, window):
                        continue
                    out.append(run.batch(finish))
                run = _Run(batch, fields)
                continue
        if run is not None:
            out.append(run.batch(finish))
            run = None
        out.append(batch)
    if run is not None:
        out.append(run.batch(finish))
    return out


def _is_record(batch: memoryview) -> bool:
    """Whether the only record of a batch can be read: else those that are put beside it could not be either."""
    read = cbor.read_integer(batch, _DELTA_AT) if batch[_DELTA_AT - 1] == _RECORD else None
    return read is not None and cbor.ends_record(batch, read[1])


class _Run:
    """Neighbours that become one batch. A single one stays as it is."""

    __slots__ = ("base", "body", "count", "first", "time", "timestamp", "ttl")

    def __init__(self, first: Buffer, fields: tuple[int, ...]) -> None:
        self.first = first
        self.base, self.time, _, self.ttl, self.timestamp, _ = fields
        self.count = 1
        self.body = bytearray()

    def take(self, batch: Buffer, fields: tuple[int, ...], target: int, window: int) -> bool:
        """Adds the next neighbour; false, and nothing done, if it cannot be."""
        base, time, _, ttl, timestamp, _ = fields
        body = self.body
        if not body:
            body += memoryview(self.first)[batches.BATCH_HEADER_SIZE :]
        if (
            base != self.base + self.count
            or ttl != self.ttl
            or not 0 <= time - self.time <= (0 if ttl else window)
            or len(body) + len(batch) > target
        ):
            return False
        view = memoryview(batch)
        if view[_DELTA_AT]:
            read = cbor.read_integer(view, _DELTA_AT)
            if read is None:
                return False
            delta, end = read
            delta += timestamp - self.timestamp
        else:
            delta, end = timestamp - self.timestamp, _DELTA_AT + 1
        if not -_LIMIT <= delta < _LIMIT:
            return False
        body.append(_RECORD)
        body += cbor.integer(delta)
        body += view[end:]
        self.count += 1
        return True

    def batch(self, finish: Finish | None) -> Buffer:
        """What became of the run."""
        if self.count == 1:
            return self.first
        gathered = batches.build(
            self.body,
            self.count,
            codec=CBOR_SEQUENCE,
            base_timestamp=self.timestamp,
            ttl=self.ttl,
            base_offset=self.base,
            append_time=self.time,
        )
        return gathered if finish is None else finish(gathered)


def packer(compression: Compression, load: Callable[[], float]) -> Finish:
    """Compresses joined batches as the strategy says; ``load`` tells it how busy the owner is."""

    def pack(batch: bytes) -> bytes:
        found = batches.parse(batch)
        packed = compression.pack(found.body, load())
        if packed is None:
            return batch
        return batches.build(
            packed.data,
            found.count,
            codec=found.codec,
            base_timestamp=found.base_timestamp,
            attributes=attributes_for(packed.algorithm, packed.dictionary),
            raw_length=found.raw_length,
            ttl=found.ttl,
            base_offset=found.base_offset,
            append_time=found.append_time,
        )

    return pack
