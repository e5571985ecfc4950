"""Ranges against the plainest model: a table of offsets."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.core import group_state
from portask.core.groups import Settings
from portask.core.ranges import OVER, Outstanding, Range
from portask.errors import RemoteProtocolError, StorageError
from portask.wire import control, windows

SPANS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=8)
STEPS = st.lists(
    st.tuples(st.sampled_from(["remove", "split", "merge"]), st.integers(0, 70), st.integers(0, 20)),
    max_size=15,
)


def made(spans: list[tuple[int, int]]) -> tuple[Outstanding, dict[int, int]]:
    """Ranges with gaps between them, and what is in them: offset → deliveries."""
    outstanding, model, position = Outstanding(), {}, 0
    for number, (gap, size) in enumerate(spans):
        position += gap
        outstanding.append(Range(position, position + size - 1, 1 + number % 2))
        model.update(dict.fromkeys(range(position, position + size), 1 + number % 2))
        position += size
    return outstanding, model


def content(outstanding: Outstanding) -> dict[int, int]:
    found: dict[int, int] = {}
    before = -1
    for each in outstanding:
        assert before < each.first <= each.last
        assert each.due != OVER
        before = each.last
        found.update(dict.fromkeys(range(each.first, each.last + 1), each.deliveries))
    return found


@given(SPANS, STEPS)
def test_ranges(spans: list[tuple[int, int]], steps: list[tuple[str, int, int]]) -> None:
    outstanding, model = made(spans)
    for what, at, size in steps:
        if what == "remove":
            touched, born = outstanding.remove(at, at + size)
            gone = [offset for offset in model if at <= offset <= at + size]
            assert sum(count for _, count in touched) == len(gone)
            for offset in gone:
                del model[offset]
            assert born is None or born in list(outstanding)
        elif what == "split":
            before = len(outstanding)
            born = outstanding.split(at)
            assert (born is None) == (len(outstanding) == before)
            assert born is None or born.first == at
            inside = outstanding.within(at, at + size)
            assert all(at <= each.first <= each.last <= at + size for each in inside)
        else:
            outstanding.merge()
            neighbours = list(outstanding)
            for one, next_one in pairwise(neighbours):
                assert one.last + 1 < next_one.first or one.deliveries != next_one.deliveries
        assert content(outstanding) == model
        assert outstanding.records == len(model)
        assert outstanding.first == min(model, default=None)


@given(SPANS, st.integers(1, 10))
def test_a_bounded_state_forgets_no_record(spans: list[tuple[int, int]], most: int) -> None:
    outstanding, model = made(spans)
    ranges = [(each.first, each.last, each.deliveries) for each in outstanding]
    bounded = group_state.bounded(ranges, most)
    assert len(bounded) <= most
    covered = {offset: n for first, last, n in bounded for offset in range(first, last + 1)}
    assert set(model) <= set(covered)
    assert all(covered[offset] <= model[offset] for offset in model)
    assert all(last < first for (_, last, _), (first, _, _) in pairwise(bounded))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_an_error(data: bytes) -> None:
    with suppress(StorageError):
        group_state.decode(data)


@settings(max_examples=50)
@given(st.data())
def test_damaged_states_are_a_state_that_makes_sense_or_an_error(data: st.DataObject) -> None:
    ranges = [(0, 4, 1), (9, 9, 0), (10, 30, 7)]
    state = group_state.State(group_state.VERSION, 40, ranges, Settings(), (1, 2, 3, 4))
    encoded = bytearray(control.encode(state))
    assert group_state.decode(bytes(encoded)) == state
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = group_state.decode(bytes(encoded))
    except StorageError:
        return
    assert all(0 <= first <= last < found.next for first, last, _ in found.ranges)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=9))
def test_windows(first: int, last: int, deliveries: int, rest: bytes) -> None:
    body = memoryview(windows.pack(first, last, deliveries) + rest)
    if rest and deliveries and first <= last:
        window, behind = windows.split(body)
        assert (window, bytes(behind)) == ((first, last, deliveries), rest)
    else:
        with pytest.raises(RemoteProtocolError):
            windows.split(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_window_or_an_error(data: bytes) -> None:
    try:
        window, _ = windows.split(memoryview(data))
    except RemoteProtocolError:
        return
    assert window.first <= window.last
    assert window.deliveries
