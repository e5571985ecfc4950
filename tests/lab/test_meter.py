"""The time of a run: budgets bind, and what is left is shared."""

from __future__ import annotations

import pytest

from portask_lab.meter import MOST, Meter, Progress
from portask_lab.suites import CONFORMANCE_SECONDS, QUICK, REPORT_SECONDS, SUITES

FOUR_MINUTES = 240.0
START_UP = 5.0
"""Seconds for the interpreter, the corpora and the machine's fingerprint."""
CHOSEN = list(SUITES.values())
BUDGETS = [suite.budget(QUICK) for suite in CHOSEN]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_quick_budgets_fit_into_four_minutes_with_everything() -> None:
    budgets = sum(suite.budget(QUICK) for suite in CHOSEN)
    assert CONFORMANCE_SECONDS + budgets + REPORT_SECONDS + START_UP <= FOUR_MINUTES


@pytest.mark.parametrize("slowness", [0.3, 1.0, 2.0, 5.0])
def test_whatever_the_machine_the_suites_end_by_the_deadline(slowness: float) -> None:
    """Each suite takes what it is given, and before that conformance takes so many times its budget."""
    clock = Clock()
    meter = Meter(lambda _: None, BUDGETS, clock)
    clock.now += slowness * CONFORMANCE_SECONDS
    given = []
    for suite in CHOSEN:
        given.append(meter.suite(suite))
        clock.now += given[-1]
    measured = CONFORMANCE_SECONDS + sum(suite.budget(QUICK) for suite in CHOSEN)
    assert clock.now - 100.0 <= measured + 1e-6
    shares = [seconds / suite.budget(QUICK) for seconds, suite in zip(given, CHOSEN, strict=True)]
    assert max(shares) - min(shares) < 1e-6, "all shrink alike"


def test_what_one_suite_leaves_goes_to_the_next_and_what_one_overruns_is_taken_from_them() -> None:
    clock = Clock()
    meter = Meter(lambda _: None, BUDGETS, clock)
    clock.now += CONFORMANCE_SECONDS
    assert meter.suite(CHOSEN[0]) == pytest.approx(CHOSEN[0].budget(QUICK))
    clock.now += 1.0
    more = meter.suite(CHOSEN[1]) / CHOSEN[1].budget(QUICK)
    assert 1.0 < more <= MOST
    clock.now += 100.0
    assert meter.suite(CHOSEN[2]) < CHOSEN[2].budget(QUICK)
    clock.now += 1000.0
    assert meter.suite(CHOSEN[3]) == 0.0


def test_the_time_left_only_falls_and_ends_at_nothing() -> None:
    clock = Clock()
    seen: list[Progress] = []
    meter = Meter(seen.append, BUDGETS, clock)
    meter.stage("conformance")
    for suite in CHOSEN:
        seconds = meter.suite(suite)
        for share in (0.0, 0.5, 1.0):
            clock.now += seconds / 4  # a little less than it may
            meter.within(suite.name, share)
    meter.reporting("verdicts")
    assert seen[-1].left == REPORT_SECONDS
    meter.finish()
    shares = [each.done for each in seen]
    assert shares == sorted(shares)
    assert seen[-1] == Progress("done", 1.0, 0.0)
