"""What a group's member holds, and may say of it: the small parts of `portask.client.members`."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from portask.client.positions import Position
from portask.messages import TopicPartition

if TYPE_CHECKING:
    from portask.client.members import GroupSubscription

_DAY = 86_400.0

Range = tuple[int, int]
"""First and last offset, both included."""


class Membership(NamedTuple):
    """What a member asks for; ``None`` is as the group has it, or the broker's default for a new group."""

    group: str
    ack_wait: int | None
    max_deliveries: int | None
    dead_letter: str | None
    auto_ack: bool


def milliseconds(name: str, seconds: float | timedelta | None) -> int | None:
    """Whole ms.

    Raises:
        ValueError: below 0 or above a day.
    """
    if seconds is None:
        return None
    plain = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if not 0 <= plain <= _DAY:
        raise ValueError(f"{name} is {seconds!r}: it must be 0 to {_DAY:,.0f} seconds, a day")
    return round(plain * 1000)


class MemberPosition(Position):
    """One partition of a member, on one link. Its methods are `portask.client.results.Lease`.

    Attributes:
        acked: Ranges to acknowledge with the next frame.
    """

    __slots__ = ("acked", "member")

    windowed = True

    def __init__(
        self, member: GroupSubscription, key: TopicPartition, next_offset: int, delivery: int
    ) -> None:
        super().__init__(member, key, next_offset, delivery)
        self.member = member
        self.acked: list[Range] = []

    def ack(self, first: int, last: int) -> None:
        """They are done."""
        self.member.mailbox.put(self.member.settle, self, first, last)

    def nack(self, first: int, last: int, delay: float | timedelta, reason: str) -> None:
        """They are not; raises ValueError for a delay that cannot be."""
        ms = milliseconds("delay", delay) or 0
        self.member.mailbox.put(self.member.refuse, self, first, last, ms, reason)

    def extend(self, first: int, last: int) -> None:
        """They take longer."""
        self.member.mailbox.put(self.member.renew, self, first, last)

    def __repr__(self) -> str:
        return f"<lease on {self.key}>"


class Mailbox:
    """Calls for the loop's thread, from any thread. The loop is woken once for all that come meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._calls: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()
        self._woken = False

    def put(self, call: Any, *arguments: Any) -> None:
        """Calls at once on the loop's own thread; else soon, there, in order."""
        if threading.get_ident() == self._thread:
            call(*arguments)
            return
        with self._lock:
            self._calls.append((call, *arguments))
            wake = not self._woken
            self._woken = True
        if wake and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.listen)

    def listen(self) -> None:
        """Makes the calls that came; on the loop's thread only."""
        while self._woken:
            with self._lock:
                if not self._calls:
                    self._woken = False
                    return
                call, *arguments = self._calls.popleft()
            call(*arguments)


def without(first: int, last: int, holes: Sequence[Range]) -> Iterator[Range]:
    """The range ``first`` to ``last`` without what lies in ``holes``, in order."""
    for low, high in sorted(holes):
        if high < first or low > last:
            continue
        if low > first:
            yield first, low - 1
        first = high + 1
    if first <= last:
        yield first, last
