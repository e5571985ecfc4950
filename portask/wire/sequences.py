"""Sequence numbers: how a broker knows a batch that it already has.

An idempotent producer counts the records that it sends to one partition: 1, 2, 3, … A batch carries the producer's
id and epoch and the number of its first record; sent again, it is byte for byte the same. So a batch is either the next
one, or one that came before, or its predecessor is missing; nothing else is possible.

Numbers have 32 bits and wrap: 0 follows 4,294,967,295. But 0 in a header means that there is no number, so a batch
never *begins* with 0: one that would, begins with 1 instead (`following`). A record in the middle of a batch may be
number 0. Of two numbers the one less than half a circle ahead is the later one (RFC 1982), so at most 2^31 records
may lie between a batch and its retry.
"""

from __future__ import annotations

KEPT_BATCHES = 16
"""How many of a producer's newest batches in a partition a broker recognizes with their offsets, at least.

A client must not have more of them unacknowledged: so whatever it sends again is one of those.
"""

_MASK = 0xFFFF_FFFF
_HALF = 1 << 31


def last_of(first: int, count: int) -> int:
    """The number of the last of ``count`` records that begin with ``first``."""
    return (first + count - 1) & _MASK


def following(last: int) -> int:
    """The first number of the batch after one that ends with ``last``."""
    return (last + 1) & _MASK or 1


def preceding(first: int) -> int:
    """A last number that ``first`` follows."""
    return (first - 1) & _MASK


def is_before(number: int, other: int) -> bool:
    """Whether ``number`` is the earlier one, by less than half a circle."""
    return (number - other) & _MASK >= _HALF
