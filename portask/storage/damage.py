"""Where a log goes on behind damage.

Batches have no marks to search for, and their payloads may hold anything, batches of other logs included. So what looks
like a batch is weighed:

1. Where the damaged header says that its batch ends. When only the record area is damaged, the batch that must come
   next begins there.
2. Otherwise every byte position is tried, by a pattern of header bytes that are always the same. What is found with a
   right checksum and a base offset behind the last valid one (and before the next segment's) is followed for as long as
   batches lie back to back: a *run*. Runs must agree with one another, that is, offsets must rise from each to the
   next. Where some do not, those with the most bytes are kept: records found within a payload lie between those around
   it, and lose.
3. A batch that the kernel took only half of, at the end of the log, looks like a header that is right with a length
   that goes beyond the end. There, runs only count if the last one ends where the file does, or the first one goes
   on with the offset that must come next. Anywhere else nothing is half written, and such a length is damage.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from portask.wire.batches import BATCH_HEADER_SIZE, BATCH_VERSION

BATCH = Struct("<QQIIBBHI16xQH2xI")
"""Of a batch header: base offset, append time, length, checksum, version, codec, attributes, count, producer, epoch,
sequence."""
_WINDOW = 1 << 20
# From byte 24 of a batch: version, any codec, attributes without reserved bits, …, the zero field.
_FACE = re.compile(rb"\x01.[\x00-\x0f].{31}\x00\x00", re.DOTALL)
_FACE_AT = 24

Read = Callable[[int, int], bytes]
"""``read(size, at)`` of one segment file."""


class _Run(NamedTuple):
    """Valid batches back to back."""

    start: int
    end: int
    base: int
    next: int


def pick_up(
    read: Read, position: int, end: int, expected: int, ceiling: int, *, tail: bool
) -> list[tuple[int, int]]:
    """Positions and base offsets where the log goes on behind damage at ``position``: there, and behind later damage.

    Costs a pattern search over what is left of the segment (about 100 MB/s), and its checksums.

    Args:
        read: Of the segment's file.
        position: Where a batch should begin and none is.
        end: Where the segment ends.
        expected: The offset that the damaged batch should have.
        ceiling: Offset that no record reaches beyond.
        tail: Whether ``end`` is where a killed process may have stopped writing.
    """
    torn, following = False, 0
    head = read(BATCH_HEADER_SIZE, position)
    if len(head) == BATCH_HEADER_SIZE:
        base, _, length, _, version, _, _, count, *_ = BATCH.unpack_from(head)
        if base == expected and count and length > BATCH_HEADER_SIZE:
            behind = _run(read, position + length, end, expected, ceiling)
            # no checksum covers the length: a wrong one may point at a later batch, over valid ones
            if behind is not None and behind.base == base + count:
                return [(behind.start, behind.base)]
        following = base + count
        torn = (
            tail and base == expected and version == BATCH_VERSION and count > 0 and length > end - position
        )
    runs = _best(_runs(read, position + 1, end, expected, ceiling))
    if torn and runs and runs[-1].end != end and runs[0].base != following:
        return []
    return [(run.start, run.base) for run in runs]


def _valid(read: Read, at: int, end: int) -> tuple[int, int, int] | None:
    """End, base offset and next offset of the batch at ``at``; ``None`` if there is none."""
    head = read(BATCH_HEADER_SIZE, at) if end - at > BATCH_HEADER_SIZE else b""
    if len(head) < BATCH_HEADER_SIZE:
        return None
    base, _, length, check, version, _, _, count, *_ = BATCH.unpack_from(head)
    if version != BATCH_VERSION or not BATCH_HEADER_SIZE < length <= end - at or not count:
        return None
    whole = read(length, at)
    if len(whole) != length or crc32c(memoryview(whole)[24:]) != check:
        return None
    return at + length, base, base + count


def _run(read: Read, at: int, end: int, expected: int, ceiling: int) -> _Run | None:
    """The run that begins at ``at`` with an offset behind ``expected``."""
    found = _valid(read, at, end)
    if found is None or not expected < found[1] < found[2] <= ceiling:
        return None
    start, base = at, found[1]
    at, reached = found[0], found[2]
    while (found := _valid(read, at, end)) is not None and found[1] == reached and found[2] <= ceiling:
        at, _, reached = found
    return _Run(start, at, base, reached)


def _runs(read: Read, at: int, end: int, expected: int, ceiling: int) -> list[_Run]:
    """Every run behind ``at``, in the order of their positions."""
    found: list[_Run] = []
    while at + BATCH_HEADER_SIZE < end:
        window = read(min(_WINDOW, end - at), at)
        step = max(len(window) - BATCH_HEADER_SIZE, 1)
        match = _FACE.search(window, _FACE_AT)
        while match is not None:
            behind = match.start() + 1
            run = _run(read, at + match.start() - _FACE_AT, end, expected, ceiling)
            if run is not None:
                found.append(run)
                step = max(step, run.end - at)
                behind = run.end - at + _FACE_AT
            match = _FACE.search(window, behind)
        at += step
    return found


def _best(runs: list[_Run]) -> list[_Run]:
    """Those of ``runs`` whose offsets rise from each to the next, with the most bytes together."""
    weights: list[int] = []
    before: list[int] = []
    for at, run in enumerate(runs):
        fits = [earlier for earlier in range(at) if runs[earlier].next <= run.base]
        best = max(fits, key=weights.__getitem__, default=-1)
        weights.append(run.end - run.start + (weights[best] if best >= 0 else 0))
        before.append(best)
    chosen: list[_Run] = []
    at = max(range(len(runs)), key=weights.__getitem__, default=-1)
    while at >= 0:
        chosen.append(runs[at])
        at = before[at]
    return chosen[::-1]
