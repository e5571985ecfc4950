"""Transactions of a storage, one a turn: what goes into one, and the thread that waits for the device.

**Group commit without a delay.** While a transaction is being committed, turns pile up in the queue; when it
ends, all of them become one transaction. So the slower the device, the larger the transactions.

**Refused together.** A turn that cannot be stored takes those behind it with it: their offsets follow the
ones that were refused. Its owner begins another *generation* once it has heard of that, and numbers anew from
what is stored.

**When the device fails.** No room is a refusal, and the next turn may find some. Any other failure of a
transaction that was to be synced is final for this process: what the kernel could not write it may since
count as written (`portask.storage.syncing`), so that a second success would prove nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import perf_counter_ns

import structlog

from portask.errors import StorageError, StorageFull
from portask.measuring.histogram import Histogram
from portask_variants.storage.database import Work

log = structlog.get_logger("portask.storage")


class Writer:
    """Has works stored, in their order.

    Args:
        write: Stores works in one transaction, or raises `StorageError`.
        notify: Called from the thread when there is something in ``done``.
        synced: Whether ``write`` waits for the device: then a thread does it.

    Attributes:
        done: Works that are over, with what went wrong, in the order in which they came; the owner takes from the left.
        failure: What ended it, or ``None``. Set once.
        times: How long transactions took, ns, if they are synced.
    """

    def __init__(
        self, write: Callable[[Sequence[Work]], None], notify: Callable[[], None], *, synced: bool
    ) -> None:
        self._write = write
        self._notify = notify
        self._synced = synced
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._refused = 0  # the newest generation that is refused
        self._reason: StorageError | None = None
        self.done: deque[tuple[Work, StorageError | None]] = deque()
        self.failure: StorageError | None = None
        self.times = Histogram()

    def put(self, work: Work) -> None:
        """Stores ``work``: at once, or some time soon if that takes a sync."""
        if not self._synced:
            self._store([work])
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="portask-write", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def close(self) -> None:
        """Returns once everything is over. Idempotent."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        queue = self._queue
        work = queue.get()
        while work is not None:
            group = [work]
            alone = bool(work.cuts)
            while True:
                try:
                    work = queue.get_nowait()
                except Empty:
                    self._finish(group)
                    work = queue.get()
                    break
                if work is None or alone or work.cuts:
                    self._finish(group)
                    break
                group.append(work)

    def _finish(self, group: list[Work]) -> None:
        begin = perf_counter_ns()
        if self._store(group):
            self.times.record(perf_counter_ns() - begin)
        try:
            self._notify()
        except Exception:
            log.exception("nobody could be told that a transaction ended")  # the loop may be gone

    def _store(self, group: Sequence[Work]) -> bool:
        """Stores what is not refused; whether there was something to store."""
        failed: StorageError | None = None
        works = [work for work in group if work.changes and (work.cuts or work.generation > self._refused)]
        if works:
            try:
                if self.failure is not None:
                    raise self.failure
                self._write(works)
            except StorageError as error:
                failed = error
            except Exception as error:
                log.exception("a transaction failed on our side")
                failed = StorageError(
                    f"{type(error).__name__} in the storage, a fault of ours: the log says more"
                )
            if failed is not None:
                failed = self._fail(works, failed)
        for work in group:
            stored = failed is None and (work.cuts or work.generation > self._refused)
            self.done.append((work, None if stored else failed or self._reason))
        return bool(works)

    def _fail(self, works: Sequence[Work], error: StorageError) -> StorageError:
        """Refuses what is behind ``works``; returns why."""
        if self._synced and self.failure is None and not isinstance(error, StorageFull):
            log.critical("sync failed", reason=str(error))
            self.failure = StorageError(
                f"{error}; this broker acknowledges nothing more, for the device may have lost what was written; "
                f"what was synced can be read; see to the device, then start the broker again"
            )
        error = self.failure or error
        if not works[0].cuts:
            self._refused, self._reason = works[-1].generation, error
        return error
