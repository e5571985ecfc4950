"""How many bytes may wait to be sent or acknowledged: the client's one bound on its own memory for publishing."""

from __future__ import annotations

import asyncio
from collections import deque

from portask.errors import BufferExhausted


class Budget:
    """Counts bytes taken and given back. Waiters are served in order; single-threaded.

    Attributes:
        limit: Bytes that may be taken at a time.
        used: Bytes taken now.
    """

    __slots__ = ("_waiters", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> None:
        """Takes ``size`` bytes at once.

        Raises:
            BufferExhausted: there is no room for them now, or there can never be.
        """
        if self.used + size > self.limit or self._waiters:
            self._refuse(size)
        self.used += size

    def _refuse(self, size: int) -> None:
        if size > self.limit:
            raise BufferExhausted(
                f"{size:,} bytes can never fit in buffer_bytes={self.limit:,}: raise it or send less at once"
            )
        raise BufferExhausted(
            f"{self.used:,} bytes wait to be sent or acknowledged, and {size:,} more would pass "
            f"buffer_bytes={self.limit:,}: await publish() instead, or wait for earlier ones"
        )

    async def wait(self, size: int, seconds: float) -> None:
        """Takes ``size`` bytes as soon as there is room.

        Raises:
            BufferExhausted: there was none for ``seconds``, or there can never be.
        """
        if self.used + size <= self.limit and not self._waiters:
            self.used += size
            return
        if size > self.limit:
            self._refuse(size)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((size, waiter))
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give(size)  # it was granted in the very moment of giving up
            elif (size, waiter) in self._waiters:
                self._waiters.remove((size, waiter))
                self._serve()
            if isinstance(error, TimeoutError):
                raise BufferExhausted(
                    f"no room for {size:,} bytes within {seconds:g} s: "
                    f"{self.used:,} of buffer_bytes={self.limit:,} wait for the broker"
                ) from None
            raise

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        self.used -= size
        if self._waiters:
            self._serve()

    def fail(self, error: Exception) -> None:
        """Nobody will get anything any more: all who wait get ``error``."""
        waiters, self._waiters = self._waiters, deque()
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _serve(self) -> None:
        while self._waiters and self.used + self._waiters[0][0] <= self.limit:
            size, waiter = self._waiters[0]
            self._waiters.popleft()
            if not waiter.done():
                self.used += size
                waiter.set_result(None)
