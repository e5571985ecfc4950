"""How messages become bytes, and bytes messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from portask.messages import Buffer, Message


@runtime_checkable
class Codec(Protocol):
    """Messages ↔ the record area of a batch. Whole batches per call; holds no state between calls.

    Wire id 1 is a CBOR sequence (RFC 8742) of records ``[timestamp delta µs, key|null, headers|null,
    payload]``, and all
    variants with that id produce the same bytes: shortest-form integers and lengths, definite lengths,
    headers in the mapping's own order, an empty mapping as null (RFC 8949 §4.2.1 but for the key order).
    """

    wire_id: int

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> Buffer:
        """The records of ``messages``, one after the other. A message with timestamp 0 gets delta 0.

        Raises:
            CodecError: a field has a type the wire does not carry.
        """
        ...

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[Message]:
        """Exactly ``count`` messages that fill ``body`` to its last byte, with absolute timestamps.

        Accepts any well-formed CBOR of the record's shape: also longer-than-shortest lengths, and
        indefinite-length strings as streaming encoders write them. What comes back outlives ``body``: it stays
        as it is when the caller writes over its buffer. A codec may make each message only when it is looked at;
        it has checked all of ``body`` before it returns.

        Raises:
            CodecError: anything else; the text gives the byte position.
        """
        ...


@runtime_checkable
class StreamingCodec(Protocol):
    """A codec that also handles one message whose payload is larger than anybody wants in memory.

    On the wire the payload is an indefinite-length byte string (RFC 8949 §3.2.3) of definite chunks.
    """

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """The record in pieces, one chunk held at a time. ``payload`` gives its bytes; ``message.payload`` is empty."""
        ...

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """A decoder for one record, fed with pieces cut anywhere."""
        ...


class StreamDecoder(Protocol):
    """Incremental decoder of one record. Buffers the head and at most one chunk header, never the payload."""

    message: Message | None
    """Key, headers and timestamp (with an empty payload) as soon as they are known."""
    done: bool

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """The payload bytes that ``data`` brings, as pieces.

        Raises:
            CodecError: not a record, or bytes after its end.
        """
        ...
