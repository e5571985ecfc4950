"""Gathers neighbouring one-record batches into one batch.

A message published alone costs a 64-byte batch header, nearly as much as a small payload. A storage that
keeps many of them keeps one header for all: record timestamps are relative to the batch's base timestamp, so
the one field that must be written anew is the delta at the front of the record:

    0x84 <delta> <key> <headers> <payload>      →      0x84 <delta + shift> <key> <headers> <payload>

Batches of several records are left as they are: their header is already shared, and moving them would mean
scanning every record. So is whatever is compressed, carries a producer id (its sequence numbers must stay),
or is not CBOR.

While a coalesced batch is open, the end of every record in it is known (4 bytes each). So a reader at any
offset gets a batch that begins exactly there, and the tail can be read without closing the batch.
"""

from __future__ import annotations

from array import array
from typing import Any

from portask.contracts import COALESCE_WINDOW_US
from portask.messages import RecordBatch
from portask.wire import accelerate, batches, cbor

CBOR_SEQUENCE = 1
"""Codec wire id of the CBOR record sequence, the only one whose records are understood here."""

_RECORD = 0x84  # a CBOR array of four (RFC 8949 §3.1, major type 4)


class Coalescer:
    """One batch that is still growing. Made from its first one-record batch (see `fits_alone`).

    Attributes:
        base_offset: Offset of its first record.
        count: Records in it.
        last_append: Append time of its newest record, µs.
    """

    __slots__ = (
        "_append_time",
        "_base_timestamp",
        "_data",
        "_ends",
        "_target",
        "_ttl",
        "_until",
        "base_offset",
        "count",
        "last_append",
    )

    def __init__(self, first: RecordBatch, base_offset: int, now: int, target: int = 64 * 1024) -> None:
        self.base_offset = base_offset
        self.count = 0
        self.last_append = now
        self._append_time = now
        # A batch expires as one: what was appended later would lose some of its time.
        self._until = now + (1 if first.ttl else COALESCE_WINDOW_US)
        self._base_timestamp = first.base_timestamp
        self._ttl = first.ttl
        self._target = target
        self._data = bytearray()
        self._ends = array("I")

    @staticmethod
    def fits(batch: RecordBatch) -> bool:
        """Whether ``batch`` is of the kind that is gathered at all."""
        return (
            batch.count == 1
            and batch.codec == CBOR_SEQUENCE
            and not batch.attributes
            and not batch.producer
            and batch.raw_length <= 4096
        )

    def __len__(self) -> int:
        """Bytes of records gathered so far."""
        return len(self._data)

    def add(self, batch: RecordBatch, now: int) -> bool:
        """Takes the batch's record in, as the next offset; about 1.5 µs. False, and nothing done, if it cannot be.

        The caller has asked `fits`.
        """
        if batch.ttl != self._ttl or now >= self._until or len(self._data) + batch.raw_length > self._target:
            return False
        record = memoryview(batch.data)[batches.BATCH_HEADER_SIZE :]
        if record[0] != _RECORD:
            return False
        read = cbor.read_integer(record, 1)
        if read is None or not cbor.ends_record(record, read[1]):
            return False  # else those behind it in a batch could not be read either
        delta, end = read
        delta += batch.base_timestamp - self._base_timestamp
        if not -(1 << 64) <= delta < 1 << 64:
            return False
        self._data += b"\x84" + cbor.integer(delta)
        self._data += record[end:]
        self._ends.append(len(self._data))
        self.count += 1
        self.last_append = now
        return True

    def batch(self, offset: int | None = None) -> bytes:
        """A stamped batch of the records from ``offset`` on (all by default). A copy: it stays as it is."""
        skip = 0 if offset is None else offset - self.base_offset
        start = self._ends[skip - 1] if skip else 0
        body = bytes(memoryview(self._data)[start:])
        return batches.build(
            body,
            self.count - skip,
            codec=CBOR_SEQUENCE,
            base_timestamp=self._base_timestamp,
            ttl=self._ttl,
            base_offset=self.base_offset + skip,
            append_time=self._append_time,
        )


def coalescer() -> type[Coalescer]:
    """What to make open batches with: the class above, or a compiled one that does the same."""
    compiled: Any = accelerate.helper("Coalescer")
    return compiled or Coalescer
