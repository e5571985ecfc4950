"""The statistics: exact where they can be, calibrated where they are random."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask_lab import statistics
from portask_lab.selftest import COPIES, SLOWDOWNS, count

SCALES = st.floats(1e-3, 1e9, allow_nan=False)


def made(
    random: np.random.Generator, blocks: int, factor: float = 1.0, drift: float = 0.1
) -> list[dict[int, list[float]]]:
    """Reference and variant over the same drifting blocks: 2% between processes, 3% between samples."""
    moods = random.normal(0, drift, blocks)
    return [
        {
            block: list(np.exp(moods[block] + shift + random.normal(0, 0.02) + random.normal(0, 0.03, 5)))
            for block in range(blocks)
        }
        for shift in (0.0, math.log(factor))
    ]


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (200, 1.972)],
)
def test_student(freedom: int, quantile: float) -> None:
    assert statistics.student_quantile(freedom) == pytest.approx(quantile, abs=1e-3)
    assert statistics.student_p(quantile, freedom) == pytest.approx(0.05, abs=1e-4)
    assert statistics.student_p(0.0, freedom) == 1.0


@pytest.mark.parametrize("blocks", [4, 10])
def test_intervals_cover_and_false_alarms_stay_rare(blocks: int) -> None:
    random = np.random.default_rng(7)
    trials = 400
    covered = alarms = 0
    for trial in range(trials):
        reference, variant = made(random, blocks, 1.05)
        ratio = statistics.ratio(variant, reference, trial)
        assert ratio is not None
        covered += ratio.low <= 1.05 <= ratio.high
        same, again = made(random, blocks)
        alarm = statistics.ratio(again, same, trial)
        alarms += alarm is not None and alarm.p < 0.05
    # binomial: 0.95 ± 3.5 standard errors of 400 trials
    assert covered / trials > 0.91
    assert 0.01 < alarms / trials < 0.09


def test_what_a_block_shares_cancels_in_ratios() -> None:
    random = np.random.default_rng(3)
    reference, variant = made(random, 8, 1.5, drift=2.0)
    ratio = statistics.ratio(variant, reference, 1)
    assert ratio is not None
    assert 1.4 < ratio.low < 1.5 < ratio.high < 1.6


@given(scale=SCALES, blocks=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_units_do_not_matter(scale: float, blocks: int, seed: int) -> None:
    reference, variant = made(np.random.default_rng(seed), blocks, 1.2)
    plain = statistics.ratio(variant, reference, seed)
    larger, base = ({b: [v * scale for v in s] for b, s in each.items()} for each in (variant, reference))
    scaled = statistics.ratio(larger, base, seed)
    assert plain is not None
    assert scaled is not None
    assert scaled.value == pytest.approx(plain.value)
    assert scaled.low == pytest.approx(plain.low)
    inverse = statistics.ratio(reference, variant, seed)
    assert inverse is not None
    assert inverse.value == pytest.approx(1 / plain.value)


def test_same_samples_same_report() -> None:
    reference, variant = made(np.random.default_rng(1), 5)
    assert statistics.ratio(variant, reference, 9) == statistics.ratio(variant, reference, 9)
    assert statistics.absolute(variant, 9) == statistics.absolute(variant, 9)


def test_one_block_has_no_interval() -> None:
    one = statistics.absolute({0: [1.0, 2.0, 3.0]}, 0)
    assert one.value == 2.0
    assert math.isinf(one.low)
    assert math.isinf(one.high)
    ratio = statistics.ratio({0: [2.0]}, {0: [1.0]}, 0)
    assert ratio is not None
    assert ratio.p == 1.0
    assert ratio.width == math.inf


@given(
    values=st.lists(st.floats(1e-3, 1e9), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_what_cannot_be_negative_has_no_negative_interval(values: list[float], seed: int) -> None:
    found = statistics.absolute({block: [value] for block, value in enumerate(values)}, seed)
    assert 0 <= found.low <= found.value <= found.high
    with_zero = statistics.absolute({block: [value] for block, value in enumerate([0.0, *values])}, seed)
    assert 0 <= with_zero.low <= with_zero.value <= with_zero.high


def test_what_can_be_negative_may_have_a_negative_end() -> None:
    found = statistics.absolute({0: [-0.01], 1: [0.02], 2: [0.03]}, 0)
    assert found.low < 0 < found.high


def test_two_latencies_far_apart_say_so_without_nonsense() -> None:
    found = statistics.absolute({0: [188.0], 1: [1520.0]}, 0)
    assert found.value == 854
    assert 0 < found.low < 188
    assert 1520 < found.high < math.inf
    assert math.isinf(statistics.absolute({0: [1e-300], 1: [1.0], 2: [1e300]}, 0).high)


def test_intervals_of_values_cover() -> None:
    random = np.random.default_rng(17)
    covered = 0
    for trial in range(400):
        found = statistics.absolute({b: [100 * math.exp(random.normal(0, 0.3))] for b in range(4)}, trial)
        covered += found.low <= 100 <= found.high
    assert covered / 400 > 0.91


def test_blocks_that_only_one_has_do_not_count() -> None:
    ratio = statistics.ratio({0: [2.0], 1: [2.0], 2: [50.0]}, {0: [1.0], 1: [1.0], 3: [1.0]}, 0)
    assert ratio is not None
    assert (ratio.value, ratio.blocks) == (2.0, 2)
    assert statistics.ratio({0: [1.0]}, {1: [1.0]}, 0) is None
    assert statistics.ratio({0: [0.0]}, {0: [1.0]}, 0) is None


def test_figures_without_scatter_are_exact() -> None:
    equal = statistics.ratio({0: [3.0], 1: [3.0]}, {0: [3.0], 1: [3.0]}, 0)
    differs = statistics.ratio({0: [3.0], 1: [3.0]}, {0: [4.0], 1: [4.0]}, 0)
    assert equal is not None
    assert differs is not None
    assert (equal.p, equal.value) == (1.0, 1.0)
    assert differs.p == 0.0
    assert statistics.verdict(differs.value, 0.0, 0.0, "lower") == "faster"
    assert statistics.verdict(equal.value, 1.0, 0.0, "lower") == "indistinguishable"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(p_values: list[float]) -> None:
    adjusted = statistics.holm(p_values)
    assert all(a >= p or a == 1.0 for a, p in zip(adjusted, p_values, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


@pytest.mark.parametrize(
    ("effect", "p", "floor", "better", "expected"),
    [
        (1.10, 0.01, 0.03, "higher", "faster"),
        (1.10, 0.01, 0.03, "lower", "slower"),
        (0.90, 0.01, 0.03, "higher", "slower"),
        (0.90, 0.01, 0.03, "lower", "faster"),
        (1.10, 0.06, 0.03, "higher", "indistinguishable"),
        (1.02, 0.001, 0.03, "higher", "indistinguishable"),
        (0.98, 0.001, 0.03, "higher", "indistinguishable"),
        (2.00, 0.0, math.inf, "higher", "indistinguishable"),
        (2.00, 0.0, 0.0, "none", "not compared"),
    ],
)
def test_verdicts_need_both_significance_and_size(
    effect: float, p: float, floor: float, better: str, expected: str
) -> None:
    assert statistics.verdict(effect, p, floor, better) == expected  # type: ignore[arg-type]


def test_floors() -> None:
    assert statistics.suite_floor([]) == math.inf
    assert statistics.suite_floor([1.0, 1.0]) == 0.0
    assert statistics.suite_floor([1 / 1.1]) == pytest.approx(0.1)
    assert statistics.case_floor(0.02, 1.05) == pytest.approx(0.05)
    assert statistics.case_floor(0.02, 0.999) == 0.02
    assert statistics.case_floor(0.02, None) == 0.02


def test_drift_is_found_and_noise_is_not_drift() -> None:
    random = np.random.default_rng(5)
    flat = {block: list(100 + random.normal(0, 1, 10)) for block in range(8)}
    rising = {block: list(100 + 2 * np.arange(10) + random.normal(0, 1, 10)) for block in range(8)}
    faint = {block: list(100 + 0.05 * np.arange(10)) for block in range(8)}
    assert statistics.steady(flat) is True
    assert statistics.steady(rising) is False
    assert statistics.steady(faint) is True  # a trend, but under the share that matters
    assert statistics.steady({0: [1.0, 2.0, 3.0]}) is None


def test_slope() -> None:
    assert statistics.slope([1, 2, 3], [10, 20, 30]) == pytest.approx(10)


def test_the_self_test_counts_what_is_planted() -> None:
    random = np.random.default_rng(11)
    labels = {"ref": 1.0, "ref#again": 1.0, **dict.fromkeys(COPIES, 1.0)}
    labels |= {f"{share:.0%} slower": 1 / (1 + share) for share in SLOWDOWNS}
    samples: dict[str, dict[int, list[float]]] = {label: {} for label in labels}
    for block in range(100):
        mood = random.normal(0, 0.2)
        for label, factor in labels.items():
            samples[label][block] = list(
                factor * np.exp(mood + random.normal(0, 0.01) + random.normal(0, 0.01, 5))
            )
    power = count(samples, "ref", 5)
    assert power.groups == 20
    assert power.detected["10% slower"] > 0.9
    assert power.detected["2% slower"] < power.detected["10% slower"]
    assert power.false_alarms <= 0.1
    assert power.effects["5% slower"] == pytest.approx(1.05, abs=0.01)
