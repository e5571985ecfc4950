"""An event loop in a thread of its own: what `portask.sync` runs on.

Calls that wait go over one by one. Publishes that nobody waits for go over in bunches: the caller appends to
a queue, and one task on the loop empties it, woken once a bunch and not once a message. The queue is bounded:
callers that are faster than the loop wait, and while the client's buffer is full the task waits and with it,
in time, the callers.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, NamedTuple, TypeVar

from portask.client.pending import Pending
from portask.client.producer import Producer
from portask.client.results import Receipt
from portask.errors import BufferExhausted, NotConnected, PortaskError
from portask.messages import Message

T = TypeVar("T")
_KEPT = 100_000  # failed publishes that are remembered until somebody looks
_PAUSE = 0.0002  # seconds
_QUEUED = 10_000  # messages between the caller's thread and the loop's


class _Handed(NamedTuple):
    """A message on its way to the loop's thread; ``producer()`` must be called there."""

    producer: Callable[[], Producer]
    message: Message
    partition: int | None
    future: Future[Receipt]


class LoopThread:
    """Starts when made; `stop` ends it. All methods may be called from any thread but its own."""

    def __init__(self) -> None:
        self.outstanding: dict[Future[Receipt], None] = {}
        """Of publishes that nobody waited for: under way, or failed and not looked at."""
        self._queue: deque[_Handed | Future[None]] = deque()  # a future marks how far a flush must come
        self._room = threading.BoundedSemaphore(_QUEUED)
        self._lock = threading.Lock()
        self._emptying = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="portask-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _check(self) -> None:
        if not self._thread.is_alive():
            raise NotConnected("the client is closed")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call on the client's own thread would wait for itself")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` there and waits; if the waiting is interrupted, cancels it.

        Raises:
            NotConnected: the thread has ended, or ends meanwhile.
        """
        try:
            self._check()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    def publish(
        self, producer: Callable[[], Producer], message: Message, partition: int | None
    ) -> Future[Receipt]:
        """Hands a message over. Waits only when too many are on the way already."""
        self._check()
        while not self._room.acquire(timeout=1):
            self._check()
        future: Future[Receipt] = Future()
        self.outstanding[future] = None
        future.add_done_callback(self._published)
        self._hand_over(_Handed(producer, message, partition, future))
        return future

    def _hand_over(self, item: _Handed | Future[None]) -> None:
        with self._lock:
            self._queue.append(item)
            wake = not self._emptying
            self._emptying = True
        if wake:
            asyncio.run_coroutine_threadsafe(self._empty(), self._loop)

    async def _empty(self) -> None:
        while True:
            if not self._queue:
                # Callers in full flow are found again without having to wake this thread: a system call saved.
                await asyncio.sleep(_PAUSE)
            with self._lock:
                if not self._queue:
                    self._emptying = False
                    return
                handed = self._queue.popleft()
            if isinstance(handed, Future):
                handed.set_result(None)
                continue
            self._room.release()
            try:
                await self._put(handed)
            except asyncio.CancelledError:
                handed.future.set_exception(_closed())
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, whoever holds the future must learn it
                handed.future.set_exception(error)

    async def _put(self, handed: _Handed) -> None:
        producer, future = handed.producer(), handed.future
        try:
            pending = producer.put_nowait(handed.message, handed.partition)
        except BufferExhausted:
            future.set_result(await producer.put(handed.message, handed.partition))
        else:
            pending.add_done_callback(lambda done: _settle(future, done))

    def _published(self, future: Future[Receipt]) -> None:
        if future.exception() is None or len(self.outstanding) > _KEPT:
            self.outstanding.pop(future, None)

    def flush(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Waits for all publishes so far, runs a flush, and raises the first failure that nobody looked at."""
        self._check()
        waited = list(self.outstanding)
        mark: Future[None] = Future()
        self._hand_over(mark)
        try:
            mark.result()
            self.run(work())
        finally:
            wait(waited, timeout=None if self._thread.is_alive() else 0)
        failed = [future for future in waited if future in self.outstanding]
        for future in failed:
            self.outstanding.pop(future, None)
        for future in failed:
            error = future.exception()
            if error is not None:
                raise error

    def stop(self) -> None:
        """Ends the loop and joins the thread. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        while self._queue:
            item = self._queue.popleft()
            (item if isinstance(item, Future) else item.future).set_exception(_closed())


def _closed() -> NotConnected:
    return NotConnected("the client was closed meanwhile")


def _settle(future: Future[Receipt], done: Pending) -> None:
    error: PortaskError | None = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(error)
