"""From samples to statements: medians, ratios, verdicts, and how far this machine can be believed.

**What is sampled.** A *block* holds one fresh process of every arm; a process gives several timed *samples*.
Samples of one process resemble each other (one memory layout, one hash seed, one moment of the machine), and
processes of one block do (one state of the neighbours). So samples are not what a statement is counted in:
blocks are. A thousand samples in four blocks are four observations, and what is below treats them so.

**Values.** A process stands for itself by the median of its samples: a preempted sample must not move it. A
variant's value is the median over its processes. Never a minimum (it rewards luck), never a mean of
percentiles (it is no percentile).

**Ratios.** Within block b, ``d_b = log(variant's process median) - log(reference's)``. Both ran next to each
other, so what the machine did to the block cancels. The effect is ``exp(mean d_b)``, a geometric mean.

**Intervals.** A bootstrap over the hierarchy's top level: blocks are drawn with replacement, each with its
processes' medians as they stand. Drawing samples anew within the processes as well would count their scatter
twice, for the medians already contain it (tried: intervals that should cover 95% then covered over 99.5%).
With few blocks the bootstrap is too narrow: the plug-in variance lacks the factor n/(n-1), and it takes a
normal quantile where Student's is due. Four blocks would cover about 80%. So the distances of its 2.5% and
97.5% quantiles from the estimate are stretched by ``sqrt(n/(n-1)) · t(n-1)/z``. For n = 4 that is 1.9, for n
= 10 it is 1.2. One block has no interval at all. Times, rates and shares of a core are positive: their
distances are taken between logarithms, so that no interval reaches what cannot be (a negative latency). An
interval of values among which is a zero ends at zero; only values that can be negative, like the growth of a
memory, have distances in their own unit.

**P-values** are Student's, of the mean of ``d_b`` against its standard error with n-1 degrees of freedom:
what the stretched interval approaches. (A permutation test would assume less, but with four blocks its
smallest p-value is 1/8.)

**Noise floor.** The reference runs in each block under a second name. Every case gives an A/A effect that
ought to be 1. A suite's floor is the 95th percentile of ``|log(A/A effect)|`` over its cases: what identical
code differed by, in the very estimate that is used for variants. A case's floor is that or its own A/A
effect, whichever is larger. It catches what intervals cannot: effects of process layout, order and drift that
are systematic within a run.

**Verdict.** faster or slower needs both: a Holm-adjusted p-value below 5% (over all variants of the case),
and an effect beyond the case's floor. Everything else is "indistinguishable". Faster means better, in
whichever direction the case's metric points.

**Stopping.** A suite stops when every interval is narrower than a stated width, or when its time is up. Both
rules ignore which way an effect points, so looking after each block does not bias verdicts as "stop when
significant" would.

**Steady state.** After warm-up a process's samples should have no trend. Mann-Kendall's statistic is summed
over processes; a trend at the 1% level that moves the value by more than 2% from first to last sample means
"no steady state".

Everything random takes a seed derived from the run's and the case's name: the same samples give the same
report.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 1_000
DRIFT_SHARE = 0.02
"""A trend smaller than this over a process's samples does not matter."""

Blocks = Mapping[int, Sequence[float]]
"""Block index → the samples of one arm's process in that block."""
Floats = NDArray[np.float64]
_LARGEST = math.log(sys.float_info.max)
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


class Estimate(msgspec.Struct, frozen=True):
    """A value and its interval."""

    value: float
    low: float
    high: float


class Ratio(msgspec.Struct, frozen=True):
    """An effect: variant ÷ reference, its interval, and the p-value of "it is 1" before correction."""

    value: float
    low: float
    high: float
    p: float
    blocks: int

    @property
    def width(self) -> float:
        """Width of the interval relative to the value: 0.04 is about ±2%."""
        return (self.high - self.low) / self.value if self.value > 0 else math.inf


@cache
def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t: 12.7 for 1 degree of freedom, 1.96 for many."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if student_p(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def student_p(t: float, freedom: int) -> float:
    """The two-sided p-value of ``t``.

    With ``x = atan(t / sqrt(n))`` the probability inside ±t is a finite sum of powers of cos x (Abramowitz
    and Stegun 26.7.3-4).
    """
    if not math.isfinite(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 or not odd else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


def seed_of(seed: int, *names: str) -> int:
    """A seed for one purpose, derived from the run's."""
    return zlib.crc32("|".join((str(seed), *names)).encode())


def absolute(blocks: Blocks, seed: int) -> Estimate:
    """Median over processes of each process's median, with its interval, in the samples' unit.

    One block gives an infinitely wide interval. No block is an error of the caller.
    """
    medians = np.array([np.median(blocks[key]) for key in sorted(blocks)])
    value, count = float(np.median(medians)), len(medians)
    if count < 2:
        return Estimate(value, -math.inf, math.inf)
    values = np.median(medians[_draws(count, seed)], axis=1)
    least = float(medians.min())
    if least > 0:
        low, high = _interval(math.log(value), np.log(values), count)
        return Estimate(value, min(value, math.exp(low)), max(value, _exp(high)))
    low, high = _interval(value, values, count)
    return Estimate(value, low if least < 0 else 0.0, high)


def ratio(variant: Blocks, reference: Blocks, seed: int) -> Ratio | None:
    """The effect of ``variant`` against ``reference`` over the blocks that hold both.

    ``None`` when no block does. Values that are not positive have no ratio: ``None`` as well.
    """
    keys = sorted(set(variant) & set(reference))
    if not keys or any(min(each[key]) <= 0 for each in (variant, reference) for key in keys):
        return None
    logs = [np.log([np.median(each[key]) for key in keys]) for each in (variant, reference)]
    differences = logs[0] - logs[1]
    effect, count = float(differences.mean()), len(keys)
    if count < 2:
        return Ratio(math.exp(effect), 0.0, math.inf, 1.0, count)
    effects = differences[_draws(count, seed)].mean(axis=1)
    low, high = _interval(effect, effects, count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    p = student_p(effect / error, count - 1) if error > 0 else float(effect == 0)
    return Ratio(math.exp(effect), math.exp(low), _exp(high), p, count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def suite_floor(effects: Sequence[float]) -> float:
    """The noise floor of a suite from its A/A effects (ratios), as a fraction; infinite without any."""
    if not effects:
        return math.inf
    return float(np.expm1(np.quantile(np.abs(np.log(effects)), 0.95)))


def case_floor(suite: float, effect: float | None) -> float:
    """The noise floor of one case: the suite's, or its own A/A effect when that is larger."""
    return suite if effect is None else max(suite, math.expm1(abs(math.log(effect))))


def verdict(
    effect: float, adjusted_p: float, floor: float, better: Literal["higher", "lower", "none"]
) -> Literal["faster", "slower", "indistinguishable", "not compared"]:
    """What may be said of an effect; ``faster`` means better."""
    if better == "none":
        return "not compared"
    if adjusted_p >= 1 - CONFIDENCE or abs(math.log(effect)) <= math.log1p(floor):
        return "indistinguishable"
    return "faster" if (effect > 1) == (better == "higher") else "slower"


def steady(blocks: Blocks) -> bool | None:
    """Whether processes show no trend after warm-up; ``None`` when there are too few samples to tell."""
    total = variance = 0.0
    moves = []
    for samples in blocks.values():
        values = np.asarray(samples, dtype=np.float64)
        n = len(values)
        if n < 4:
            continue
        later, earlier = np.tril_indices(n, -1)
        total += float(np.sign(values[later] - values[earlier]).sum())
        variance += n * (n - 1) * (2 * n + 5) / 18
        slope = float(np.median((values[later] - values[earlier]) / (later - earlier)))  # Theil and Sen
        middle = float(np.median(values))
        moves.append(slope * (n - 1) / middle if middle else 0.0)
    if variance == 0:
        return None
    z = max(0.0, abs(total) - 1) / math.sqrt(variance)
    return z < NormalDist().inv_cdf(0.995) or abs(float(np.median(moves))) < DRIFT_SHARE


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of ``y`` over ``x``."""
    along, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    along = along - along.mean()
    return float((along * (up - up.mean())).sum() / (along * along).sum())


def _exp(exponent: float) -> float:
    """Infinite where two blocks lie so far apart that no float holds the end of their interval."""
    return math.exp(exponent) if exponent < _LARGEST else math.inf


def _draws(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _interval(value: float, resampled: Floats, count: int) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    stretch = math.sqrt(count / (count - 1)) * student_quantile(count - 1) / _Z
    return value - stretch * max(0.0, value - float(low)), value + stretch * max(0.0, float(high) - value)
