"""Workers against a plain queue, and what happens to threads, results and callbacks that go wrong."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask import registry
from portask.errors import WorkersFull
from portask.reference.workers import InlineWorkers
from portask_variants.workers.threads import ThreadWorkers

BOTH: list[type[Any]] = [InlineWorkers, ThreadWorkers]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def wait_for(workers: Any, count: int) -> None:
    polled = 0
    end = time.monotonic() + 20
    while polled < count:
        polled += workers.poll()
        assert time.monotonic() < end
        time.sleep(0.0005)


def test_both_are_registered() -> None:
    assert [registry.get("workers", name).load() for name in ("inline", "threads")] == BOTH


@pytest.mark.parametrize("kind", BOTH)
@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 5), actions=st.lists(st.sampled_from(["submit", "fail", "poll"]), max_size=30))
def test_any_order_of_calls(kind: type[Any], limit: int, actions: list[str]) -> None:
    workers = kind(limit=limit)
    flight: deque[tuple[int, bool]] = deque()
    got: list[tuple[int, bool]] = []

    def step(number: int, fails: bool) -> int:
        if fails:
            raise LookupError(number)
        return number

    def done(result: Any, error: BaseException | None) -> None:
        got.append((result, False) if error is None else (error.args[0], True))

    def poll() -> None:
        before = len(got)
        assert workers.poll() == len(got) - before
        for outcome in got[before:]:
            assert outcome == flight.popleft()

    try:
        for number, action in enumerate(actions):
            if action == "poll":
                poll()
                continue
            item = (number, action == "fail")
            if len(flight) == limit:
                with pytest.raises(WorkersFull, match="in flight"):
                    workers.submit(partial(step, *item), done)
            else:
                workers.submit(partial(step, *item), done)
                flight.append(item)
        workers.close()
        poll()
        assert not flight
    finally:
        workers.close()


@pytest.mark.parametrize("kind", BOTH)
def test_a_limit_below_one_is_refused(kind: type[Any]) -> None:
    with pytest.raises(ValueError, match="limit"):
        kind(limit=0)


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="threads"):
        ThreadWorkers(threads=-1)


@pytest.mark.parametrize("kind", BOTH)
def test_a_callback_that_raises_has_the_rest_notified(kind: type[Any]) -> None:
    told: list[str] = []
    results: list[Any] = []
    workers = kind(notify=lambda: told.append("notified"))

    def bad(result: Any, error: BaseException | None) -> None:
        results.append(result)
        raise KeyError(result)

    for number in range(3):
        workers.submit(
            partial(int, number), bad if number == 0 else lambda result, error: results.append(result)
        )
    workers.close()
    told.clear()
    with pytest.raises(KeyError):
        workers.poll()
    assert told == ["notified"]
    assert workers.poll() == 2
    assert results == [0, 1, 2]


@pytest.mark.parametrize("kind", BOTH)
def test_a_callback_may_poll(kind: type[Any]) -> None:
    workers = kind()
    results: list[Any] = []

    def nested(result: Any, error: BaseException | None) -> None:
        results.append(result)
        workers.poll()

    for number in range(5):
        workers.submit(partial(int, number), nested)
    workers.close()
    workers.poll()
    assert results == [0, 1, 2, 3, 4]


def test_steps_run_beside_each_other() -> None:
    workers = ThreadWorkers(threads=2)
    meet = threading.Barrier(2, timeout=20)
    places: list[Any] = []
    for _ in range(2):
        workers.submit(meet.wait, lambda result, error: places.append(result))
    wait_for(workers, 2)
    workers.close()
    assert sorted(places) == [0, 1]


def test_a_notify_that_raises_is_reported_and_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def gone() -> None:
        raise RuntimeError("the loop is closed")

    workers = ThreadWorkers(threads=1, notify=gone)
    results: list[Any] = []
    for number in range(3):
        workers.submit(partial(int, number), lambda result, error: results.append(result))
    workers.close()
    assert workers.poll() == 3
    assert results == [0, 1, 2]
    assert [str(report.exc_value) for report in reported] == ["the loop is closed"] * 3


def test_close_ends_the_threads() -> None:
    before = threading.active_count()
    workers = ThreadWorkers(threads=3)
    assert threading.active_count() == before + 3
    workers.close()
    assert threading.active_count() == before
    with pytest.raises(WorkersFull, match="closed"):
        workers.submit(int, lambda result, error: None)


def test_dropping_the_workers_ends_the_threads() -> None:
    workers = ThreadWorkers(threads=2)
    threads = list(workers._threads)
    del workers
    gc.collect()
    until(lambda: not any(thread.is_alive() for thread in threads))


def test_results_are_not_kept() -> None:
    class Big:
        pass

    workers = ThreadWorkers(threads=1)
    seen: list[weakref.ref[Big]] = []
    workers.submit(Big, lambda result, error: seen.append(weakref.ref(result)))
    wait_for(workers, 1)
    until(lambda: seen[0]() is None)
    workers.close()


def test_an_interrupt_is_for_the_program() -> None:
    workers = InlineWorkers()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.submit(interrupted, lambda result, error: None)
    assert workers.poll() == 0


def test_inline_runs_on_the_thread_that_submits() -> None:
    workers = InlineWorkers()
    places: list[Any] = []
    workers.submit(threading.get_ident, lambda result, error: places.append(result))
    assert workers.poll() == 1
    assert places == [threading.get_ident()]
