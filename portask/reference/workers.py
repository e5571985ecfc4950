"""The reference workers: each step runs at once, on the thread that submits it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from portask.errors import WorkersFull

Done = Callable[[Any, BaseException | None], None]


def ignore() -> None:
    """The ``notify`` of who polls anyway."""


class InlineWorkers:
    """Runs each step inside `submit`; `Workers`. The caller stands still for as long as a step takes.

    Args:
        limit: Results that may wait for a `poll`.
        notify: Called inside `submit`, when the result waits.
    """

    def __init__(self, limit: int = 64, notify: Callable[[], None] = ignore) -> None:
        if limit < 1:
            raise ValueError(f"workers need a limit of at least 1 step in flight, not {limit}")
        self._limit = limit
        self._notify = notify
        self._finished: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._closed = False

    def submit(self, step: Callable[[], Any], done: Done) -> None:
        """Runs ``step`` now. See `Workers.submit`.

        Raises:
            WorkersFull: ``limit`` results wait to be polled, or the workers are closed.
            KeyboardInterrupt: it came while the step ran; ``done`` is not called.
        """
        if self._closed:
            raise WorkersFull("the workers are closed: they take no more steps")
        if len(self._finished) >= self._limit:
            raise WorkersFull(f"{self._limit} steps are in flight: poll and try again, or raise the limit")
        try:
            finished = (done, step(), None)
        except KeyboardInterrupt:
            raise  # meant for the program, not for the step
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its result
            self._finished.append((done, None, error))
        else:
            self._finished.append(finished)
        self._notify()

    def poll(self) -> int:
        """Calls ``done`` for every result that waits. See `Workers.poll`.

        A ``done`` that raises ends `poll`. The results behind it stay, and ``notify`` is called for them.
        """
        count = 0
        for _ in range(len(self._finished)):  # what a callback submits is for the next poll
            if not self._finished:
                break  # a callback polled
            done, result, error = self._finished.popleft()
            try:
                done(result, error)
            except BaseException:
                self._notify()
                raise
            count += 1
        return count

    def close(self) -> None:
        """Refuses new steps."""
        self._closed = True
