"""The two things that move: a message, and a batch of records.

`Message` is what an application sees. It is a frozen ``msgspec.Struct`` outside the garbage collector's
sight: holding a million of them costs no collection pauses, and creating one costs about a tenth of a frozen
dataclass (`reports/decisions/0002-message-type.md` has the comparison).

`RecordBatch` is what the broker sees: a view of encoded bytes and the header fields it routes by. The broker
never decodes a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

Buffer = bytes | bytearray | memoryview
"""Anything with contiguous bytes."""

Headers = Mapping[str, str | bytes]
"""Application headers, e.g. ``{"traceparent": "00-…"}``. Keys are text; values text or bytes."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message. Immutable; costs about 75 ns to create and 48 bytes beside its payload.

    ``gc=False`` is safe because no field can hold a reference back to a message.

    Attributes:
        payload: The application's bytes; may be empty.
        key: Chooses the partition (by hash, on the client) and nothing else. ``None`` spreads messages
            evenly.
        headers: Small metadata, or ``None``. An empty mapping travels as ``None``.
        timestamp: µs since the epoch. 0 means "unset": the producer's clock fills it, one reading a batch.
    """

    payload: bytes
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


TRACE_HEADERS = ("traceparent", "tracestate")
"""What W3C Trace Context carries from one message to the next."""


class HasHeaders(Protocol):
    """A message, sent or received."""

    @property
    def headers(self) -> Headers | None:
        """Its headers, or ``None``."""
        ...


def trace_headers(message: HasHeaders) -> dict[str, str | bytes]:
    """The trace headers of a message, for one that is published because of it; empty if it has none.

    ``client.publish(topic, payload, headers=trace_headers(message) | {"source": "billing"})``. Portask itself reads no
    headers and leaves all of them as they are.
    """
    headers = message.headers or {}
    return {name: headers[name] for name in TRACE_HEADERS if name in headers}


class TopicPartition(msgspec.Struct, frozen=True, gc=False, order=True):
    """One ordered log: partition ``partition`` of ``topic``. Hashable, so that it can key tables."""

    topic: str
    partition: int = 0

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


class RecordBatch(msgspec.Struct, gc=False):
    """A record batch as bytes, with the header fields that routing and storage need.

    Made by `portask.wire.batches.parse` (checked) or ``build``. ``data`` is the whole batch, header
    included; it may be a view into a receive buffer that is valid only until the current turn ends.

    Attributes:
        data: The batch, 64-byte header first.
        count: Records in it, at least 1.
        codec: The codec's wire id.
        attributes: Compression algorithm and dictionary (`portask.wire.batches`).
        raw_length: Bytes of the record area before compression.
        ttl: Milliseconds after the append, 0 for never.
        base_timestamp: µs since the epoch; record timestamps are relative to it.
        producer: Producer id, 0 for none. A batch that has one is never coalesced.
        epoch: The producer's epoch.
        sequence: The first record's sequence number.
        base_offset: The first record's offset; meaningful once the broker stamped it.
        append_time: µs since the epoch; meaningful once the broker stamped it.
    """

    data: Buffer
    count: int
    codec: int
    attributes: int
    raw_length: int
    ttl: int
    base_timestamp: int
    producer: int
    epoch: int
    sequence: int
    base_offset: int = 0
    append_time: int = 0

    @property
    def body(self) -> memoryview:
        """The record area: compressed as `attributes` say, without the header. A view, not a copy."""
        return memoryview(self.data)[64:]
