"""Where to begin, and where a subscription stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from portask.contracts import EARLIEST, LATEST
from portask.messages import TopicPartition

if TYPE_CHECKING:
    from portask.client.subscription import Subscription

Start = str | int | datetime | timedelta
"""Where to begin: ``"latest"``, ``"earliest"``, an offset, a point in time, or so long ago."""


def parse_start(start: Start) -> tuple[int, int | None]:
    """``(offset or EARLIEST or LATEST, µs since the epoch or None)``.

    Raises:
        ValueError: not a start; the text lists what is.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ValueError(f"{start!r} has no time zone: use e.g. datetime.now(UTC)")
        return LATEST, max(0, int(start.timestamp() * 1_000_000))
    if isinstance(start, timedelta):
        return parse_start(datetime.now(UTC) - abs(start))
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        return start, None
    if start == "latest":
        return LATEST, None
    if start == "earliest":
        return EARLIEST, None
    raise ValueError(
        f"{start!r} is no start: use 'latest', 'earliest', an offset, a datetime or a timedelta (so long ago)"
    )


class Position:
    """Where a subscription stands in one partition, on one link.

    Attributes:
        subscription: Whose.
        key: Topic and partition.
        next: The offset after the last batch that arrived.
        delivery: The channel of its DELIVER frames.
        consumed: First and last consumed offset that was not yet acknowledged; ``None`` if there is none.
    """

    __slots__ = ("consumed", "delivery", "key", "next", "subscription")

    windowed = False
    """Whether its DELIVER frames carry windows: of a group's member they do."""

    def __init__(
        self, subscription: Subscription, key: TopicPartition, next_offset: int, delivery: int
    ) -> None:
        self.subscription = subscription
        self.key = key
        self.next = next_offset
        self.delivery = delivery
        self.consumed: tuple[int, int] | None = None
