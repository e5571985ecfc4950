"""The reference codec: what the record area of a batch is, said with the cbor2 library.

The area is a CBOR sequence (RFC 8742): data items back to back, with nothing around them. A CBOR array is a
head with the number of items, then the same items back to back (RFC 8949 §3.2.1). So a sequence of n items is
an array of n without its head, and one call of the library moves a whole batch: encoding writes an array and
drops its head, decoding puts a head of ``count`` in front. What is left after the last item is then visible
as unread bytes.

cbor2 knows many more types than a record has. Tags are refused before they are acted on: they would let a
sender ask for a regular expression, a decimal with an enormous exponent, or a reference back into the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from struct import Struct
from typing import Any

import cbor2

from portask.contracts import StreamDecoder
from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.reference import streaming
from portask.reference.records import DELTA_MAX, DELTA_MIN, Row, are_headers, check_count, row

SMALLEST_RECORD = 5
"""Bytes: array of four, one-byte delta, null, null, empty payload."""

_array_head = Struct(">BI").pack
_DEEPEST = 3  # the batch, a record, its headers: anything deeper is no record


class Cbor2Codec:
    """Wire id 1: a CBOR sequence of ``[timestamp delta µs, key|null, headers|null, payload]``.

    Stateless, so one instance serves many threads. Costs one pass of Python a batch each way, and one call
    into cbor2's compiled core.
    """

    wire_id = 1

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        """See `portask.contracts.Codec.encode`."""
        rows: list[Row] = []
        for message in messages:
            timestamp, key, payload = message.timestamp, message.key, message.payload
            delta = timestamp - base_timestamp if type(timestamp) is int and timestamp else 0
            if (
                type(timestamp) is int
                and DELTA_MIN <= delta <= DELTA_MAX
                and (key is None or type(key) is bytes)
                and message.headers is None
                and type(payload) is bytes
            ):
                rows.append((delta, key, None, payload))
            else:
                rows.append(row(message, len(rows), base_timestamp))
        return cbor2.dumps(rows)[_head_size(len(rows)) :]

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        """See `portask.contracts.Codec.decode`. Of two equal header names the later one counts."""
        check_count(len(body), count, SMALLEST_RECORD)
        source = BytesIO(_array_head(0x9A, count) + body)
        try:
            items = _decoder(source, len(body) + 5).decode()
        except cbor2.CBORError:
            raise _first_fault(body, count) from None
        messages: list[Message] = []
        for item in items:
            if type(item) is not list or len(item) != 4:
                raise _first_fault(body, count)
            delta, key, headers, payload = item
            if (
                type(delta) is not int
                or not (key is None or type(key) is bytes)
                or type(payload) is not bytes
            ):
                raise _first_fault(body, count)
            if headers is not None and not are_headers(headers):
                raise _first_fault(body, count)
            messages.append(Message(payload, key, headers or None, base_timestamp + delta))
        if source.tell() != len(body) + 5:
            raise _first_fault(body, count)
        return messages

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """See `portask.contracts.StreamingCodec.encode_stream`."""
        return streaming.encode(message, payload, base_timestamp)

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """See `portask.contracts.StreamingCodec.stream_decoder`."""
        return streaming.RecordDecoder(base_timestamp)


def _head_size(count: int) -> int:
    """Bytes of an array head in its shortest form (RFC 8949 §3, §4.2.1)."""
    return 1 if count < 24 else 2 if count < 2**8 else 3 if count < 2**16 else 5


class _NoTags(dict[int, Callable[[Any], Any]]):
    """In place of cbor2's table of tag decoders: one for every number, and each refuses."""

    def __missing__(self, number: int) -> Callable[[Any], Any]:
        def refuse(*_: Any) -> Any:
            raise cbor2.CBORDecodeError(f"tag {number} in a record")

        return refuse


_NO_TAGS = _NoTags()


def _decoder(source: BytesIO, read_size: int) -> cbor2.CBORDecoder:
    return cbor2.CBORDecoder(
        source,
        semantic_decoders=_NO_TAGS,
        max_depth=_DEEPEST,
        strict_hashable_types=True,  # header names are hashed: only text may be
        read_size=read_size,
    )


def _first_fault(body: Buffer, count: int) -> CodecError:
    """Reads again, one record at a time, to say where it went wrong: only bad bytes pay for positions."""
    source = BytesIO(bytes(body))
    for index in range(count):
        start = source.tell()
        place = f"record {index}, which begins at byte {start}"
        try:
            item = _decoder(source, 64).decode()
        except cbor2.CBORError as error:
            reason = str(error.__cause__ or error)
            return CodecError(f"{place}: no well-formed CBOR item of a record ({reason})")
        if type(item) is not list or len(item) != 4:
            return CodecError(f"{place}: not an array of four items")
        names = ("timestamp delta", "key", "headers", "payload")
        right = (
            type(item[0]) is int,
            item[1] is None or type(item[1]) is bytes,
            are_headers(item[2]),
            type(item[3]) is bytes,
        )
        if not all(right):
            return CodecError(f"{place}: its {names[right.index(False)]} has a type that records do not have")
    end = source.tell()
    return CodecError(f"byte {end}: {len(body) - end} bytes after the last of {count} records")
