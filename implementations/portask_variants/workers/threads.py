"""Workers on a few threads: for steps that release the interpreter lock.

Such are compression, checksums, file access and waiting. One queue feeds all threads; it is bounded by the
count of jobs in flight. A job holds its own result, and the jobs in flight also stand in a deque in the
order of their submission, which only the polling thread touches: results come out in order without a lock
of ours, and a slow step holds back those behind it. A thread writes ``finished`` last.

A thread that has waited for the interpreter may starve beside a loop that never sleeps: each time the loop asks the
kernel something it gives the interpreter up and takes it again before the thread has woken, and the thread's wait of
``sys.getswitchinterval()`` begins anew. So `poll` stands still for a moment, now and then, while steps are due.

``concurrent.futures`` pays a future, its condition and two locks for each step: for an empty step several
times the CPU, on the polling thread too.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any

from portask.errors import WorkersFull
from portask.reference.workers import Done, ignore

_PATIENCE = 0.008
"""Seconds without a result after which the polling thread lets others have the interpreter."""
_PAUSE = 50e-6
"""Seconds: about what a thread needs to wake up."""


class _Job:
    __slots__ = ("done", "error", "finished", "result", "step")

    def __init__(self, step: Callable[[], Any], done: Done) -> None:
        self.step = step
        self.done = done
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False


_Jobs = SimpleQueue[_Job | None]


class ThreadWorkers:
    """Runs steps on ``threads`` threads, ``limit`` of them in flight at most; `Workers`.

    The threads are daemons: a program that forgets to `close` still ends. They end with the object at the
    latest.

    Args:
        limit: Steps submitted and not yet polled.
        threads: How many run at once; 0 for one a core, four at most.
        notify: Called by the thread that finished a step. What it raises goes to `threading.excepthook`.
    """

    def __init__(self, limit: int = 64, threads: int = 0, notify: Callable[[], None] = ignore) -> None:
        if limit < 1 or threads < 0:
            raise ValueError(f"workers need a limit ({limit}) of 1 or more and 0 or more threads ({threads})")
        self._limit = limit
        self._notify = notify
        self._flight: deque[_Job] = deque()
        self._moved = monotonic()  # when something came back, or is given time to
        self._queue: _Jobs = SimpleQueue()
        self._threads = [
            threading.Thread(
                target=_work, args=(self._queue, notify), name=f"portask-worker-{number}", daemon=True
            )
            for number in range(threads or min(4, os.cpu_count() or 1))
        ]
        for thread in self._threads:
            thread.start()
        # The threads hold the queue, not this object, so that dropping it ends them.
        self._stop = weakref.finalize(self, _stop, self._queue, len(self._threads))

    def submit(self, step: Callable[[], Any], done: Done) -> None:
        """Queues ``step`` for the next free thread. See `Workers.submit`.

        Raises:
            WorkersFull: ``limit`` steps are in flight, or the workers are closed.
        """
        if not self._stop.alive:
            raise WorkersFull("the workers are closed: they take no more steps")
        if len(self._flight) >= self._limit:
            raise WorkersFull(f"{self._limit} steps are in flight: poll and try again, or raise the limit")
        job = _Job(step, done)
        if not self._flight:
            self._moved = monotonic()
        self._flight.append(job)
        self._queue.put(job)

    def poll(self) -> int:
        """Calls ``done`` for every finished step that no unfinished one precedes. See `Workers.poll`.

        A ``done`` that raises ends `poll`. The results behind it stay, and ``notify`` is called for them.
        """
        flight = self._flight
        count = 0
        for _ in range(len(flight)):  # what a callback submits is for the next poll
            if not flight or not flight[0].finished:
                break
            job = flight.popleft()
            try:
                job.done(job.result, job.error)
            except BaseException:
                self._notify()
                raise
            count += 1
        if count:
            self._moved = monotonic()
        elif flight and monotonic() - self._moved > _PATIENCE:
            sleep(_PAUSE)
            self._moved = monotonic()
        return count

    def close(self) -> None:
        """Waits for the steps in flight; their results can still be polled."""
        self._stop()
        for thread in self._threads:
            thread.join()


def _stop(queue: _Jobs, threads: int) -> None:
    for _ in range(threads):
        queue.put(None)


def _work(queue: _Jobs, notify: Callable[[], None]) -> None:
    while (job := queue.get()) is not None:
        try:
            job.result = job.step()
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its result
            job.error = error
        job.finished = True
        del job  # an idle thread must not keep a result alive
        try:
            notify()
        except Exception:  # noqa: BLE001 - the loop may be gone; the result is safe and the thread goes on
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
