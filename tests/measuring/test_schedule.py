"""When to send."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from portask.measuring import schedule


def test_a_constant_schedule_is_even_and_ends_in_time() -> None:
    times = schedule.make("constant", 1000, 0.5, 1)
    assert len(times) == 500
    assert {b - a for a, b in pairwise(times)} == {1_000_000}


def test_a_poisson_schedule_has_the_rate_and_the_spread() -> None:
    times = schedule.make("poisson", 1000, 20, 7)
    gaps = [(b - a) / 1e6 for a, b in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1, rel=0.05), "a constant one would have none"
    assert times == schedule.make("poisson", 1000, 20, 7)
    assert times != schedule.make("poisson", 1000, 20, 8)


@pytest.mark.parametrize(
    ("kind", "rate", "seconds"), [("constant", 0, 1), ("poisson", 10, 0), ("bursts", 10, 1)]
)
def test_a_schedule_that_is_none(kind: str, rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="schedule"):
        schedule.make(kind, rate, seconds, 1)
