"""The conformance suite of rings is worth something: broken rings fail, and every check fails for one of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from portask.errors import RingError, RingFull
from portask.messages import Buffer
from portask.reference.ring import DequeRing
from portask.registry import Entry
from portask_lab.conformance import checks, conform
from portask_variants.rings.shared_memory import SharedMemoryRing, why_not


class Smaller(DequeRing):
    def __init__(self, capacity: int = 1 << 20) -> None:
        super().__init__(capacity // 2)


class LastInFirstOut(DequeRing):
    def get(self) -> bytes:
        self._records.rotate(1)
        return super().get()


class GivesNothing(DequeRing):
    def get(self) -> bytes:
        return super().get() if self._records else b""


class DropsWhenFull(DequeRing):
    def put(self, record: Buffer) -> None:
        with suppress(RingFull):
            super().put(record)


class HandsBackACopy(DequeRing):
    def put(self, record: Buffer) -> None:
        try:
            super().put(record)
        except RingFull:
            raise RingFull(bytes(record)) from None


class HoldsALotMore(DequeRing):
    def __init__(self, capacity: int = 1 << 20) -> None:
        super().__init__(3 * capacity)
        self.capacity, self._largest = capacity, capacity // 8

    def put(self, record: Buffer) -> None:
        self.capacity *= 3
        try:
            super().put(record)
        finally:
            self.capacity //= 3


class HoldsOneRecord(DequeRing):
    def put(self, record: Buffer) -> None:
        if self._records:
            raise RingFull(record)
        super().put(record)


class CountsTwice(DequeRing):
    def __len__(self) -> int:
        return min(2 * super().__len__(), self.capacity)


class TakesAnySize(DequeRing):
    def __init__(self, capacity: int = 1 << 20) -> None:
        super().__init__(capacity)
        self._largest = capacity


class FailsAtOneOffset(DequeRing):
    def put(self, record: Buffer) -> None:
        wrong = self._put_bytes % 256 == 77 and len(record) == 32
        super().put(bytes(32) if wrong else record)


class ForgetsWhenClosed(DequeRing):
    def close(self) -> None:
        self._records.clear()
        super().close()


class ReopensWhenClosedTwice(DequeRing):
    def close(self) -> None:
        self._closed = not self._closed


class SkipsInBatches(DequeRing):
    def put_many(self, records: Sequence[Buffer]) -> int:
        return super().put_many(records[:3]) + max(0, len(records) - 3)


class LosesOneBetweenThreads(DequeRing):
    count = 0

    def put(self, record: Buffer) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.count += 1
            if self.count == 5000:
                return
        super().put(record)


class LosesOneBetweenProcesses(SharedMemoryRing):
    attached = False
    count = 0

    @classmethod
    def attach(cls, name: str) -> LosesOneBetweenProcesses:
        ring = super().attach(name)
        assert isinstance(ring, cls)
        ring.attached = True
        return ring

    def put(self, record: Buffer) -> None:
        self.count += 1
        if not (self.attached and self.count == 5000):
            super().put(record)


class CannotBeAttached(SharedMemoryRing):
    @classmethod
    def attach(cls, name: str) -> SharedMemoryRing:
        raise RingError("planted")


THREADS, PROCESSES = frozenset({"threads"}), frozenset({"threads", "processes"})
BROKEN: list[tuple[type[Any], frozenset[str], set[str]]] = [
    (Smaller, THREADS, {"takes_what_the_contract_says"}),
    (LastInFirstOut, THREADS, {"first_in_first_out", "random_walk_against_a_deque"}),
    (GivesNothing, frozenset(), {"empty_is_typed"}),
    (DropsWhenFull, frozenset(), {"full_hands_back", "capacity_is_kept"}),
    (HandsBackACopy, frozenset(), {"full_hands_back"}),
    (HoldsALotMore, frozenset(), {"capacity_is_kept"}),
    (HoldsOneRecord, frozenset(), {"capacity_is_kept"}),
    (CountsTwice, frozenset(), {"length_is_what_records_cost"}),
    (TakesAnySize, frozenset(), {"too_large_is_an_error"}),
    (FailsAtOneOffset, frozenset(), {"wraps_at_every_offset"}),
    (ForgetsWhenClosed, frozenset(), {"closing_is_final"}),
    (ReopensWhenClosedTwice, frozenset(), {"closing_is_final"}),
    (SkipsInBatches, THREADS, {"batches_are_singles", "two_threads"}),
    (LosesOneBetweenThreads, THREADS, {"two_threads"}),
    (LosesOneBetweenProcesses, PROCESSES, {"two_processes"}),
    (CannotBeAttached, PROCESSES, {"two_processes"}),
]


def test_every_check_has_a_ring_that_fails_it() -> None:
    caught = set().union(*(expected for _, _, expected in BROKEN))
    assert caught == {item.name for item in checks("ring")}


@pytest.mark.parametrize(
    ("kind", "capabilities", "expected"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_broken_ring_fails(kind: type[Any], capabilities: frozenset[str], expected: set[str]) -> None:
    reason = why_not() if issubclass(kind, SharedMemoryRing) else None
    if reason:
        pytest.skip(reason)
    entry = Entry("ring", "broken", f"{__name__}:{kind.__name__}", "broken", capabilities=capabilities)
    failed = {outcome.check: outcome.detail for outcome in conform(entry) if outcome.status == "failed"}
    assert expected <= set(failed), failed


def test_what_the_other_process_says_is_shown() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    entry = Entry("ring", "broken", f"{__name__}:CannotBeAttached", "broken", capabilities=PROCESSES)
    (outcome,) = [outcome for outcome in conform(entry) if outcome.status == "failed"]
    assert "RingError: planted" in outcome.detail
