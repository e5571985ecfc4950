"""Messages that say who they are, so that whatever comes back can be recognized or exposed."""

from __future__ import annotations

import random
from functools import cache
from struct import Struct

_HEAD = Struct("<4sBBHQ")
_MAGIC = b"CRSH"
_SIZES = 400
_SHIFT = 48


@cache
def _filler() -> bytes:
    return random.Random(_MAGIC).randbytes(1 << 16)


def make(writer: int, partition: int, number: int) -> bytes:
    """Message ``number`` of a writer: 16 bytes that say so, and up to 400 that follow from them."""
    at = number * 7919 % ((1 << 16) - _SIZES)
    return _HEAD.pack(_MAGIC, writer, partition, 0, number) + _filler()[at : at + number * 31 % _SIZES]


def identity(payload: bytes, partition: int) -> int | None:
    """The id of a message (see `ident`) found in ``partition``; ``None`` if nobody made it just so for there."""
    if len(payload) < _HEAD.size:
        return None
    magic, writer, where, _, number = _HEAD.unpack_from(payload)
    if magic != _MAGIC or where != partition or payload != make(writer, partition, number):
        return None
    return ident(writer, number)


def ident(writer: int, number: int) -> int:
    """One integer for both."""
    return writer << _SHIFT | number


def writer_of(identity: int) -> int:
    """The writer in an id."""
    return identity >> _SHIFT
