"""The conformance suite of pools is worth something: broken pools fail, and every check fails for one of them."""

from __future__ import annotations

from typing import Any

import pytest

from portask.contracts import PoolStats
from portask.errors import PoolError
from portask.reference.pool import NoPool
from portask.registry import Entry
from portask_lab.conformance import checks, conform
from portask_variants.pools.freelist import FreelistPool


class Short(NoPool):
    def take(self, size: int) -> memoryview:
        return super().take(max(1, size // 2) if size > 0 else size)


class ReadOnly(NoPool):
    def take(self, size: int) -> memoryview:
        return super().take(size).toreadonly()


class TakesNothing(NoPool):
    def take(self, size: int) -> memoryview:
        return super().take(max(size, 1))


class LendsTheSameMemory(FreelistPool):
    memory = bytearray(4_000_000)

    def take(self, size: int) -> memoryview:
        buffer = memoryview(self.memory)[: len(super().take(size))]
        self._lent[id(buffer)] = buffer
        return buffer


class ForgivesASecondGive(NoPool):
    def give(self, buffer: memoryview) -> None:
        try:
            super().give(buffer)
        except PoolError:
            if not any(buffer.obj is lent.obj for lent in self._lent.values()) and len(buffer) != 64:
                return
            raise


class TakesStrangers(FreelistPool):
    def give(self, buffer: memoryview) -> None:
        if id(buffer) not in self._lent and id(buffer) not in map(id, self._free[6]):
            self._lent[id(buffer)] = buffer
        super().give(buffer)


class CountsWhatWasAsked(FreelistPool):
    def stats(self) -> PoolStats:
        return super().stats()._replace(lent=sum(len(buffer) - 1 for buffer in self._lent.values()))


class KeepsAndDoesNotReuse(FreelistPool):
    def take(self, size: int) -> memoryview:
        for free in self._free:
            free.clear()
        return super().take(size)


BROKEN: list[tuple[type[Any], str]] = [
    (Short, "buffers_are_large_enough_and_writable"),
    (ReadOnly, "buffers_are_large_enough_and_writable"),
    (TakesNothing, "sizes_below_one_are_refused"),
    (LendsTheSameMemory, "lent_buffers_do_not_overlap"),
    (ForgivesASecondGive, "giving_twice_is_an_error"),
    (TakesStrangers, "foreign_buffers_are_an_error"),
    (CountsWhatWasAsked, "counts_add_up"),
    (KeepsAndDoesNotReuse, "what_is_held_is_reused"),
]


def test_every_check_has_a_pool_that_fails_it() -> None:
    assert {expected for _, expected in BROKEN} == {item.name for item in checks("pool")}


@pytest.mark.parametrize(("kind", "expected"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_pool_fails(kind: type[Any], expected: str) -> None:
    entry = Entry("pool", "broken", f"{__name__}:{kind.__name__}", "broken")
    failed = {outcome.check: outcome.detail for outcome in conform(entry) if outcome.status == "failed"}
    assert expected in failed, failed
