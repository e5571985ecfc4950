"""How fast one may publish: token buckets, filled by the turn's clock, in whole numbers.

A bucket may go below zero: what has arrived is taken, and the connection is not read until the bucket is filled again.
So nothing is refused and nothing is lost: whoever sends too fast waits, as behind a slow network.
"""

from __future__ import annotations

_SECOND = 1_000_000


class Bucket:
    """Holds one second's worth, and is filled at a steady rate.

    Args:
        rate: Units a second; above 0.
        now: µs; it starts full.
    """

    __slots__ = ("_level", "_rate", "_since")

    def __init__(self, rate: int, now: int) -> None:
        self._rate = rate
        self._level = (
            rate * _SECOND
        )  # in millionths of a unit: what a rate adds in a µs is a whole number of them
        self._since = now

    def take(self, amount: int, now: int) -> None:
        """Takes units out; never refuses."""
        rate = self._rate
        full = rate * _SECOND
        self._level = min(full, self._level + (now - self._since) * rate) - amount * _SECOND
        self._since = now

    def change(self, rate: int, now: int) -> None:
        """Is filled at another rate from now on; what is in it stays, or as much as it holds then."""
        self.take(0, now)
        self._rate = rate
        self._level = min(self._level, rate * _SECOND)

    @property
    def ready(self) -> int:
        """When it is not below zero any more, µs."""
        return self._since + max(0, -(self._level // self._rate))


class Meter:
    """The buckets of one connection: its own, and those that it shares with others of its identity.

    Attributes:
        spent: It published since it was ready last. Only such a connection waits for its buckets: one that only
            consumes must not stand still because others of its identity publish.
    """

    __slots__ = ("_bytes", "_messages", "spent")

    def __init__(self, messages: tuple[Bucket, ...], sizes: tuple[Bucket, ...]) -> None:
        self.spent = False
        self._messages = messages
        self._bytes = sizes

    def spend(self, messages: int, size: int, now: int) -> None:
        """A batch of so many messages and bytes was published."""
        self.spent = True
        for bucket in self._messages:
            bucket.take(messages, now)
        for bucket in self._bytes:
            bucket.take(size, now)

    @property
    def ready(self) -> int:
        """When the next batch may be read, µs; in the past if at once."""
        return max(bucket.ready for bucket in (*self._messages, *self._bytes))


def buckets(rate: int, now: int) -> tuple[Bucket, ...]:
    """One bucket, or none where there is no limit."""
    return (Bucket(rate, now),) if rate else ()
