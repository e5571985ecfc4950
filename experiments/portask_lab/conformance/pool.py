"""What every pool must do."""

from __future__ import annotations

import random

from portask.contracts import Pool, PoolStats
from portask.errors import PoolError
from portask.registry import Entry
from portask_lab.conformance.suite import Check, Violation, check, require

SUITE: list[Check] = []

_SIZES = (1, 63, 64, 65, 1000, 4096, 65_536, 3_000_000)


@check(SUITE)
def buffers_are_large_enough_and_writable(entry: Entry) -> None:
    """A take gives a writable view of bytes, at least as long as asked, be it small or very large."""
    pool = entry.make()
    require(isinstance(pool, Pool), f"{type(pool).__name__} is no Pool: a method is missing")
    for size in _SIZES:
        buffer = pool.take(size)
        require(isinstance(buffer, memoryview), f"take returned {type(buffer).__name__}, not a memoryview")
        require(
            buffer.format == "B" and buffer.ndim == 1 and buffer.c_contiguous,
            f"the view is not one of plain bytes: format {buffer.format!r}, {buffer.ndim} dimensions",
        )
        require(len(buffer) >= size, f"asked for {size} bytes, got {len(buffer)}")
        require(not buffer.readonly, "the view is read-only")
        buffer[0] = buffer[size - 1] = 255
        pool.give(buffer)


@check(SUITE)
def sizes_below_one_are_refused(entry: Entry) -> None:
    """A size of 0 or less is a ValueError and is not counted."""
    pool = entry.make()
    for size in (0, -1):
        try:
            pool.take(size)
        except ValueError:
            continue
        raise Violation(f"take({size}) raised nothing, where ValueError was due")
    require(pool.stats() == PoolStats(0, 0, 0, 0), f"a refused take left {pool.stats()}")


@check(SUITE)
def lent_buffers_do_not_overlap(entry: Entry) -> None:
    """Over a random walk of takes and gives, nobody writes into a buffer that another one holds."""
    pool = entry.make()
    rng = random.Random(4)
    lent: list[tuple[memoryview, bytes]] = []
    for step in range(1500):
        if not lent or rng.random() < 0.55:
            size = rng.choice((1, 64, 100, 1000, 4097, rng.randrange(1, 20_000)))
            buffer = pool.take(size)
            mark = rng.randbytes(8) * (len(buffer) // 8) + bytes(len(buffer) % 8)
            buffer[:] = mark
            lent.append((buffer, mark))
        else:
            buffer, mark = lent.pop(rng.randrange(len(lent)))
            require(
                buffer == mark, f"step {step}: a lent buffer of {len(buffer)} bytes was written by another"
            )
            pool.give(buffer)
        if len(lent) > 40:
            lent, given = lent[::2], lent[1::2]
            for buffer, mark in given:
                require(buffer == mark, f"step {step}: a lent buffer was written by another")
                pool.give(buffer)
    require(
        pool.stats().lent == sum(len(buffer) for buffer, _ in lent), f"lent bytes are wrong: {pool.stats()}"
    )


@check(SUITE)
def giving_twice_is_an_error(entry: Entry) -> None:
    """A buffer given a second time is a PoolError, and nothing changes."""
    pool = entry.make()
    for size in _SIZES:
        buffer = pool.take(size)
        pool.give(buffer)
        _refused(pool, buffer, f"a buffer of {size} bytes that was given back before")


@check(SUITE)
def foreign_buffers_are_an_error(entry: Entry) -> None:
    """A buffer from elsewhere, or a part of one's own, is a PoolError, and nothing changes."""
    pool, other = entry.make(), entry.make()
    own, others = pool.take(64), other.take(64)
    _refused(pool, memoryview(bytearray(64)), "a buffer from elsewhere")
    _refused(pool, others, "a buffer of another pool")
    _refused(pool, own[:32], "a part of a buffer")
    _refused(pool, own[:], "another view of a buffer")
    pool.give(own)
    other.give(others)


@check(SUITE)
def counts_add_up(entry: Entry) -> None:
    """The stats count what was taken, and the bytes lent now."""
    pool = entry.make()
    buffers = [pool.take(size) for size in _SIZES]
    stats = pool.stats()
    require(isinstance(stats, PoolStats), f"stats returned {type(stats).__name__}, not PoolStats")
    require(stats.taken == len(buffers), f"{len(buffers)} were taken, stats says {stats.taken}")
    lent = sum(map(len, buffers))
    require(stats.lent == lent, f"{lent} bytes are lent, stats says {stats.lent}")
    for buffer in buffers:
        pool.give(buffer)
    require(pool.stats().lent == 0, f"everything was given back, stats says {pool.stats()}")


@check(SUITE)
def what_is_held_is_reused(entry: Entry) -> None:
    """In steady state a pool that keeps what comes back reuses all of it; one that keeps nothing says so."""
    pool = entry.make()
    for size in (64, 1500, 16_384):
        for _ in range(2):  # the first time to warm up
            before = pool.stats()
            buffers = [pool.take(size) for _ in range(20)]
            for buffer in buffers:
                pool.give(buffer)
            after = pool.stats()
        reused = after.reused - before.reused
        kept = before.held > 0
        require(
            reused == (20 if kept else 0),
            f"held {before.held} bytes, then reused {reused} of 20 buffers of {size}",
        )
        require(
            after.held == before.held, f"what is held grew from {before.held} to {after.held} in steady state"
        )


def _refused(pool: Pool, buffer: memoryview, what: str) -> None:
    before = pool.stats()
    try:
        pool.give(buffer)
    except PoolError:
        require(pool.stats() == before, f"giving {what} was refused, yet changed {before} to {pool.stats()}")
    else:
        raise Violation(f"giving {what} raised nothing, where PoolError was due")
