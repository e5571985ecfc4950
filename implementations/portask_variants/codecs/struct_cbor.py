"""CBOR written by hand for one shape: ``[timestamp delta, key, headers, payload]``, wire id 1.

Almost every record in practice has no key of its own in a batch, no headers, a delta of microseconds to
milliseconds and a payload of less than 64 KiB. In front of its payload stand then five to eleven bytes that
depend on two small numbers:

    84  dd          f6 f6  58 nn       delta 0..23            payload of 24..255 bytes
    84  18 dd       f6 f6  59 nn nn    delta 24..255          payload of 256..65535 bytes
    84  19 dd dd    f6 f6  4n          delta 256..65535       payload of 0..23 bytes
    84  1a dd dd dd dd                 delta up to 71 minutes

Encoding looks both halves up in tables made at import and joins the whole batch once: no integer is
formatted, no byte copied twice. Decoding reads the first nine bytes as five numbers with one unpack; which numbers
can be what follows from the first, so a comparison or two per record settle its shape. Whatever does not look
like this (keys, headers, other widths) goes to `_read_record`, which walks the general grammar item by item:
about a tenth of the speed, and also the one place where errors are raised, because it alone knows the
position.

Two rules keep bad bytes harmless. A slice never raises and never allocates more than there is, so the fast
loop does not check whether a payload is complete: the position runs past the end, the loop stops, and the end
is compared once. And nothing recurses: the grammar has a fixed depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

from portask.contracts import StreamDecoder
from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.reference import streaming
from portask.reference.records import DELTA_MAX, check_count, row

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL, _BREAK, _ARRAY_OF_4 = 0xF6, 0xFF, 0x84
_NAMES = (
    "an integer",
    "an integer",
    "a byte string",
    "a text string",
    "an array",
    "a map",
    "a tag",
    "a simple value or a float",
)
_INDEFINITE = -1
_SMALLEST = 5
_TABLE = 4096  # heads made at import: 1.5 MB in all
_LOOKAHEAD = 11  # bytes of the longest opening that the fast loop reads


_unpack = Struct(">HHHBH").unpack_from
_pack_head2, _pack_head4, _pack_head8 = Struct(">BH").pack, Struct(">BI").pack, Struct(">BQ").pack


def _short_heads(major: int) -> list[bytes]:
    kind = major << 5
    heads = [bytes((kind | value,)) for value in range(24)]
    heads += (bytes((kind | 24, value)) for value in range(24, 256))
    heads += (_pack_head2(kind | 25, value) for value in range(256, _TABLE))
    return heads


_SHORT_HEADS = [_short_heads(major) for major in (_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP)]


def _head(major: int, value: int) -> bytes:
    """A head in its shortest form (RFC 8949 §3, §4.2.1)."""
    if value < _TABLE:
        return _SHORT_HEADS[major][value]
    if value < 1 << 16:
        return _pack_head2(major << 5 | 25, value)
    if value < 1 << 32:
        return _pack_head4(major << 5 | 26, value)
    return _pack_head8(major << 5 | 27, value)


_DELTAS = [b"\x84" + head for head in _SHORT_HEADS[_UNSIGNED]]
_NULLS_AND_LENGTHS = [b"\xf6\xf6" + head for head in _SHORT_HEADS[_BYTES]]


class StructCodec:
    """Wire id 1 in pure Python, byte-identical to the reference. Stateless; thread-safe."""

    wire_id = 1

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        """See `portask.contracts.Codec.encode`. A plain message costs some lookups and one copy."""
        parts: list[bytes] = []
        deltas, lengths = _DELTAS, _NULLS_AND_LENGTHS
        for message in messages:
            timestamp, key, payload = message.timestamp, message.key, message.payload
            if message.headers is None and type(payload) is bytes and type(timestamp) is int:
                delta = timestamp - base_timestamp if timestamp else 0
                size = len(payload)
                if key is None and 0 <= delta < _TABLE and size < _TABLE:
                    parts += (deltas[delta], lengths[size], payload)
                    continue
                if 0 <= delta <= DELTA_MAX and (key is None or type(key) is bytes):
                    parts += (b"\x84", _head(_UNSIGNED, delta))
                    parts += (b"\xf6",) if key is None else (_head(_BYTES, len(key)), key)
                    parts += (b"\xf6", _head(_BYTES, size), payload)
                    continue
            parts += _parts(message, messages, base_timestamp)
        return b"".join(parts)

    def decode(  # noqa: C901, PLR0915 - one loop, because a call a record would cost as much as the record
        self, body: Buffer, count: int, base_timestamp: int
    ) -> list[Message]:
        """See `portask.contracts.Codec.decode`. Costs about twice what creating the messages does."""
        # slices of bytes are payloads without another copy
        data = body if type(body) is bytes else bytes(body)
        size = len(data)
        check_count(size, count, _SMALLEST)
        messages: list[Message] = []
        append = messages.append
        at = start = 0
        last = size - _LOOKAHEAD
        while at < size:
            start = at
            if at <= last:
                a, b, c, d, e = _unpack(data, at)
                if a == 0x8419 and c == 0xF6F6:  # 84 19 bb bb f6 f6 dd ee ee
                    if d == 0x58:
                        at += 8 + (e >> 8)
                        append(Message(data[start + 8 : at], None, None, base_timestamp + b))
                        continue
                    if d == 0x59:
                        at += 9 + e
                        append(Message(data[start + 9 : at], None, None, base_timestamp + b))
                        continue
                elif b == 0xF6F6 and 0x8400 <= a < 0x8418:  # 84 aa f6 f6 cc cc dd ..
                    if c >> 8 == 0x58:
                        at += 6 + (c & 255)
                        append(Message(data[start + 6 : at], None, None, base_timestamp + a - 0x8400))
                        continue
                    if c >> 8 == 0x59:
                        at += 7 + ((c & 255) << 8 | d)
                        append(Message(data[start + 7 : at], None, None, base_timestamp + a - 0x8400))
                        continue
                elif a == 0x8418 and b & 255 == 0xF6 and c >> 8 == 0xF6:  # 84 18 bb f6 f6 cc dd ee ..
                    if c & 255 == 0x58:
                        at += 7 + d
                        append(Message(data[start + 7 : at], None, None, base_timestamp + (b >> 8)))
                        continue
                    if c & 255 == 0x59:
                        at += 8 + (d << 8 | e >> 8)
                        append(Message(data[start + 8 : at], None, None, base_timestamp + (b >> 8)))
                        continue
                elif a == 0x841A and d == 0xF6 and e >> 8 == 0xF6:  # 84 1a bb bb cc cc f6 f6 58|59 nn (nn)
                    if e & 255 == 0x58:
                        at += 10 + data[at + 9]
                        append(Message(data[start + 10 : at], None, None, base_timestamp + (b << 16 | c)))
                        continue
                    if e & 255 == 0x59:
                        at += 11 + (data[at + 9] << 8 | data[at + 10])
                        append(Message(data[start + 11 : at], None, None, base_timestamp + (b << 16 | c)))
                        continue
            message, at = _read_record(data, start, base_timestamp)
            append(message)
        if at > size:
            raise CodecError(
                f"byte {start}: the payload of this record ends at byte {at}, the data at byte {size}"
            )
        if len(messages) != count:
            raise CodecError(
                f"byte {size}: the data ends after {len(messages)} records, and {count} were announced"
            )
        return messages

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """See `portask.contracts.StreamingCodec.encode_stream`."""
        return streaming.encode(message, payload, base_timestamp)

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """See `portask.contracts.StreamingCodec.stream_decoder`."""
        return streaming.RecordDecoder(base_timestamp)


def _parts(message: Message, messages: Sequence[Message], base_timestamp: int) -> list[bytes]:
    """The record of any message, in pieces; the whole batch only serves to say which message is wrong."""
    try:
        delta, key, headers, payload = row(message, -1, base_timestamp)
    except CodecError:
        index = next(i for i, other in enumerate(messages) if other is message)
        row(message, index, base_timestamp)
        raise
    parts = [b"\x84", _head(_UNSIGNED, delta) if delta >= 0 else _head(_NEGATIVE, -1 - delta)]
    parts += (b"\xf6",) if key is None else (_head(_BYTES, len(key)), key)
    if headers is None:
        parts.append(b"\xf6")
    else:
        parts.append(_head(_MAP, len(headers)))
        for name, value in headers.items():
            text = name.encode()
            major, data = (_BYTES, value) if isinstance(value, bytes) else (_TEXT, value.encode())
            parts += (_head(_TEXT, len(text)), text, _head(major, len(data)), data)
    parts += (_head(_BYTES, len(payload)), payload)
    return parts


# ── the general grammar: from the data and a position, each returns a value and the position after it ──


def _read_record(data: bytes, at: int, base_timestamp: int) -> tuple[Message, int]:
    key: bytes | None = None
    headers: dict[str, str | bytes] | None = None
    try:
        items, at = (4, at + 1) if data[at] == _ARRAY_OF_4 else _read_array(data, at)
        first = data[at]
        if first < 24:
            delta, at = first, at + 1
        elif first < 28:
            start, at = at + 1, at + 1 + (1 << first - 24)
            delta = int.from_bytes(data[start:at], "big")
        else:
            delta, at = _read_delta(data, at)
        first = data[at]
        if first == _NULL:
            at += 1
        elif 0x40 <= first < 0x58:
            at += first - 0x3F
            key = data[at - first + 0x40 : at]
        else:
            key, at = _read_string(data, at, _BYTES, "the key")
        if data[at] == _NULL:
            at += 1
        else:
            headers, at = _read_headers(data, at)
        if data[at] == 0x58:
            start, at = at + 2, at + 2 + data[at + 1]
            payload = data[start:at]  # one that is cut short ends past the data: `decode` sees that
        else:
            payload, at = _read_string(data, at, _BYTES, "the payload")
        if items == _INDEFINITE:
            if data[at] != _BREAK:
                raise CodecError(f"byte {at}: the record's array goes on after its fourth item")
            at += 1
    except IndexError:  # positions only grow, so this is always the end of the data
        raise CodecError(f"byte {len(data)}: the data ends inside a record") from None
    return Message(payload, key, headers or None, base_timestamp + delta), at


def _read_array(data: bytes, at: int) -> tuple[int, int]:
    items, end = _read_head(data, at, _ARRAY, "the record")
    if items not in {4, _INDEFINITE}:
        raise CodecError(f"byte {at}: the record is an array of {items} items, not of four")
    return items, end


def _read_delta(data: bytes, at: int) -> tuple[int, int]:
    major = data[at] >> 5
    if major not in {_UNSIGNED, _NEGATIVE}:
        raise CodecError(f"byte {at}: the timestamp delta is {_NAMES[major]}, not an integer")
    value, end = _read_head(data, at, major, "the timestamp delta")
    if value == _INDEFINITE:
        raise CodecError(f"byte {at}: an integer has no indefinite length")
    return value if major == _UNSIGNED else -1 - value, end


def _read_headers(data: bytes, at: int) -> tuple[dict[str, str | bytes], int]:
    left, at = _read_head(data, at, _MAP, "the headers")
    headers: dict[str, str | bytes] = {}
    while left:
        if left < 0 and data[at] == _BREAK:
            return headers, at + 1
        name, at = _read_text(data, at, "a header's name")
        if data[at] >> 5 == _BYTES:
            headers[name], at = _read_string(data, at, _BYTES, "a header's value")
        else:
            headers[name], at = _read_text(data, at, "a header's value")
        left -= 1  # an indefinite map counts down from -1 and ends by its break
    return headers, at


def _read_text(data: bytes, at: int, what: str) -> tuple[str, int]:
    first = data[at]
    if 0x60 <= first < 0x78:
        end = at + first - 0x5F
        return _utf8(data[at + 1 : end], at), end  # one that is cut short is followed by nothing: IndexError
    raw, end = _read_string(data, at, _TEXT, what)
    return _utf8(raw, at), end


def _read_string(data: bytes, at: int, major: int, what: str) -> tuple[bytes, int]:
    first = data[at]
    if first == major << 5 | 24:
        length, start = data[at + 1], at + 2
    else:
        length, start = _read_head(data, at, major, what)
        if length == _INDEFINITE:
            return _read_chunks(data, start, major, what)
    end = start + length
    if end > len(data):
        raise CodecError(f"byte {at}: {what} has {length} bytes, the data ends at byte {len(data)}")
    return data[start:end], end


def _read_chunks(data: bytes, at: int, major: int, what: str) -> tuple[bytes, int]:
    """The rest of an indefinite-length string: definite chunks, then the break (RFC 8949 §3.2.3)."""
    chunks: list[bytes] = []
    while data[at] != _BREAK:
        if data[at] & 31 == 31:
            raise CodecError(f"byte {at}: a chunk of {what} has no length of its own")
        start = at
        chunk, at = _read_string(data, start, major, f"a chunk of {what}")
        if major == _TEXT:
            _utf8(chunk, start)  # a chunk must not end inside a character
        chunks.append(chunk)
    return b"".join(chunks), at + 1


def _read_head(data: bytes, at: int, major: int, what: str) -> tuple[int, int]:
    """The argument of the head at ``at``, or `_INDEFINITE` (RFC 8949 §3)."""
    first = data[at]
    if first >> 5 != major:
        raise CodecError(f"byte {at}: {what} is {_NAMES[first >> 5]}, not {_NAMES[major]}")
    info = first & 31
    if info < 24:
        return info, at + 1
    if info < 28:
        end = at + 1 + (1 << info - 24)
        if end > len(data):
            raise IndexError
        return int.from_bytes(data[at + 1 : end], "big"), end
    if info < 31:
        raise CodecError(f"byte {at}: additional information {info} is reserved")
    return _INDEFINITE, at + 1


def _utf8(raw: bytes, at: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CodecError(f"byte {at}: text is not UTF-8 ({error.reason})") from None
