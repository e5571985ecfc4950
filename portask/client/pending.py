"""What `publish_nowait` gives back: the outcome of one message, to be looked at later or never.

It is no asyncio future, because most are never awaited: it costs a slotted object, and a future only when
somebody waits. A failure that nobody looked at is not forgotten: the next `flush`, or closing the client,
raises it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from portask.client.results import Receipt
from portask.errors import PortaskError
from portask.messages import TopicPartition


class Unclaimed:
    """Failures that nobody has looked at. Keeps the first `KEPT` and counts the others."""

    __slots__ = ("_failed", "_more")

    KEPT = 100

    def __init__(self) -> None:
        self._failed: dict[Pending, PortaskError] = {}
        self._more = 0

    def add(self, pending: Pending, error: PortaskError) -> None:
        """``pending`` failed while nobody waited for it."""
        if len(self._failed) < self.KEPT:
            self._failed[pending] = error
        else:
            self._more += 1

    def claim(self, pending: Pending) -> None:
        """Somebody looks at it."""
        self._failed.pop(pending, None)

    def raise_first(self) -> None:
        """Raises the first failure that nobody looked at, with the number of the others as a note; forgets all."""
        failed, more = self._failed, self._more
        self._failed, self._more = {}, 0
        if failed:
            error = next(iter(failed.values()))
            others = len(failed) - 1 + more
            if others:
                error.add_note(f"{others:,} other messages that were published without waiting failed too")
            raise error


class Pending:
    """A published message whose ack is outstanding. Await it for the `Receipt`."""

    __slots__ = ("_error", "_key", "_offset", "_unclaimed", "_waiters")

    def __init__(self, unclaimed: Unclaimed) -> None:
        self._unclaimed = unclaimed
        self._key: TopicPartition | None = None
        self._offset = -1
        self._error: PortaskError | None = None
        self._waiters: list[Callable[[], object]] | None = None

    def done(self) -> bool:
        """Whether it is acknowledged or has failed."""
        return self._key is not None or self._error is not None

    def result(self) -> Receipt:
        """Where the message lies.

        Raises:
            PortaskError: it failed.
            asyncio.InvalidStateError: it is not done.
        """
        error = self.exception()
        if error is not None:
            raise error
        assert self._key is not None  # noqa: S101 - for the type checker: it is done, and without an error
        return Receipt(self._key.topic, self._key.partition, self._offset)

    def exception(self) -> PortaskError | None:
        """Why it failed; ``None`` if it did not.

        Raises:
            asyncio.InvalidStateError: it is not done.
        """
        if self._error is not None:
            self._unclaimed.claim(self)
        elif self._key is None:
            raise asyncio.InvalidStateError("the message is neither acknowledged nor failed yet: await it")
        return self._error

    def add_done_callback(self, call: Callable[[Pending], Any]) -> None:
        """``call(pending)`` from the event loop, soon after it is done."""
        loop = asyncio.get_running_loop()
        if self.done():
            loop.call_soon(call, self)
        else:
            self._watch(lambda: loop.call_soon(call, self))

    def __await__(self) -> Generator[Any, None, Receipt]:
        if not self.done():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self._watch(wake)
            yield from waiter
        return self.result()

    def _watch(self, call: Callable[[], object]) -> None:
        if self._waiters is None:
            self._waiters = [call]
        else:
            self._waiters.append(call)

    def acknowledge(self, key: TopicPartition, offset: int) -> None:
        """The broker has it. Called by the client once."""
        self._offset = offset
        self._key = key
        if self._waiters is not None:
            self._wake()

    def fail(self, error: PortaskError) -> None:
        """It will not be stored, as far as is known. Called by the client once."""
        self._error = error
        if self._waiters is None:
            self._unclaimed.add(self, error)
        else:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for call in waiters or ():
            call()
