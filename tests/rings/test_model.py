"""Every ring against a deque, over whatever sequence of calls hypothesis thinks of."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from portask import registry
from portask.contracts import RECORD_OVERHEAD, BatchRing
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.messages import Buffer
from portask.registry import Entry

EXACT = {
    "deque",
    "simplequeue",
    "bytearray",
    "shared-memory",
    "native-spsc",
    "native-mpmc",
    "native-shm",
}
"""Rings that are full when, and only when, their capacity is used to the byte."""
HERE = sorted(EXACT & {entry.name for entry in registry.entries("ring")})

CAPACITIES = st.sampled_from([64, 100, 128, 1000, 4096])
# Lengths in 64ths of the largest record, so that all capacities see small, equal and largest ones.
LENGTHS = st.one_of(st.sampled_from([0, 1, 64]), st.integers(0, 64))


def cost(record: bytes) -> int:
    return len(record) + RECORD_OVERHEAD


class RingMachine(RuleBasedStateMachine):
    entry: Entry
    ring: Any

    @initialize(capacity=CAPACITIES)
    def make(self, capacity: int) -> None:
        self.ring = self.entry.make(capacity=capacity)
        self.model: deque[bytes] = deque()
        self.closed = False
        self.exact = self.entry.name in EXACT
        self.serial = 0

    def record(self, length: int) -> bytes:
        self.serial += 1
        size: int = length * (self.ring.capacity // 8) // 64
        return (self.serial.to_bytes(4, "big") * (size // 4 + 1))[:size]

    def used(self) -> int:
        return sum(map(cost, self.model))

    def fits(self, record: bytes) -> bool:
        return self.used() + cost(record) <= int(self.ring.capacity)

    @rule(length=LENGTHS, kind=st.sampled_from([bytes, bytearray, memoryview]))
    def put(self, length: int, kind: type[Any]) -> None:
        record = self.record(length)
        given = kind(record)
        try:
            self.ring.put(given)
        except RingFull as full:
            assert full.record is given  # noqa: PT017 - one of several legal outcomes
            assert not self.closed
            assert not (self.exact and self.fits(record))
        except RingClosed:
            assert self.closed
        else:
            assert not self.closed
            assert self.fits(record)
            self.model.append(record)

    @precondition(lambda self: isinstance(self.ring, BatchRing))
    @rule(
        lengths=st.one_of(
            st.lists(LENGTHS, max_size=12), st.builds(lambda n, k: [n] * k, LENGTHS, st.integers(0, 40))
        )
    )
    def put_many(self, lengths: list[int]) -> None:
        records = [self.record(length) for length in lengths]
        given: list[Buffer] = list(records)
        if self.closed:
            with pytest.raises(RingClosed):
                self.ring.put_many(given)
            return
        taken = self.ring.put_many(given)
        for record in records[:taken]:
            assert self.fits(record)
            self.model.append(record)
        if self.exact and taken < len(records):
            assert not self.fits(records[taken])

    @rule()
    def get(self) -> None:
        try:
            record = self.ring.get()
        except RingEmpty:
            assert not self.model
            assert not self.closed
        except RingClosed:
            assert not self.model
            assert self.closed
        else:
            assert record == self.model.popleft()

    @precondition(lambda self: isinstance(self.ring, BatchRing))
    @rule(limit=st.integers(-1, 50))
    def get_many(self, limit: int) -> None:
        if self.closed and not self.model:
            with pytest.raises(RingClosed):
                self.ring.get_many(limit)
            return
        expected = [self.model.popleft() for _ in range(min(limit, len(self.model)))]
        assert self.ring.get_many(limit) == expected

    @rule()
    def put_one_too_large(self) -> None:
        record = bytes(self.ring.capacity // 8 + 1)
        with pytest.raises(RingClosed if self.closed else ValueError):
            self.ring.put(record)

    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if not really:
            self.ring.close()
            self.closed = True

    @invariant()
    def length(self) -> None:
        if not hasattr(self, "ring"):
            return
        if self.exact:
            assert len(self.ring) == self.used()
        assert bool(self.model) == bool(len(self.ring))
        assert len(self.ring) <= self.ring.capacity

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            self.ring.close()


@pytest.mark.parametrize("entry", registry.entries("ring"), ids=lambda entry: entry.name)
def test_ring_is_a_bounded_deque(entry: Entry) -> None:
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    machine = type("Machine", (RingMachine,), {"entry": entry})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("capacity", [-1, 0, 63])
def test_a_tiny_capacity_is_refused(name: str, capacity: int) -> None:
    with pytest.raises(ValueError, match="too small"):
        registry.get("ring", name).make(capacity=capacity)


@pytest.mark.parametrize("name", HERE)
def test_errors_say_what_to_do(name: str) -> None:
    ring = registry.get("ring", name).make(capacity=800)
    with pytest.raises(ValueError, match=r"101 bytes never fits.*800 bytes takes records of up to 100; give"):
        ring.put(bytes(101))
    with pytest.raises(ValueError, match="102 bytes never fits"):
        ring.put_many([b"", bytes(102), bytes(101)])
    assert len(ring) == 0
