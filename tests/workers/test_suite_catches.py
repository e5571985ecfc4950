"""The conformance suite of workers is worth something: broken ones fail, and every check fails for one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from portask.errors import WorkersFull
from portask.reference.workers import Done, InlineWorkers
from portask.registry import Entry
from portask_lab.conformance import checks, conform
from portask_variants.workers.threads import ThreadWorkers


class CallsAtOnce(InlineWorkers):
    def submit(self, step: Callable[[], Any], done: Done) -> None:
        super().submit(step, done)
        self.poll()


class FirstFinishedFirst(ThreadWorkers):
    def poll(self) -> int:
        self._flight = deque(sorted(self._flight, key=lambda job: not job.finished))
        return super().poll()


class SwallowsErrors(InlineWorkers):
    def submit(self, step: Callable[[], Any], done: Done) -> None:
        super().submit(step, lambda result, error: done(result, None))


class TakesMore(InlineWorkers):
    def __init__(self, limit: int = 64, **options: Any) -> None:
        super().__init__(limit + 1, **options)


class LosesWhatIsBehind(InlineWorkers):
    def poll(self) -> int:
        try:
            return super().poll()
        except KeyError:
            self._finished.clear()
            raise


class PollsUntilEmpty(InlineWorkers):
    def poll(self) -> int:
        count = super().poll()
        return count + self.poll() if count else 0


class NeverTells(InlineWorkers):
    def __init__(self, limit: int = 64, notify: Callable[[], None] | None = None) -> None:
        super().__init__(limit)


class WaitsInPoll(ThreadWorkers):
    def poll(self) -> int:
        while self._flight and not self._flight[-1].finished:
            pass
        return super().poll()


class ClosesAtOnce(ThreadWorkers):
    def __init__(self, limit: int = 64, notify: Callable[[], None] = lambda: None) -> None:
        super().__init__(limit, 1, notify)

    def close(self) -> None:
        self._stop()


class TakesAfterClose(InlineWorkers):
    def close(self) -> None:
        if not self._finished:
            raise WorkersFull("planted: closing twice is an error here")


BROKEN: list[tuple[type[Any], str]] = [
    (CallsAtOnce, "results_come_in_poll"),
    (FirstFinishedFirst, "results_come_in_order"),
    (SwallowsErrors, "errors_are_delivered"),
    (TakesMore, "the_limit_pushes_back"),
    (LosesWhatIsBehind, "a_raising_callback_loses_nothing"),
    (PollsUntilEmpty, "callbacks_may_submit"),
    (NeverTells, "finished_steps_notify"),
    (WaitsInPoll, "poll_does_not_wait"),
    (ClosesAtOnce, "close_finishes_what_is_in_flight"),
    (TakesAfterClose, "close_finishes_what_is_in_flight"),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken variant never does need not be awaited for long."""
    monkeypatch.setattr("portask_lab.conformance.workers._PATIENCE", 0.3)


def test_every_check_has_workers_that_fail_it() -> None:
    assert {expected for _, expected in BROKEN} == {item.name for item in checks("workers")}


@pytest.mark.parametrize(("kind", "expected"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_workers_fail(kind: type[Any], expected: str) -> None:
    entry = Entry("workers", "broken", f"{__name__}:{kind.__name__}", "broken")
    failed = {outcome.check: outcome.detail for outcome in conform(entry) if outcome.status == "failed"}
    assert expected in failed, failed
