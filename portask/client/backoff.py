"""How long to wait between attempts to connect: exponential, with full jitter.

Many clients lose a restarted broker at the same moment. Were they all to come back after the same delays,
they would knock it over again and again; so each waits a random part of the current delay.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts, and when to give up.

    Attributes:
        attempts: Attempts so far.
    """

    __slots__ = ("_deadline", "_delay", "_first", "_limit", "_most", "_started", "attempts")

    def __init__(self, first: float, most: float, *, limit: int = 0, deadline: float = 0) -> None:
        """Args: delays in seconds; ``limit`` attempts and ``deadline`` seconds, 0 for no limit."""
        self._first = first
        self._most = most
        self._limit = limit
        self._deadline = deadline
        self._delay = first
        self._started: float | None = None
        self.attempts = 0

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait before the next attempt, 0 before the first; ``None`` to give up.

        Args:
            now: Seconds on any clock that does not go back.
        """
        if self._started is None:
            self._started = now
        if self._limit and self.attempts >= self._limit:
            return None
        left = self._deadline - (now - self._started) if self._deadline else float("inf")
        if left <= 0:
            return None
        self.attempts += 1
        if self.attempts == 1:
            return 0.0
        delay = random.uniform(0, self._delay)
        self._delay = min(self._delay * 2, self._most)
        return min(delay, left)

    def reset(self) -> None:
        """The connection proved stable: the next loss begins anew."""
        self.attempts = 0
        self._delay = self._first
        self._started = None
