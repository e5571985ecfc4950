"""The time of a run: who may take how much, and how much is left.

Budgets bind. A run has a deadline, the sum of what its parts are given, and a suite that begins is given its share of
what is left until then: on a slow machine all that follow shrink alike, and on a quick one the time that earlier suites
did not need goes to later ones, and at the end to those that lack a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from portask_lab.suites import CONFORMANCE_SECONDS, REPORT_SECONDS, Suite

MOST = 1.5
"""How many times its budget a suite may be given, when others left some of theirs."""


class Progress(msgspec.Struct, frozen=True):
    """What goes on.

    Attributes:
        text: In words, e.g. ``rings: block 3, ring/deque``.
        done: Share of the expected time, 0 to 1.
        left: Expected seconds left.
    """

    text: str
    done: float
    left: float


Watch = Callable[[Progress], None]


class Meter:
    """Gives out the time until the deadline, and tells what is left of it.

    Args:
        watch: Told.
        budgets: Seconds of the suites, in the order in which they will run.
        clock: Seconds; tests give another.
    """

    def __init__(
        self,
        watch: Watch,
        budgets: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._budgets = list(budgets)
        self._total = CONFORMANCE_SECONDS + sum(self._budgets) + REPORT_SECONDS
        self._deadline = clock() + self._total - REPORT_SECONDS
        self._stage = CONFORMANCE_SECONDS
        self._done = 0.0

    def stage(self, text: str) -> None:
        """Something begins that is no suite."""
        self.within(text, 0.0)

    def suite(self, suite: Suite) -> float:
        """A suite begins; returns the seconds that it may take, 0 when none are left."""
        left = max(0.0, self._deadline - self._clock())
        budget, whole = self._budgets[0], sum(self._budgets)
        self._budgets.pop(0)
        self._stage = budget * min(MOST, left / whole) if whole else 0.0
        self.within(suite.name, 0.0)
        return self._stage

    def again(self, suite: Suite) -> float:
        """All have had their turn, and a suite takes what is left; returns the seconds."""
        self._stage = max(0.0, self._deadline - self._clock())
        self.within(suite.name, 0.0)
        return self._stage

    def reporting(self, text: str) -> None:
        """All suites are over."""
        self._budgets.clear()
        self._stage = 0.0
        self.within(text, 0.0)

    def within(self, text: str, share: float) -> None:
        """How far the stage is."""
        most = self._stage * (1 - share) + MOST * sum(self._budgets)
        left = max(0.0, min(self._deadline - self._clock(), most)) + REPORT_SECONDS
        self._done = max(self._done, 1 - left / self._total)
        self._watch(Progress(text, self._done, left))

    def finish(self) -> None:
        """All done."""
        self._watch(Progress("done", 1.0, 0.0))
