"""`native-threads`: the workers of the compiled part, ended before the interpreter is."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from weakref import WeakSet

from portask.reference.workers import ignore
from portask_native._native import ThreadWorkers

_alive: WeakSet[ThreadWorkers] = WeakSet()


def thread_workers(limit: int = 64, threads: int = 0, notify: Callable[[], None] = ignore) -> ThreadWorkers:
    """Runs steps on threads of Rust; see `ThreadWorkers`, whose arguments these are.

    A program that forgets to close them ends all the same, once the steps in flight are done.
    """
    workers = ThreadWorkers(limit, threads, None if notify is ignore else notify)
    _alive.add(workers)
    return workers


@atexit.register
def _close_all() -> None:
    # A thread that asks for the lock of an interpreter that has ended would end the process with an error.
    for workers in list(_alive):
        workers.close()
    ThreadWorkers.join_dropped()
