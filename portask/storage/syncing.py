"""One thread that waits for the device, so that the broker's thread never does.

**Self-clocking group commit.** While a sync runs, appends pile up in the queue; when it ends, the thread takes
everything that waits and syncs it with one call for all. So the slower the device, the larger the groups, without any
delay or setting; and an append that comes alone is synced at once.

**A failed sync is final.** The kernel may report the error once and then count the lost pages as clean, so a second
sync that succeeds would prove nothing. After a failure nothing is acknowledged any more in this process: whatever waits
or comes later gets the error. What was synced before can be read.

The same thread does what must happen some time, in order, and may block: sync a folder, vouch for a sealed segment,
remove files. Steps and syncs are done in the order in which they were given, so an append to a new file is
acknowledged after the folder was synced.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import perf_counter_ns
from typing import Any

import structlog

from portask.errors import StorageError
from portask.measuring.histogram import Histogram
from portask.storage.files import Files

log = structlog.get_logger("portask.storage")

_SLOWLY = 8
_FORGET = 0.99

Step = Callable[[], None]


class Wait:
    """Something that was written and is to be synced.

    Attributes:
        fd: The file; open until `Syncer.take` gives this back. -1 for nothing but the place in line.
        subject: The caller's own.
        error: Why it is not durable, once it is given back.
    """

    __slots__ = ("error", "fd", "subject")

    def __init__(self, fd: int, subject: Any) -> None:
        self.fd = fd
        self.subject = subject
        self.error: StorageError | None = None


class Syncer:
    """The syncing thread; it starts with the first thing to do.

    Args:
        files: The file layer.
        root: Descriptor of the log's folder; the caller closes it.
        notify: Called from the thread when `take` has something.

    Attributes:
        failure: What ended it, or ``None``. Set once.
        times: How long syncs took, ns; one of several files counts once.
    """

    def __init__(self, files: Files, root: int, notify: Callable[[], None]) -> None:
        self._files = files
        self._root = root
        self._notify = notify
        self._queue: SimpleQueue[Wait | Step | None] = SimpleQueue()
        self._done: deque[Wait] = deque()
        self._thread: threading.Thread | None = None
        self.failure: StorageError | None = None
        self.times = Histogram()
        self._each = self._all = 200_000.0  # ns, smoothed

    def sync(self, wait: Wait) -> None:
        """Syncs the file some time soon."""
        self._start()
        self._queue.put(wait)

    def later(self, step: Step) -> None:
        """Runs ``step`` on the thread. An `OSError` of it is final, as a failed sync is."""
        self._start()
        self._queue.put(step)

    def take(self) -> deque[Wait]:
        """What was synced, or failed, in the order in which it was given: the caller pops from the left."""
        return self._done

    def fail(self, error: OSError, what: str) -> None:
        """Ends it: nothing is durable any more."""
        if self.failure is None:
            self.failure = StorageError(
                f"{what} could not be synced ({error.strerror or error}): this broker acknowledges nothing more, for "
                f"the device may have lost what was written; what was synced can be read; see to the device, then "
                f"start the broker again"
            )
            log.critical("sync failed", what=what, reason=str(error))

    def settle(self) -> None:
        """Returns once everything that was given is done."""
        if self._thread is not None:
            settled = threading.Event()
            self._queue.put(settled.set)
            settled.wait()

    def close(self) -> None:
        """Ends the thread after what it was given. Idempotent."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="portask-sync", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        queue = self._queue
        item = queue.get()
        while item is not None:
            group: list[Wait] = []
            while True:
                if isinstance(item, Wait):
                    group.append(item)
                elif item is None:
                    break
                else:
                    self._finish(group)
                    group = []
                    self._step(item)
                try:
                    item = queue.get_nowait()
                except Empty:
                    break
            self._finish(group)
            if item is not None:
                item = queue.get()

    def _step(self, step: Step) -> None:
        try:
            step()
        except OSError as error:
            self.fail(error, str(error.filename or "the log"))
        except Exception:
            log.exception("the syncing thread failed on our side")
            self.fail(OSError("a fault of ours; the log says more"), "the log")

    def _sync(self, fds: list[int]) -> None:
        """Syncs files one by one or all at once, whichever was cheaper lately.

        One call for all costs one commit of the journal, but also waits for what other programs wrote.
        """
        count = len(fds)
        together = count > 1 and self._files.syncs_all and self._all < self._each * count
        begin = perf_counter_ns()
        if together:
            self._files.sync_all(fds, self._root)
            self._all += (perf_counter_ns() - begin - self._all) / _SLOWLY
        else:
            for fd in fds:
                self._files.sync(fd)
            self._each += ((perf_counter_ns() - begin) / count - self._each) / _SLOWLY
            self._all *= _FORGET  # so that it is tried again some time

    def _finish(self, group: list[Wait]) -> None:
        """Syncs a group: each file once, or all of them with one call."""
        if not group:
            return
        fds = list(dict.fromkeys(wait.fd for wait in group if wait.fd >= 0))
        if fds and self.failure is None:
            begin = perf_counter_ns()
            try:
                self._sync(fds)
            except OSError as error:
                self.fail(error, "the log")
            self.times.record(perf_counter_ns() - begin)
        for wait in group:
            wait.error = self.failure
        self._done.extend(group)
        try:
            self._notify()
        except Exception:
            log.exception("nobody could be told that a sync ended")  # the loop may be gone
