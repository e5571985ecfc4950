"""Records on the move, for checks with a real producer and a real consumer: numbered, checksummed, of all sizes.

Whoever waits here yields the processor and gives up with a `Violation` rather than hang.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from struct import Struct
from typing import Any
from zlib import crc32

from portask.contracts import BatchRing
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.messages import Buffer
from portask_lab.conformance.suite import require

PATIENCE = 20.0
"""Seconds after which a producer or consumer counts as stuck."""
NOISE = random.Random(8742).randbytes(1200)
_HEAD = Struct("<QI")


def echo(target: str, there_name: str, back_name: str) -> None:
    """The other process: gets from one ring and puts into the other until the first is closed."""
    module, _, attribute = target.partition(":")
    attach = getattr(import_module(module), attribute).attach
    there, back = attach(there_name), attach(back_name)
    for record in records_of(there):
        put_soon(back, record)
    back.close()


def numbered(number: int) -> bytes:
    """Record ``number``: its number, a checksum, and 0 to 199 bytes."""
    body = NOISE[number % 997 : number % 997 + number * 7 % 200]
    return _HEAD.pack(number, crc32(body)) + body


def put_all(ring: Any, count: int, alive: Callable[[], bool] = lambda: True) -> None:
    """Puts records 0 to ``count``, alternating singles and batches."""
    number = 0
    while number < count:
        batch = [numbered(n) for n in range(number, min(number + 50, count))]
        if number // 50 % 2 and isinstance(ring, BatchRing):
            rest: list[Buffer] = list(batch)
            for _ in _patiently("put_many", alive):
                del rest[: ring.put_many(rest)]
                if not rest:
                    break
        else:
            for record in batch:
                put_soon(ring, record, alive)
        number += len(batch)


def put_soon(ring: Any, record: bytes, alive: Callable[[], bool] = lambda: True) -> None:
    """Puts as soon as there is room."""
    for _ in _patiently("put", alive):
        try:
            ring.put(record)
        except RingFull:
            continue
        return


def records_of(ring: Any, alive: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
    """Everything until the ring is closed, by singles and batches in turn."""
    turns = 0
    for _ in _patiently("get", alive):
        try:
            while True:
                turns += 1
                if turns % 64 < 32 and isinstance(ring, BatchRing):
                    records = ring.get_many(40)
                    if not records:
                        break
                    yield from records
                else:
                    yield ring.get()
        except RingEmpty:
            pass
        except RingClosed:
            return


def check_all(ring: Any, alive: Callable[[], bool] = lambda: True) -> int:
    """Takes everything until the ring is closed, and checks that it is records 0, 1, 2, …; returns how many."""
    count = 0
    for record in records_of(ring, alive):
        require(len(record) >= _HEAD.size, f"after {count} records came a piece of {len(record)} bytes")
        number, checksum = _HEAD.unpack_from(record)
        require(crc32(record[_HEAD.size :]) == checksum, f"record {count} was changed on its way")
        require(number == count, f"record {count} was expected and {number} came")
        count += 1
    return count


def _patiently(what: str, alive: Callable[[], bool]) -> Iterator[None]:
    """Turns of a waiting loop: yields the processor in between, and ends with an error instead of hanging."""
    end = time.monotonic() + PATIENCE
    yield
    while alive():
        require(time.monotonic() < end, f"{what}: not done within {PATIENCE} s")
        time.sleep(0)
        yield
    require(False, f"{what}: the other process is gone")
