"""Requests that are no appends: reading, look-ups, trimming, group state. Each is an `Ask`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from portask.contracts import EARLIEST, LATEST, Found, Read
from portask.errors import BatchError, Fenced, OffsetOutOfRange, PortaskError, StorageError, UnknownPartition
from portask.messages import Buffer
from portask.storage.gathering import gather
from portask.wire import batches
from portask_variants.storage.redis_streams import scripts
from portask_variants.storage.redis_streams.catalog import META, extent
from portask_variants.storage.redis_streams.lines import Line
from portask_variants.storage.redis_streams.outcomes import Ask, Call

Saved = Callable[[PortaskError | None], None]
_MOST_ENTRIES = 1000
_MOST_BYTES = 8 << 20
"""Of one read, about, whatever its limit is."""


def read(line: Line, offset: int, limit: int, target: int, done: Read) -> Ask:
    """Batches from ``offset`` on, about ``limit`` bytes; small neighbours are joined up to ``target`` bytes."""
    keys = line.keys
    count = max(1, min(_MOST_ENTRIES, min(limit, _MOST_BYTES) // line.entry))

    def finish(replies: list[Any]) -> Iterable[Call]:
        there = extent(replies[0])
        if not there.next:
            raise _unknown(line)
        found = _entries(line, replies[1], limit)
        if not found:
            if offset > there.next:
                raise _outside(line, offset, there.first, there.next)
            if offset < there.next:
                raise StorageError(
                    f"{keys.log!r} lacks what followed offset {offset}: something else changed it"
                )
            return [(done, (), None)]
        first = batches.peek(found[0])[0]
        if first > offset:
            raise _outside(line, offset, first, max(first, there.next))
        return [(done, gather(found, target), None)]

    commands = [
        ("HMGET", keys.meta, *META),
        ("XRANGE", keys.log, offset, "+", "COUNT", count),
    ]
    return Ask(keys.log, commands, finish, lambda error: [(done, (), error)])


def _entries(line: Line, entries: list[tuple[bytes, list[bytes]]], limit: int) -> list[Buffer]:
    """The batches in entries, whole and stamped, checked again; not much more than ``limit`` bytes.

    Raises:
        StorageError: the first one is damaged.
    """
    found: list[Buffer] = []
    total = 0
    for name, fields in entries:
        last, _, count = name.partition(b"-")
        data = fields[1]
        base = int(last) - int(count) + 1
        total += len(data)
        if found and total > limit:
            break
        try:
            batch = batches.parse(data, batches.ANY_RAW_LENGTH)
            if batch.count != int(count):
                raise BatchError(f"it holds {batch.count} records")
        except BatchError as error:
            if found:
                break  # who reads on from here is told
            raise StorageError(f"entry {name.decode()} of {line.keys.log!r} is damaged: {error}") from error
        found.append(base.to_bytes(8, "little") + memoryview(data)[8:])
    if found:
        line.entry = max(64, total // len(found))
    return found


def lookup(line: Line, when: int, done: Found) -> Ask:
    """The offset that ``when`` means."""
    keys = line.keys

    def finish(replies: list[Any]) -> Iterable[Call]:
        if when not in {EARLIEST, LATEST}:
            if not replies[0]:
                raise _unknown(line)
            return [(done, int(replies[0]), None)]
        there = extent(replies[0])
        if not there.next:
            raise _unknown(line)
        return [(done, there.first if when == EARLIEST else there.next, None)]

    if when in {EARLIEST, LATEST}:
        command: tuple[Any, ...] = ("HMGET", keys.meta, *META)
    else:
        command = ("EVAL", scripts.FIND, 2, keys.log, keys.meta, when)
    return Ask(keys.log, [command], finish, lambda error: [(done, -1, error)])


def trim(line: Line, before: int, max_bytes: int | None, refused: Callable[[PortaskError], None]) -> Ask:
    """Forgets whole batches; ``refused`` hears why not."""
    keys = line.keys

    def trimmed(first: int, size: int) -> None:
        line.first = max(line.first, first)
        line.size = size

    def finish(replies: list[Any]) -> Iterable[Call]:
        if not replies[0]:
            return []
        first, _, size = replies[0].split()
        return [(trimmed, int(first), int(size))]

    command = (
        "EVAL",
        scripts.TRIM,
        3,
        keys.log,
        keys.meta,
        keys.producers,
        before,
        -1 if max_bytes is None else max_bytes,
    )
    return Ask(keys.log, [command], finish, lambda error: [(refused, error)])


def resume(line: Line, producer: int, epoch: int, sequence: int, done: Saved) -> Ask:
    """A producer says where it goes on."""
    command = ("EVAL", scripts.RESUME, 1, line.keys.producers, producer, epoch, sequence)

    def finish(replies: list[Any]) -> Iterable[Call]:
        if not replies[0]:
            return [(done, None)]
        newest = int(replies[0][1:])
        raise Fenced(
            f"producer {producer} published to {line.key} with epoch {newest}: "
            "give a higher producer_epoch than that to take over"
        )

    return Ask(line.keys.log, [command], finish, lambda error: [(done, error)])


def _unknown(line: Line) -> UnknownPartition:
    return UnknownPartition(f"nothing was ever published to {line.key}")


def _outside(line: Line, offset: int, first: int, following: int) -> OffsetOutOfRange:
    text = f"offset {offset} of {line.key} is not there: it holds {first} to {following}"
    return OffsetOutOfRange(text, first, following)
