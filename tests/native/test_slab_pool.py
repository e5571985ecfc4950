"""What is particular to `native-slab`: memory outside of Python, what outlives the pool, use after giving back."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from portask import registry
from portask.errors import PoolError
from portask.registry import Entry
from portask_lab.conformance import conform


def made(**options: Any) -> Any:
    return registry.get("pool", "native-slab").make(**options)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def checked(**options: Any) -> Any:
    return made(checked=True, **options)


def test_checked_pools_conform_too() -> None:
    entry = Entry("pool", "checked", f"{__name__}:checked", "")
    assert {outcome.check: outcome.detail for outcome in conform(entry) if outcome.status == "failed"} == {}


def test_buffers_are_powers_of_two() -> None:
    pool = made()
    for size, expected in [(1, 64), (64, 64), (65, 128), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20)]:
        assert len(pool.take(size)) == expected
    assert len(pool.take((1 << 20) + 1)) == (1 << 20) + 1, "larger ones are made to measure"


def test_what_is_held_is_bounded() -> None:
    pool = made(max_held=10_000, arena=1024)
    buffers = [pool.take(1000) for _ in range(50)]
    for buffer in buffers:
        pool.give(buffer)
    assert pool.stats() == (50, 0, 9 * 1024, 0)
    again = [pool.take(1000) for _ in range(50)]
    assert pool.stats().reused == 9, "nine buffers of 1024 bytes fit into 10,000"
    for buffer in again:
        pool.give(buffer)
    assert pool.stats() == (100, 9, 9 * 1024, 0)


def test_a_pool_that_may_hold_nothing_still_works() -> None:
    pool = made(max_held=0)
    for _ in range(3):
        buffer = pool.take(100)
        buffer[99] = 1
        pool.give(buffer)
    assert pool.stats() == (3, 0, 0, 0)


@pytest.mark.parametrize("options", [{"max_held": -1}, {"arena": 32}, {"arena": 1000}, {"arena": -64}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        made(**options)


def test_more_than_the_machine_has_is_a_memory_error_and_not_counted() -> None:
    pool = made()
    with pytest.raises(MemoryError, match="no memory for a buffer of"):
        pool.take(1 << 60)
    assert pool.stats() == (0, 0, 0, 0)


def test_a_released_view_is_refused_and_nothing_changes() -> None:
    pool = made()
    buffer = pool.take(64)
    before = pool.stats()
    buffer.release()
    with pytest.raises(ValueError, match="released"):
        pool.give(buffer)
    assert pool.stats() == before


@pytest.mark.parametrize("thing", [b"bytes", bytearray(64), None])
def test_what_is_no_view_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError):
        made().give(thing)


def test_views_outlive_the_pool_and_their_buffer() -> None:
    pool = made()
    buffers = [pool.take(1000) for _ in range(2000)]
    parts = [buffer[10:20] for buffer in buffers]
    for number, part in enumerate(parts):
        part[:] = number.to_bytes(10, "big")
    del pool, buffers
    gc.collect()
    [pool.take(4096) for pool in [made() for _ in range(20)] for _ in range(10)]  # what was freed is used
    assert all(int.from_bytes(part, "big") == number for number, part in enumerate(parts))


def test_memory_is_given_back_when_the_last_view_is_gone() -> None:
    size = 64 << 20
    pool = made()
    buffer = pool.take(size)
    buffer[::4096] = bytes(len(buffer[::4096]))
    used = resident()
    part = buffer[:1]
    pool.give(buffer)
    del buffer
    gc.collect()
    assert resident() > used - size // 2, "a view lives"
    del part
    gc.collect()
    assert resident() < used - size // 2


def test_the_uncut_part_of_an_arena_costs_no_memory() -> None:
    before = resident()
    pool = made(arena=256 << 20, max_held=1 << 30)
    pool.take(64)[0] = 1
    assert resident() - before < 64 << 20


def test_steady_state_allocates_nothing() -> None:
    pool = made()

    def turn() -> None:
        buffers = [pool.take(size) for size in (64, 1500, 16_384, 100_000) for _ in range(5)]
        for buffer in buffers:
            pool.give(buffer)

    turn()
    views = {id(pool.take(1500)) for _ in range(5)}
    assert len(views) == 5, "warm ones, lent at once"
    gc.collect()
    tracemalloc.start()
    try:
        turn()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(10):
            turn()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4096
    assert after - before < 1024


def test_the_warmest_buffer_is_lent_again() -> None:
    pool = made()
    first, second = pool.take(100), pool.take(100)
    pool.give(first)
    pool.give(second)
    assert pool.take(100) is second
    assert pool.take(100) is first


def test_a_socket_receives_into_it() -> None:
    pool = made()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"arrived")
        buffer = pool.take(4096)
        assert ours.recv_into(buffer) == 7
        assert buffer[:7] == b"arrived"
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "wb", buffering=0) as writer:
        writer.write(buffer[:7])
        assert reader.readinto(buffer[100:]) == 7
    assert buffer[100:107] == b"arrived"


# ── checked ───────────────────────────────────────────────────────────────────────────────────────────────


def test_touching_a_buffer_after_it_was_given_is_an_error() -> None:
    pool = checked()
    buffer = pool.take(64)
    pool.give(buffer)
    with pytest.raises(ValueError, match="released"):
        buffer[0] = 1
    again = pool.take(64)
    assert pool.stats().reused == 1
    with pytest.raises(PoolError, match="given back before"):
        pool.give(buffer)
    again[0] = 1
    pool.give(again)


@pytest.mark.parametrize("size", [64, 3_000_000])
def test_giving_while_another_view_lives_is_an_error(size: int) -> None:
    pool = checked()
    buffer = pool.take(size)
    part = buffer[1:3]
    part[0] = 7
    with pytest.raises(PoolError, match="another view of it lives"):
        pool.give(buffer)
    assert pool.stats().lent == 0
    other = pool.take(size)
    other[:] = bytes(len(other))
    assert part[0] == 7, "its memory was lent to nobody else"


def test_writing_through_a_pointer_after_giving_is_found_out() -> None:
    pool = checked()
    buffer = pool.take(64)
    pointer = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    gc.collect()
    pool.give(buffer)
    ctypes.memset(pointer + 63, 0, 1)
    with pytest.raises(PoolError, match="written into after it was given back"):
        pool.take(64)
    taken = pool.take(64)
    assert pool.stats().reused == 0, "the spoiled one is not lent again"
    pool.give(taken)


def test_unchecked_pools_do_not_find_out() -> None:
    """What ``checked`` is for, shown by its absence."""
    pool = made()
    buffer = pool.take(64)
    pool.give(buffer)
    buffer[0] = 1
    assert pool.take(64)[0] == 1
