"""Forgetting the oldest records of a partition: whole segments are removed, batches within the oldest one skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.storage import reading
from portask.storage.segments import HEADER_SIZE

if TYPE_CHECKING:
    from portask.storage.partition import PartitionLog


def trim(log: PartitionLog, before: int, max_bytes: int | None) -> None:
    """See `portask.contracts.Storage.trim`. Whole segments are removed, batches in the oldest one skipped.

    Raises:
        OSError: the device does not give what it takes to know.
    """
    before = min(before, log.newest, log.next)
    over = 0 if max_bytes is None else max(log.bytes - max_bytes, 0)
    start = log.bytes
    while len(log.segments) > 1 and not log.segments[0].pins:
        oldest, following = log.segments[0], log.segments[1].base
        size = oldest.size - log.first_at
        enough = following > max(before, log.first) and over - (start - log.bytes) < size
        if following > log.newest or enough:
            break
        _forget_oldest(log, following, size)
    over -= start - log.bytes
    if log.first < before or over > 0:
        _trim_oldest(log, before, over)
    if log.producers and log.bytes < start:
        log.producers = {p: standing for p, standing in log.producers.items() if standing[2] >= log.first}


def _forget_oldest(log: PartitionLog, following: int, size: int) -> None:
    oldest = log.segments.pop(0)
    log.bases = log.bases[1:]
    log.shared.remove(oldest)
    log.bytes -= size
    log.first = max(log.first, following)
    log.first_at = HEADER_SIZE
    log.hints.clear()


def _trim_oldest(log: PartitionLog, before: int, over: int) -> None:
    """Skips the batches of the oldest segment that end at or before ``before``, or are among ``over`` bytes."""
    oldest = log.segments[0]
    target = log.first_at + over
    entries = reading.index_of(log, oldest)
    place = reading.Place(oldest, log.first_at, log.first)
    if entries.bases:
        by_offset, by_position = entries.at_offset(before), entries.at_position(target)
        base, position = max(by_offset, by_position) if over > 0 else by_offset
        if position > log.first_at:
            place = reading.Place(oldest, position, base)
    first, first_at = place.base, place.position
    for head in reading.headers(log, place):
        if head.base > log.newest:
            break
        if head.base <= before or first_at < target:
            first, first_at = head.base, head.position
        else:
            break
    else:
        if oldest.next <= before or (first_at < target and oldest.next <= log.newest):
            first, first_at = min(oldest.next, log.next), oldest.size
    if first > log.first:
        log.bytes -= first_at - log.first_at
        log.first, log.first_at = first, first_at
