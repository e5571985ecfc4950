"""What all workers must do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from portask.contracts import Workers
from portask.errors import WorkersFull
from portask.registry import Entry
from portask_lab.conformance.suite import Check, Violation, check, require

SUITE: list[Check] = []

_PATIENCE = 20.0
"""Seconds after which a step that never comes back is a violation."""


class _Log:
    """Collects what ``done`` is called with, and on which thread."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[BaseException | None] = []
        self.threads: set[int] = set()

    def done(self, result: Any, error: BaseException | None) -> None:
        self.results.append(result)
        self.errors.append(error)
        self.threads.add(threading.get_ident())


@contextmanager
def _made(entry: Entry, **options: Any) -> Iterator[Workers]:
    workers = entry.make(**options)
    try:
        yield workers
    finally:
        workers.close()


@check(SUITE)
def results_come_in_poll(entry: Entry) -> None:
    """Each done is called inside poll, on the polling thread, with the result; poll counts the calls."""
    log = _Log()
    with _made(entry) as workers:
        require(isinstance(workers, Workers), f"{type(workers).__name__} is no Workers: a method is missing")
        require(workers.poll() == 0, "a poll before any submit found something")
        for number in range(20):
            workers.submit(partial(pow, number, 2), log.done)
        require(not log.results, "done was called before poll")
        _poll(workers, 20)
        require(workers.poll() == 0, "a result was counted twice")
    require(log.results == [n * n for n in range(20)], f"the results are {log.results}")
    require(log.errors == [None] * 20, f"steps that went well had errors: {log.errors}")
    require(log.threads == {threading.get_ident()}, "done ran on another thread than poll")


@check(SUITE)
def results_come_in_order(entry: Entry) -> None:
    """Results come in the order of submission, also when the first steps take longest."""
    log = _Log()
    with _made(entry) as workers:
        for number in range(8):
            workers.submit(partial(_slowly, 0.002 * (8 - number), number), log.done)
        _poll(workers, 8)
    require(log.results == list(range(8)), f"submitted 0 to 7, and they came as {log.results}")


@check(SUITE)
def errors_are_delivered(entry: Entry) -> None:
    """What a step raises reaches its own done as the error, and the steps around it are not touched."""
    log = _Log()
    mistake = ZeroDivisionError("planted")

    def fail(error: BaseException) -> None:
        raise error

    with _made(entry) as workers:
        leave = SystemExit(3)
        steps: list[Callable[[], Any]] = [lambda: 1, lambda: fail(mistake), lambda: fail(leave), lambda: 4]
        for step in steps:
            workers.submit(step, log.done)
        _poll(workers, 4)
    require(log.results == [1, None, None, 4], f"the results are {log.results}")
    require(log.errors == [None, mistake, leave, None], f"the errors are {log.errors}")


@check(SUITE)
def the_limit_pushes_back(entry: Entry) -> None:
    """At limit submit raises WorkersFull and queues nothing; after a poll there is room again."""
    log = _Log()
    with _made(entry, limit=3) as workers:
        for number in range(3):
            workers.submit(partial(int, number), log.done)
        _refused(workers, "the fourth of three")
        _poll(workers, 3)
        workers.submit(lambda: 3, log.done)
        _poll(workers, 1)
    require(
        log.results == [0, 1, 2, 3], f"the results are {log.results}: a refused step ran, or one was lost"
    )


@check(SUITE)
def a_raising_callback_loses_nothing(entry: Entry) -> None:
    """An exception of one done comes out of poll, and the other results still arrive, each once."""
    log = _Log()

    def bad(result: Any, error: BaseException | None) -> None:
        log.done(result, error)
        raise KeyError("planted")

    with _made(entry) as workers:
        for number in range(6):
            workers.submit(partial(int, number), bad if number in {1, 4} else log.done)
        raised = 0
        for _ in _patiently("results behind a callback that raised"):
            try:
                workers.poll()
            except KeyError:
                raised += 1
            if len(log.results) == 6:
                break
    require(raised == 2, f"two callbacks raised, {raised} came out of poll")
    require(log.results == list(range(6)), f"the results are {log.results}")


@check(SUITE)
def callbacks_may_submit(entry: Entry) -> None:
    """A step that a callback submits has its result delivered by a later poll, within the same limit."""
    log = _Log()
    with _made(entry, limit=1) as workers:

        def again(result: Any, error: BaseException | None) -> None:
            log.done(result, error)
            if result < 3:
                workers.submit(lambda: result + 1, again)

        workers.submit(lambda: 0, again)
        for turn in range(4):
            require(len(log.results) == turn, f"before poll {turn + 1}: {log.results}")
            _poll(workers, 1)
    require(log.results == [0, 1, 2, 3], f"the results are {log.results}")


@check(SUITE)
def finished_steps_notify(entry: Entry) -> None:
    """The notify is called for results that wait, soon after the step and without a poll."""
    told = threading.Event()
    log = _Log()
    with _made(entry, notify=told.set) as workers:
        for _ in range(3):
            told.clear()
            workers.submit(lambda: None, log.done)
            require(told.wait(_PATIENCE), f"a step was submitted and notify not called within {_PATIENCE} s")
            _poll(workers, 1)


@check(SUITE)
def poll_does_not_wait(entry: Entry) -> None:
    """A poll returns while a step is still running."""
    go_on = threading.Event()
    log = _Log()
    ended = threading.Event()

    def step() -> bool:
        try:
            return go_on.wait(0.2)
        finally:
            ended.set()

    with _made(entry) as workers:
        workers.submit(step, log.done)
        inline = ended.is_set()  # it ran inside submit, where nobody could tell it to go on
        early = workers.poll()
        go_on.set()
        if not early:
            _poll(workers, 1)
    require(log.results == [not inline], "poll waited for the running step")


@check(SUITE)
def close_finishes_what_is_in_flight(entry: Entry) -> None:
    """A close waits for steps in flight; their results can be polled, new steps are refused; twice is once."""
    log = _Log()
    ran: list[int] = []
    with _made(entry) as workers:
        for number in range(5):
            workers.submit(partial(_slowly, 0.005, number, ran), log.done)
        workers.close()
        require(sorted(ran) == list(range(5)), f"close returned when only {sorted(ran)} of 5 steps had run")
        require(not log.results, "done was called outside of poll")
        workers.close()
        _refused(workers, "a step after close")
        require(workers.poll() == 5, "not every result could be polled after close")
    require(log.results == list(range(5)), f"the results are {log.results}")


def _slowly(seconds: float, value: int, ran: list[int] | None = None) -> int:
    time.sleep(seconds)
    if ran is not None:
        ran.append(value)
    return value


def _refused(workers: Workers, what: str) -> None:
    try:
        workers.submit(lambda: None, lambda _result, _error: None)
    except WorkersFull:
        return
    raise Violation(f"{what} was taken, where WorkersFull was due")


def _poll(workers: Workers, count: int) -> None:
    """Polls until ``count`` callbacks were called, and no more."""
    polled = 0
    for _ in _patiently(f"{count} results"):
        polled += workers.poll()
        if polled >= count:
            break
    require(polled == count, f"{count} results were due, poll counted {polled}")


def _patiently(what: str) -> Iterator[None]:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.0005)
    raise Violation(f"{what}: not there within {_PATIENCE} s")
