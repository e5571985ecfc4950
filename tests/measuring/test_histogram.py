"""Counting durations in buckets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.measuring.histogram import Histogram


@given(
    values=st.lists(st.integers(0, 2**50), min_size=1, max_size=200),
    share=st.floats(0, 1),
    bits=st.sampled_from([3, 7]),
)
def test_percentiles_are_too_high_by_one_bucket_at_most(values: list[int], share: float, bits: int) -> None:
    histogram = Histogram(bits)
    for value in values:
        histogram.record(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = histogram.percentile(share)
    assert histogram.count == len(values)
    assert histogram.largest == max(values)
    assert exact <= found
    assert found <= exact + (exact >> bits) or exact >= 1 << 46


@pytest.mark.parametrize("bits", [3, 7])
def test_histograms_add_up(bits: int) -> None:
    chance = random.Random(5)
    parts = [Histogram(bits), Histogram(bits)]
    whole, told = Histogram(bits), Histogram(bits)
    for _ in range(500):
        value = chance.randrange(10**6)
        chance.choice(parts).record(value)
        whole.record(value)
    parts[0].merge(parts[1])
    assert parts[0].counts == whole.counts
    assert (parts[0].total, parts[0].largest) == (whole.total, whole.largest)
    told.add(whole.filled(), whole.total, whole.largest)
    assert told.counts == whole.counts
    assert (told.total, told.largest) == (whole.total, whole.largest)
