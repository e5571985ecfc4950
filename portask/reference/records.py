"""What a record may hold: the rules that every codec applies before it writes and after it reads.

A record is ``[timestamp delta, key, headers, payload]``. The delta is an integer that one CBOR head can
carry, -2^64 to 2^64-1 (RFC 8949 §3.1, major types 0 and 1); key and payload are byte strings; headers map
text to text or bytes.

Codecs keep a fast path for the plain message and call `row` for any other: it either makes the message plain
or says what is wrong with it. It is not on the hot path, so it can afford to be exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portask.errors import CodecError
from portask.messages import Message

Row = tuple[int, bytes | None, dict[str, str | bytes] | None, bytes]
"""A record as plain values, in the order of the wire."""

DELTA_MIN = -(2**64)
"""The smallest timestamp delta, in µs: the smallest integer of CBOR's major type 1."""
DELTA_MAX = 2**64 - 1
"""The largest, of major type 0."""


def row(message: Message, index: int, base_timestamp: int) -> Row:
    """The plain values of ``message``, checked.

    Args:
        message: Any message; its fields may hold what their annotations forbid.
        index: Its place in the batch, for the error's text.
        base_timestamp: µs since the epoch, subtracted from every timestamp but 0.

    Raises:
        CodecError: names the message, the field, and what to pass instead.
    """
    # the annotations promise these types; callers without a type checker do not
    fields: tuple[Any, Any, Any, Any] = (message.timestamp, message.key, message.headers, message.payload)
    timestamp, key, headers, payload = fields
    if not isinstance(timestamp, int):
        raise _refused(index, "timestamp", timestamp, "an int, µs since the epoch")
    delta = int(timestamp) - base_timestamp if timestamp else 0
    if not DELTA_MIN <= delta <= DELTA_MAX:
        raise CodecError(
            f"message {index}: timestamp is {delta} µs from the batch's base, which no record can carry: "
            "give µs since the epoch"
        )
    if not (key is None or isinstance(key, bytes)):
        raise _refused(index, "key", key, "bytes or None")
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise _refused(index, "payload", payload, "bytes, bytearray or memoryview")
    return delta, None if key is None else bytes(key), _plain_headers(headers, index), bytes(payload)


def _plain_headers(headers: Any, index: int) -> dict[str, str | bytes] | None:
    if headers is None:
        return None
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise _refused(index, "headers", headers, "a mapping of str to str or bytes, or None")
    plain: dict[str, str | bytes] = {}
    for name, value in headers.items():
        if not isinstance(name, str):
            raise _refused(index, "headers: the name", name, "str")
        if isinstance(value, bytes):
            plain[_plain_text(name, name, index)] = bytes(value)
        elif isinstance(value, str):
            plain[_plain_text(name, name, index)] = _plain_text(value, name, index)
        else:
            raise _refused(index, f"headers[{name!r}]", value, "str or bytes")
    return plain or None


def _plain_text(text: str, name: str, index: int) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise CodecError(
                f"message {index}: headers[{name!r}] holds a lone surrogate, which UTF-8 cannot carry: "
                "pass bytes, or text without it"
            ) from None
    return str(text)


def _refused(index: int, field: str, value: object, wanted: str) -> CodecError:
    return CodecError(
        f"message {index}: {field} is {type(value).__name__}, which no record can carry: pass {wanted}"
    )


def are_headers(value: object) -> bool:
    """Whether a decoded item may be a `Message.headers`: ``None``, or a dict of str to str or bytes."""
    if value is None:
        return True
    return type(value) is dict and all(
        type(name) is str and (type(content) is str or type(content) is bytes)
        for name, content in value.items()
    )


def check_count(body_size: int, count: int, least: int) -> None:
    """Refuses a record count that ``body_size`` bytes cannot hold, before anything is allocated for it.

    Args:
        body_size: Bytes of the record area.
        count: Records it is said to hold.
        least: Bytes of the smallest record.

    Raises:
        CodecError: the count is negative or too large.
    """
    if not 0 <= count * least <= body_size:
        raise CodecError(
            f"byte {body_size}: the record area ends, and is too short for the {count} records announced"
        )
