"""Every pool against a plain account of what is lent; bounds and steady state of those that keep buffers."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from portask import registry
from portask.errors import PoolError
from portask.registry import Entry
from portask_variants.pools.freelist import FreelistPool
from portask_variants.pools.slab import SlabPool

SIZES = st.one_of(st.integers(1, 300), st.sampled_from([64, 65, 4096, 4097, 70_000]))


class PoolMachine(RuleBasedStateMachine):
    entry: Entry

    def __init__(self) -> None:
        super().__init__()
        self.pool: Any = self.entry.make()
        self.lent: list[tuple[memoryview, int]] = []
        self.taken = 0

    @rule(size=SIZES)
    def take(self, size: int) -> None:
        buffer = self.pool.take(size)
        self.taken += 1
        assert len(buffer) >= size
        mark = self.taken % 256
        buffer[:] = bytes([mark]) * len(buffer)
        self.lent.append((buffer, mark))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        buffer, mark = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        assert buffer == bytes([mark]) * len(buffer), "somebody else wrote into a lent buffer"
        self.pool.give(buffer)
        with pytest.raises(PoolError):
            self.pool.give(buffer)

    @rule()
    def give_what_is_not_ours(self) -> None:
        with pytest.raises(PoolError):
            self.pool.give(memoryview(bytearray(64)))
        if self.lent:
            with pytest.raises(PoolError):
                self.pool.give(self.lent[0][0][:])

    @invariant()
    def account(self) -> None:
        stats = self.pool.stats()
        assert stats.taken == self.taken
        assert stats.reused <= stats.taken
        assert stats.held >= 0
        assert stats.lent == sum(len(buffer) for buffer, _ in self.lent)


@pytest.mark.parametrize("entry", registry.entries("pool"), ids=lambda entry: entry.name)
def test_pool_keeps_its_account(entry: Entry) -> None:
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    machine = type("Machine", (PoolMachine,), {"entry": entry})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("name", ["none", "freelist", "slab"])
def test_a_released_view_is_refused_and_nothing_changes(name: str) -> None:
    pool = registry.get("pool", name).make()
    buffer = pool.take(64)
    before = pool.stats()
    buffer.release()
    with pytest.raises(ValueError, match="released"):
        pool.give(buffer)
    assert pool.stats() == before


@pytest.mark.parametrize("name", ["freelist", "slab"])
def test_buffers_are_powers_of_two(name: str) -> None:
    pool = registry.get("pool", name).make()
    for size, expected in [(1, 64), (64, 64), (65, 128), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20)]:
        assert len(pool.take(size)) == expected
    assert len(pool.take((1 << 20) + 1)) == (1 << 20) + 1, "larger ones are made to measure"


@pytest.mark.parametrize("pool", [FreelistPool(max_held=10_000), SlabPool(max_held=10_000, arena=1024)])
def test_what_is_held_is_bounded(pool: FreelistPool | SlabPool) -> None:
    buffers = [pool.take(1000) for _ in range(50)]
    assert pool.stats().lent >= 50_000
    for buffer in buffers:
        pool.give(buffer)
    assert 0 < pool.stats().held <= 10_000
    again = [pool.take(1000) for _ in range(50)]
    assert pool.stats().reused == pool.stats().taken - 50 - 41 == 9, (
        "nine buffers of 1024 bytes fit into 10,000"
    )
    for buffer in again:
        pool.give(buffer)
    assert pool.stats().lent == 0


@pytest.mark.parametrize("pool", [FreelistPool(max_held=0), SlabPool(max_held=0)])
def test_a_pool_that_may_hold_nothing_still_works(pool: FreelistPool | SlabPool) -> None:
    for _ in range(3):
        buffer = pool.take(100)
        buffer[99] = 1
        pool.give(buffer)
    assert pool.stats() == (3, 0, 0, 0)


@pytest.mark.parametrize("pool", [FreelistPool(), SlabPool()])
def test_steady_state_allocates_no_buffer(pool: FreelistPool | SlabPool) -> None:
    def turn() -> None:
        buffers = [pool.take(size) for size in (64, 1500, 16_384, 100_000) for _ in range(5)]
        for buffer in buffers:
            pool.give(buffer)

    turn()
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
    assert peak - before < 4096, "less than the smallest handful of buffers was allocated at any time"
    assert after - before < 1024


def test_a_slab_cuts_many_buffers_from_one_arena() -> None:
    pool = SlabPool(arena=1 << 16)
    buffers = [pool.take(1024) for _ in range(64)]
    assert len({id(buffer.obj) for buffer in buffers}) == 1
    assert pool.stats().held == 0
    assert pool.take(1024).obj is not buffers[0].obj


@pytest.mark.parametrize("options", [{"max_held": -1}, {"largest": 0}])
def test_freelist_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FreelistPool(**options)


@pytest.mark.parametrize("options", [{"max_held": -1}, {"arena": 32}, {"arena": 1000}])
def test_slab_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SlabPool(**options)


@pytest.mark.parametrize("largest", [1, 64, 100, 1 << 20])
def test_freelist_keeps_up_to_the_largest_class(largest: int) -> None:
    pool = FreelistPool(largest=largest)
    kept, made_to_measure = pool.take(max(largest, 64)), pool.take(2 * max(largest, 64) + 1)
    pool.give(made_to_measure)
    assert pool.stats().held == 0
    pool.give(kept)
    assert pool.stats().held == len(kept) >= largest
