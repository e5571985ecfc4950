"""What passes between the two threads: requests one way, outcomes the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from portask.errors import PortaskError
from portask_variants.storage.redis_streams.link import Command

Call = tuple[Any, ...]
"""A function and its arguments."""


class Completions:
    """Outcomes, from the loop's thread to the broker's."""

    def __init__(self) -> None:
        self.notify: Callable[[], None] = lambda: None
        self._waiting: deque[Iterator[Call]] = deque()
        self._told = False

    def put(self, calls: Iterable[Call]) -> None:
        """Has the calls made by the next `take`."""
        self._waiting.append(iter(calls))
        if not self._told:
            self._told = True
            self.notify()

    def take(self) -> int:
        """Makes the calls that wait; returns how many.

        One that raises ends it; the others follow with the next.
        """
        self._told = False  # first: what comes from here on notifies again
        waiting = self._waiting
        count = 0
        try:
            while waiting:
                for function, *arguments in waiting[0]:
                    count += 1
                    function(*arguments)
                waiting.popleft()
        except BaseException:
            self.notify()
            raise
        return count


class Ask:
    """A request that is no append.

    Attributes:
        key: Decides the lane.
        commands: Sent together.
        finish: Turns the replies into calls; may raise a `PortaskError`, which is then the outcome.
        fail: Turns an error into calls.
        deadline: Loop time at which it is given up.
    """

    __slots__ = ("commands", "deadline", "fail", "finish", "key")

    def __init__(
        self,
        key: bytes,
        commands: Sequence[Command],
        finish: Callable[[list[Any]], Iterable[Call]],
        fail: Callable[[PortaskError], Iterable[Call]],
    ) -> None:
        self.key = key
        self.commands = commands
        self.finish = finish
        self.fail = fail
        self.deadline = 0.0
