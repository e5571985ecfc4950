"""CBOR heads: the initial byte and its argument (RFC 8949 §3), for the places that write a few bytes by hand."""

from __future__ import annotations

from struct import Struct

UINT, NEGINT, BYTES, TEXT, ARRAY, MAP = range(6)
"""Major types."""

_U16 = Struct(">BH")
_U32 = Struct(">BI")
_U64 = Struct(">BQ")
_NULL = 0xF6
_BREAK = 0xFF
_ARGUMENT_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}


def head(major: int, value: int) -> bytes:
    """The shortest head of a major type with an argument below 2^64. About 0.2 µs."""
    first = major << 5
    if value < 24:
        return bytes((first | value,))
    if value < 0x100:
        return bytes((first | 24, value))
    if value < 0x10000:
        return _U16.pack(first | 25, value)
    if value < 0x100000000:
        return _U32.pack(first | 26, value)
    return _U64.pack(first | 27, value)


def integer(value: int) -> bytes:
    """An integer from -2^64 to 2^64-1 in its shortest form."""
    return head(UINT, value) if value >= 0 else head(NEGINT, -1 - value)


def read_integer(data: memoryview, at: int) -> tuple[int, int] | None:
    """The integer at ``at`` and where it ends; ``None`` if there is none."""
    if at >= len(data):
        return None
    first = data[at]
    if first < 24:
        return first, at + 1
    argument = first & 0x1F
    size = _ARGUMENT_SIZES.get(argument, 0)
    if first >= 0x40 or argument > 27 or at + 1 + size > len(data):
        return None
    value = int.from_bytes(data[at + 1 : at + 1 + size], "big") if size else argument
    return (value if first < 0x20 else -1 - value), at + 1 + size


def ends_record(data: memoryview, at: int) -> bool:
    """Whether key, headers and payload of a record are at ``at``, and nothing behind. About 0.5 µs without headers."""
    try:
        at = at + 1 if data[at] == _NULL else _skip_string(data, at, BYTES)
        at = at + 1 if data[at] == _NULL else _skip_headers(data, at)
        return _skip_string(data, at, BYTES) == len(data)
    except (IndexError, ValueError):
        return False


def _skip_headers(data: memoryview, at: int) -> int:
    pairs, at = _argument(data, at, MAP)
    while pairs != 0 and (pairs > 0 or data[at] != _BREAK):
        at = _skip_string(data, at, TEXT)
        at = _skip_string(data, at, BYTES if data[at] >> 5 == BYTES else TEXT)
        pairs -= 1
    return at if pairs == 0 else at + 1


def _skip_string(data: memoryview, at: int, major: int) -> int:
    """Where the string at ``at`` ends. Raises `IndexError` or `ValueError` if there is none, or it is no UTF-8."""
    size, at = _argument(data, at, major)
    if size < 0:
        while data[at] != _BREAK:
            if data[at] & 31 == 31:
                raise ValueError("chunks have no chunks")
            at = _skip_string(data, at, major)
        return at + 1
    end = at + size
    if end > len(data):
        raise IndexError(end)
    if major == TEXT:
        str(data[at:end], "utf-8")
    return end


def _argument(data: memoryview, at: int, major: int) -> tuple[int, int]:
    """The argument of the head at ``at``, -1 for an indefinite length, and where it ends."""
    first = data[at]
    if first >> 5 != major:
        raise ValueError("another major type")
    argument = first & 31
    if argument < 24:
        return argument, at + 1
    if argument == 31:
        return -1, at + 1
    end = at + 1 + _ARGUMENT_SIZES[argument] if argument in _ARGUMENT_SIZES else 0
    if not at < end <= len(data):
        raise ValueError("no argument")
    return int.from_bytes(data[at + 1 : end], "big"), end
