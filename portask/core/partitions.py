"""Partitions and those who read them: subscriptions with their credit, and one cursor a partition for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.core.topics import is_literal, matcher
from portask.messages import RecordBatch, TopicPartition

if TYPE_CHECKING:
    from portask.core.groups import Member, Share
    from portask.core.session import Session


class Partition:
    """One topic-partition as the broker sees it; its records are the storage's.

    Attributes:
        key: Topic and number.
        next: The offset that the next append gets, as far as completed appends say.
        cursors: Who reads it.
        shares: The groups that have members here.
        fresh: Batches appended in the current turn, with their base offsets: these may go out without being
            read back.
        grown: Bytes appended since its retention was looked at.
    """

    __slots__ = ("cursors", "fresh", "grown", "key", "next", "shares")

    def __init__(self, key: TopicPartition, next_offset: int) -> None:
        self.key = key
        self.next = next_offset
        self.grown = 0
        self.cursors: dict[Cursor, None] = {}
        self.shares: dict[Share, None] = {}
        self.fresh: list[tuple[int, RecordBatch]] = []


class Topic:
    """A name and its partitions, numbered from 0."""

    __slots__ = ("name", "partitions")

    def __init__(self, name: str, partitions: list[Partition]) -> None:
        self.name = name
        self.partitions = partitions


class Cursor:
    """Where one subscription stands in one partition.

    Attributes:
        delivery: The channel of its DELIVER frames.
        offset: The next offset to deliver.
        acked: The highest offset that the client said it processed; -1 for none.
        reading: A read of it is under way in the storage.
    """

    __slots__ = ("acked", "delivery", "offset", "partition", "reading", "subscription")

    def __init__(self, subscription: Subscription, partition: Partition, delivery: int, offset: int) -> None:
        self.subscription = subscription
        self.partition = partition
        self.delivery = delivery
        self.offset = offset
        self.acked = -1
        self.reading = False


class Subscription:
    """One SUBSCRIBE: a filter, credit shared by its partitions, and their cursors; or a member of a group.

    Attributes:
        channel: The client's number for it.
        filter: What was asked for.
        matches: Whether a topic is meant.
        literal: Whether it names one topic.
        messages: Credit left, in messages. Below zero after a batch took more than there was: batches are
            never cut.
        bytes: Credit left, in bytes.
        member: What it is in its group; such a subscription has no cursors.
    """

    __slots__ = (
        "bytes",
        "channel",
        "cursors",
        "filter",
        "literal",
        "matches",
        "member",
        "messages",
        "only_partition",
        "session",
    )

    def __init__(self, session: Session, channel: int, text: str, only_partition: int | None) -> None:
        self.session = session
        self.channel = channel
        self.filter = text
        self.matches = matcher(text)
        self.literal = is_literal(text)
        self.only_partition = only_partition
        self.messages = 0
        self.bytes = 0
        self.cursors: list[Cursor] = []
        self.member: Member | None = None

    def ready(self) -> bool:
        """Whether another batch may go out now."""
        return self.messages > 0 and self.bytes > 0 and not self.session.congested
