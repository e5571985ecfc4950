"""Finding batches in segment files, and what happens when one of them turns out to be damaged.

Nothing is handed out unverified: a batch's checksum must hold, and its base offset must be the one that comes next. A
walk over headers alone (to skip, to trim, to find a time) verifies nothing but the chain of offsets. Wherever either
fails, the segment is read again from the last place that is known to be good, every checksum verified, and what is
damaged becomes a hole (`portask.storage.recovery` says how it is bounded). Holes are skipped like any other gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from portask.contracts import EARLIEST, LATEST
from portask.errors import OffsetOutOfRange, StorageError
from portask.messages import Buffer
from portask.storage import recovery
from portask.storage.files import read_all
from portask.storage.index import Hole, SparseIndex
from portask.storage.segments import HEADER_SIZE, Segment
from portask.storage.turns import Turn
from portask.wire import batches
from portask.wire.batches import BATCH_HEADER_SIZE

if TYPE_CHECKING:
    from portask.storage.partition import PartitionLog

_HEAD = Struct("<QQII4xI")  # base offset, append time, length, checksum, count
_WALK = 64 * 1024
_HINTS = 64
_ATTEMPTS = 3
_BASE = itemgetter(0)


class Place(NamedTuple):
    """Where a batch begins, or would begin."""

    segment: Segment
    position: int
    base: int


class Header(NamedTuple):
    """Of a batch that was walked over."""

    position: int
    base: int
    time: int
    records: int
    length: int


class _Damaged(Exception):
    """What should come next did not."""


def index_of(log: PartitionLog, segment: Segment) -> SparseIndex:
    """The segment's sparse index: loaded, or built anew by reading the segment.

    Raises:
        OSError: it cannot be read.
    """
    if segment.index is None:
        files = log.shared.files
        certificate = recovery.load_certificate(files, segment)
        if certificate is not None and certificate.size == segment.size:
            segment.index = recovery.load_entries(files, segment, certificate)
    if segment.index is None:
        segment.index = examine(log, Place(segment, HEADER_SIZE, segment.base)).index
    return segment.index or SparseIndex()


def examine(log: PartitionLog, place: Place) -> Segment:
    """What a segment holds from ``place`` on, every batch verified.

    Raises:
        OSError: it cannot be read.
    """
    segment = place.segment
    fd = log.shared.open.fd(segment)
    seen = Segment(log.folder, segment.base)
    seen.size, seen.next = place.position, place.base
    following = log.base_after(segment)
    recovery.scan(
        lambda size, at: read_all(log.shared.files, fd, size, at),
        seen,
        segment.size,
        ceiling=following,
        interval=log.shared.index_interval,
        producers={},
    )
    if seen.size < segment.size:
        seen.holes[seen.size] = Hole(seen.size, segment.size, seen.next, following)
    return seen


def locate(log: PartitionLog, segment: Segment, offset: int) -> Place:
    """A known place in the segment at or before ``offset``, at most one index interval away if there is one."""
    entries = index_of(log, segment)
    if not entries.bases or offset < entries.bases[0]:
        return Place(segment, HEADER_SIZE, segment.base)
    base, position = entries.at_offset(offset)
    return Place(segment, position, base)


def read(log: PartitionLog, offset: int, limit: int) -> list[Buffer]:
    """The batches of one segment from the one that contains ``offset`` on; see `portask.contracts.Storage.read`.

    Raises:
        OffsetOutOfRange: all that is left was quarantined; ``first`` is where reading can go on.
        StorageError: what the file holds changes while it is read.
        OSError: the device does not give it.
    """
    place = log.hints.pop(offset, None)
    at = log.number_of(offset)
    while at < len(log.segments):
        segment = log.segments[at]
        if place is None or place.segment is not segment:
            place = locate(log, segment, offset)
        found, end = _read_from(log, place, offset, limit)
        if found:
            log.hints[end.base] = end
            if len(log.hints) > _HINTS:
                del log.hints[next(iter(log.hints))]
            return found
        place = None
        at += 1
    text = f"offsets {offset} to {log.next - 1} of {log.key} were quarantined: go on at {log.next}"
    raise OffsetOutOfRange(text, log.next, log.next)


def _read_from(log: PartitionLog, place: Place, offset: int, limit: int) -> tuple[list[Buffer], Place]:
    for _ in range(_ATTEMPTS):
        try:
            return _collect(log, place, offset, limit)
        except _Damaged:
            log.quarantine(place)
    raise StorageError(f"{place.segment.path} reads differently each time: see to the device")


def _collect(log: PartitionLog, place: Place, offset: int, limit: int) -> tuple[list[Buffer], Place]:
    """Verified batches from ``place`` on, those before ``offset`` skipped, and where the next one begins.

    Raises:
        _Damaged: something is wrong behind ``place``.
    """
    segment, position, expected = place
    shared = log.shared
    fd = segment.fd if segment.fd >= 0 else shared.open.fd(segment)
    segment.used = True
    size = min(limit, shared.read_bytes) + (0 if expected == offset else shared.index_interval)
    found: list[Buffer] = []
    unpack = _HEAD.unpack_from
    while position < segment.size and expected < log.next and not found:
        wanted = min(max(size, BATCH_HEADER_SIZE), segment.size - position)
        chunk = memoryview(read_all(shared.files, fd, wanted, position))
        if len(chunk) < wanted:
            raise _Damaged  # the file is shorter than it was
        start = 0
        while start < wanted and expected < log.next:
            if segment.holes:
                hole = segment.holes.get(position + start)
                if hole is not None:
                    start += hole.end - hole.start
                    expected = hole.next
                    continue
            left = wanted - start
            if left < BATCH_HEADER_SIZE:
                if left == segment.size - position - start:
                    raise _Damaged
                break
            base, _, length, check, count = unpack(chunk, start)
            end = start + length
            if base != expected or length <= BATCH_HEADER_SIZE or position + end > segment.size or not count:
                raise _Damaged
            if base + count > offset:
                if found and length > limit:
                    return found, Place(segment, position + start, expected)
                if end > wanted:
                    size = length
                    break
                if crc32c(chunk[start + 24 : end]) != check:
                    raise _Damaged
                found.append(chunk[start:end])
                limit -= length
            start = end
            expected = base + count
        position += start
    return found, Place(segment, position, expected)


def headers(log: PartitionLog, place: Place) -> Iterator[Header]:
    """The batches of a segment from ``place`` on, as far as readers may see them. Records are not read.

    Raises:
        StorageError: what the file holds changes while it is read.
        OSError: the device does not give it.
    """
    segment, position, expected = place
    fd = log.shared.open.fd(segment)
    window = b""
    window_at = position
    attempts = _ATTEMPTS
    given = -1
    while position < segment.size and expected < log.next:
        hole = segment.holes.get(position)
        if hole is not None:
            position, expected = hole.end, hole.next
            continue
        at = position - window_at
        if not 0 <= at <= len(window) - BATCH_HEADER_SIZE:
            window = read_all(log.shared.files, fd, min(_WALK, segment.size - position), position)
            window_at, at = position, 0
        base = time = length = count = 0
        if len(window) - at >= BATCH_HEADER_SIZE:
            base, time, length, _, count = _HEAD.unpack_from(window, at)
        if base != expected or not count or not BATCH_HEADER_SIZE < length <= segment.size - position:
            attempts -= 1
            if not attempts:
                raise StorageError(f"{segment.path} reads differently each time: see to the device")
            log.quarantine(place)
            _, position, expected = place
            window, window_at = b"", position
            continue
        if position > given:
            given = position
            yield Header(position, base, time, count, length)
        position += length
        expected = base + count


def from_tail(log: PartitionLog, turn: Turn | None, limit: int) -> list[Buffer]:
    """Batches from those that the newest turns left in RAM."""
    found: list[Buffer] = []
    while turn is not None:
        if turn.size <= limit:
            found += turn.parts
            limit -= turn.size
            turn = log.tail.get(turn.end)
            continue
        for part in turn.parts:
            if found and len(part) > limit:
                break
            found.append(part)
            limit -= len(part)
        break
    return found


def from_unwritten(log: PartitionLog, offset: int, limit: int) -> list[Buffer]:
    """Mode ``memory``: batches that are not in the files yet."""
    found: list[Buffer] = []
    at = bisect_right(log.unwritten, offset, key=_BASE) - 1
    for at in range(at, len(log.unwritten)):  # noqa: B020 - a slice would copy all that is still to come
        batch = log.unwritten[at][1]
        if found and len(batch) > limit:
            break
        found.append(batch)
        limit -= len(batch)
    return found


def lookup(log: PartitionLog, when: int) -> int:
    """See `portask.contracts.Storage.lookup`.

    Raises:
        OSError: the device does not give what it takes to know.
    """
    if when == EARLIEST:
        return log.first
    if when == LATEST:
        return log.next
    for segment in log.segments:
        if segment.max_time < when or segment.next <= log.first:
            continue
        entries = index_of(log, segment)
        base, position = entries.before_time(when) if entries.bases else (segment.base, HEADER_SIZE)
        for head in headers(log, Place(segment, position, base)):
            if head.time >= when and head.base + head.records > log.first:
                return max(head.base, log.first)
    for base, batch in log.unwritten:
        if batches.peek(batch)[1] >= when:
            return base
    return log.next
