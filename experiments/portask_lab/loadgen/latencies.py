"""Sums up latencies: exact percentiles of one process, and histograms that add up over processes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from portask_lab.workloads import Latencies

_STEP = 1.02
BOUNDS = [_STEP**power for power in range(math.ceil(math.log(60e6) / math.log(_STEP)))]
"""Buckets, µs: from 1 µs to a minute, each 2% above the one before. The same for all: histograms can be merged."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``ordered`` do not exceed (nearest rank). NaN when it is empty."""
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def histogram(nanoseconds: Iterable[int], metric: str, rate: float = 0.0, schedule: str = "") -> Latencies:
    """Latencies as counts over `BOUNDS`. A bucket's bound stands for the values up to 2% below it."""
    ordered = sorted(nanoseconds)
    counts = []
    before = 0
    for bound in BOUNDS[:-1]:
        upto = bisect_right(ordered, bound * 1000)
        counts.append(upto - before)
        before = upto
    counts.append(len(ordered) - before)
    return Latencies(metric, BOUNDS, counts, rate, schedule)
