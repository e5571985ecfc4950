"""MessagePack by msgspec, wire id 2: what another format costs, with the fastest library there is for it.

The record area is again a sequence of records without a frame of its own, so that areas can be joined: a
batch is encoded as one array, and the array's head is dropped; decoding puts it back. msgspec checks types
while it decodes, all but the header values: it cannot tell text from bytes in a union, so these are checked
here.

MessagePack has no strings of indefinite length: this codec does not stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgspec

from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.reference.records import DELTA_MAX, Row, are_headers, check_count, row

_Record = tuple[int, bytes | None, dict[str, Any] | None, bytes]
_decode_records = msgspec.msgpack.Decoder(list[_Record]).decode
_decode_record = msgspec.msgpack.Decoder(_Record).decode
_encode = msgspec.msgpack.Encoder().encode
_array_head = Struct(">BI").pack

_SMALLEST = 6  # array of four, one-byte delta, nil, nil, empty payload of two
_DELTA_MIN = -(2**63)  # MessagePack's smallest integer
_HOSTILE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bad bytes."""
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


class MsgpackCodec:
    """Wire id 2: MessagePack records ``[timestamp delta µs, key|nil, headers|nil, payload]`` back to back.

    Stateless, so one instance serves many threads. Timestamp deltas begin at -2^63, where CBOR has -2^64.
    """

    wire_id = 2

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        """See `portask.contracts.Codec.encode`."""
        rows: list[Row] = []
        for message in messages:
            timestamp, key, payload = message.timestamp, message.key, message.payload
            delta = timestamp - base_timestamp if type(timestamp) is int and timestamp else 0
            if (
                type(timestamp) is int
                and _DELTA_MIN <= delta <= DELTA_MAX
                and (key is None or type(key) is bytes)
                and message.headers is None
                and type(payload) is bytes
            ):
                rows.append((delta, key, None, payload))
            else:
                rows.append(_unusual(message, len(rows), base_timestamp))
        return _encode(rows)[_head_size(len(rows)) :]

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        """See `portask.contracts.Codec.decode`. Of two equal header names the later one counts."""
        check_count(len(body), count, _SMALLEST)
        try:
            return [
                Message(payload, key, _checked(headers) if headers else None, base_timestamp + delta)
                for delta, key, headers, payload in _decode_records(_array_head(0xDD, count) + body)
            ]
        except (*_HOSTILE, CodecError):
            raise _first_fault(memoryview(body), count) from None


def _unusual(message: Message, index: int, base_timestamp: int) -> Row:
    plain = row(message, index, base_timestamp)
    if plain[0] < _DELTA_MIN:
        raise CodecError(
            f"message {index}: timestamp is {plain[0]} µs from the batch's base; MessagePack stops at -2^63"
        )
    return plain


def _head_size(count: int) -> int:
    """Bytes of the head that MessagePack puts before an array of ``count`` items."""
    return 1 if count < 16 else 3 if count < 2**16 else 5


def _checked(headers: dict[str, Any]) -> dict[str, Any]:
    if not are_headers(headers):
        raise CodecError("a header's value is neither text nor bytes")
    return headers


def _first_fault(body: memoryview, count: int) -> CodecError:
    """Reads again, one record at a time, to say where it went wrong.

    That more follows a record shows as msgspec's complaint about trailing bytes, which says where they begin.
    """
    start = 0
    for index in range(count):
        end = len(body)
        place = f"record {index}, which begins at byte {start}"
        try:
            _decode_record(body[start:])
        except _HOSTILE as error:
            more = _TRAILING.search(str(error))
            if more is None:
                return CodecError(f"{place}: {error}")
            end = start + int(more[1])
        if not are_headers(_decode_record(body[start:end])[2]):
            return CodecError(f"{place}: a header's value is neither text nor bytes")
        start = end
    return CodecError(f"byte {start}: {len(body) - start} bytes after the last of {count} records")
