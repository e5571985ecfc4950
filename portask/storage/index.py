r"""The sparse index of a segment, and the index file that vouches for it.

Every so many bytes (``index_interval``) the index notes where a batch begins. To find an offset or a time, a reader
bisects, then walks at most one interval of batch headers.

The index file is more than a shortcut: it is a certificate. It is written after the segment was synced, and says: the
first ``size`` bytes were valid and on the device, here is what is in them. So a restart reads only what was appended
after it, which is the end of the newest segment. It is never needed: without it, or with one that is damaged or says
more than there is, the segment is read.

::

    off size field              little-endian (and so must the machine be)
      0    8 magic              "PORTIDX\n"
      8    2 format version     1
     10    2 zero
     12    4 CRC32C             of bytes 16.. up to the entries
     16    8 base offset
     24    8 size               bytes of the segment that this vouches for
     32    8 next offset
     40    8 newest time        µs
     48    8 newest base        base offset of the newest batch; 2^64-1 for none
     56    8 first offset       kept by retention; the base offset unless part of the segment was trimmed
     64    4 entries, 4 holes, 4 producers, 4 CRC32C of the entries
     80      holes              start, end, first, next              4 x 8 bytes each
             producers          id, epoch, last sequence, offset     4 x 8 bytes each
             entries            all base offsets, all newest times up to there, all positions; 8 bytes each
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

if TYPE_CHECKING:
    from portask.storage.segments import Segment

_HEAD = Struct("<8sHHIQQQQQQIIII")
_MAGIC = b"PORTIDX\n"
_VERSION = 1
_CHECKED_FROM = 16
_NONE = (1 << 64) - 1

Standing = tuple[int, int, int]
"""Where a producer stands: (epoch, last sequence number, offset of that record)."""


class Hole(msgspec.Struct, frozen=True):
    """A range that was quarantined: bytes that hold no valid batch, or offsets whose bytes are missing.

    Attributes:
        start: Position of its first byte in the segment file.
        end: Position behind its last byte; ``start`` where the bytes are missing.
        first: The first offset that is lost.
        next: The first offset behind it that is there, or will be.
    """

    start: int
    end: int
    first: int
    next: int


class SparseIndex:
    """Where some of a segment's batches begin, in the order of the log."""

    __slots__ = ("bases", "positions", "times")

    def __init__(self) -> None:
        self.bases = array("Q")
        self.times = array("Q")  # newest append time up to and including that batch: never falls
        self.positions = array("Q")

    def add(self, base: int, time: int, position: int) -> None:
        """Notes a batch behind all that were noted before."""
        self.bases.append(base)
        self.times.append(max(time, self.times[-1]) if self.times else time)
        self.positions.append(position)

    def at_offset(self, offset: int) -> tuple[int, int]:
        """Base offset and position of the last noted batch at or before ``offset``, or of the first."""
        at = max(bisect_right(self.bases, offset) - 1, 0)
        return self.bases[at], self.positions[at]

    def at_position(self, position: int) -> tuple[int, int]:
        """Base offset and position of the last noted batch at or before ``position``, or of the first."""
        at = max(bisect_right(self.positions, position) - 1, 0)
        return self.bases[at], self.positions[at]

    def before_time(self, when: int) -> tuple[int, int]:
        """Base offset and position of a noted batch with nothing of ``when`` or later before it."""
        at = max(bisect_left(self.times, when) - 1, 0)
        return self.bases[at], self.positions[at]


class Certificate(msgspec.Struct):
    """The head of an index file."""

    base: int
    size: int
    next: int
    max_time: int
    last_base: int
    first: int
    holes: list[Hole]
    producers: dict[int, Standing]
    entries: int
    entries_check: int
    entries_at: int


def encode(segment: Segment, first: int, producers: Mapping[int, Standing]) -> bytes:
    """The index file of a segment as it is now. Its index must be loaded."""
    index = segment.index or SparseIndex()
    entries = b"".join(part.tobytes() for part in (index.bases, index.times, index.positions))
    rows = array("Q")
    for hole in segment.holes.values():
        rows.extend((hole.start, hole.end, hole.first, hole.next))
    for producer, standing in producers.items():
        rows.extend((producer, *standing))
    tail = _HEAD.pack(
        _MAGIC,
        _VERSION,
        0,
        0,
        segment.base,
        segment.size,
        segment.next,
        segment.max_time,
        segment.last_base if segment.last_base >= 0 else _NONE,
        first,
        len(index.bases),
        len(segment.holes),
        len(producers),
        crc32c(entries),
    )
    checked = tail[_CHECKED_FROM:] + rows.tobytes()
    start = _MAGIC + _VERSION.to_bytes(4, "little") + crc32c(checked).to_bytes(4, "little")
    return start + checked + entries


def head_size(start: bytes) -> int:
    """How many bytes of an index file `decode` needs, told from its first `HEAD_SIZE`; 0 if it is no index file."""
    if len(start) < HEAD_SIZE or start[:8] != _MAGIC:
        return 0
    *_, holes, producers, _ = _HEAD.unpack_from(start)
    return HEAD_SIZE + 32 * (int(holes) + int(producers))


HEAD_SIZE = _HEAD.size


def decode(head: bytes) -> Certificate | None:
    """The head of an index file; ``None`` if it is damaged, or of another version: then the segment is read."""
    size = head_size(head)
    if not size or len(head) < size:
        return None
    (
        _,
        version,
        zero,
        check,
        base,
        length,
        next_,
        time,
        last,
        first,
        entries,
        holes,
        producers,
        entries_check,
    ) = _HEAD.unpack_from(head)
    if version != _VERSION or zero or crc32c(head[_CHECKED_FROM:size]) != check:
        return None
    rows = array("Q", head[HEAD_SIZE:size])
    split = 4 * holes
    return Certificate(
        base,
        length,
        next_,
        time,
        -1 if last == _NONE else last,
        first,
        [Hole(*rows[at : at + 4]) for at in range(0, split, 4)],
        {
            rows[at]: (rows[at + 1], rows[at + 2], rows[at + 3])
            for at in range(split, split + 4 * producers, 4)
        },
        entries,
        entries_check,
        size,
    )


def decode_entries(data: bytes, count: int, check: int) -> SparseIndex | None:
    """The entries of an index file; ``None`` if they are damaged."""
    if len(data) != 24 * count or crc32c(data) != check:
        return None
    index = SparseIndex()
    for at, part in enumerate((index.bases, index.times, index.positions)):
        part.frombytes(data[8 * count * at : 8 * count * (at + 1)])
    return index
