"""Windows: which records of a DELIVER are meant, when batches are shared among the members of a group.

A batch is never cut: all members of a group get the same bytes. So a DELIVER to a member says which records are its
own, with a prefix before the batches and the flag `portask.wire.frames.WINDOW`::

    off size field              little-endian, "<QQII"
      0    8 first offset       of the member's records
      8    8 last offset        likewise; every record between is in the batches that follow
     16    4 delivery number    1 the first time that these records are delivered to anybody
     20    4 zero               reserved
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from portask.errors import RemoteProtocolError

_PREFIX = Struct("<QQII")


class Window(NamedTuple):
    """The records ``first`` to ``last``, delivered for the ``deliveries``-th time."""

    first: int
    last: int
    deliveries: int


def pack(first: int, last: int, deliveries: int) -> bytes:
    """The prefix of a DELIVER's body."""
    return _PREFIX.pack(first, last, deliveries, 0)


def split(body: memoryview) -> tuple[Window, memoryview]:
    """The window at the front of a DELIVER's body, and the batches behind it.

    Raises:
        RemoteProtocolError: it is none.
    """
    if len(body) <= _PREFIX.size:
        raise RemoteProtocolError(f"a DELIVER of {len(body)} bytes has no room for a window and a batch")
    first, last, deliveries, zero = _PREFIX.unpack_from(body)
    if zero or not deliveries or first > last:
        raise RemoteProtocolError(
            f"no window: offsets {first} to {last}, delivery {deliveries}, reserved field {zero}"
        )
    return Window(first, last, deliveries), body[_PREFIX.size :]
