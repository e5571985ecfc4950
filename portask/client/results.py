"""What the client hands to applications: receipts, and what was delivered.

All are msgspec structs outside the garbage collector's sight (`portask.messages` says why that matters). None
of their fields can lead back to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from portask.messages import Headers, Message


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The broker has the message, as durably as `Welcome.durability` says.

    Attributes:
        topic: Where it went.
        partition: Which log of the topic.
        offset: Its place there; -1 if it is there and nobody knows where: it was sent again by an idempotent
            client, to a broker that was restarted meanwhile.
    """

    topic: str
    partition: int
    offset: int


class OffsetRange(msgspec.Struct, frozen=True, gc=False):
    """``count`` neighbouring messages in one partition, the first at ``base_offset`` (-1 as in `Receipt`)."""

    partition: int
    base_offset: int
    count: int


class PublishManyResult(msgspec.Struct, frozen=True):
    """What `Client.publish_many` did. All of it is acknowledged.

    Attributes:
        topic: Where the messages went.
        count: How many there were.
        ranges: Where they lie, one entry a batch, in the order of sending.
    """

    topic: str
    count: int
    ranges: list[OffsetRange]


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """One message as it arrived.

    Attributes:
        topic: Where it came from.
        partition: Which log of the topic.
        offset: Its place there.
        payload: The application's bytes.
        key: As published.
        headers: As published; ``None`` if there were none.
        timestamp: µs since the epoch, by the producer's clock.
        append_time: µs since the epoch, by the broker's clock; the same for all messages of a batch.
    """

    topic: str
    partition: int
    offset: int
    payload: bytes
    key: bytes | None
    headers: Headers | None
    timestamp: int
    append_time: int


class DeliveredBatch(msgspec.Struct, frozen=True):
    """Neighbouring messages of one partition, decoded together.

    Attributes:
        topic: Where they came from.
        partition: Which log of the topic.
        base_offset: Of the first; ``messages[i]`` has ``base_offset + i``.
        messages: At least one, oldest first.
        append_time: µs since the epoch, by the broker's clock.
    """

    topic: str
    partition: int
    base_offset: int
    messages: Sequence[Message]
    append_time: int

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def next_offset(self) -> int:
        """The offset after the last message: where to go on."""
        return self.base_offset + len(self.messages)

    def at(self, index: int) -> Delivered:
        """The message ``messages[index]`` with all that is known of it."""
        m = self.messages[index]
        offset = self.base_offset + index
        return Delivered(
            self.topic, self.partition, offset, m.payload, m.key, m.headers, m.timestamp, self.append_time
        )

    def delivered(self) -> list[Delivered]:
        """The messages one by one. About 0.3 µs each."""
        topic, partition, offset, time = self.topic, self.partition, self.base_offset, self.append_time
        return [
            Delivered(topic, partition, offset + index, m.payload, m.key, m.headers, m.timestamp, time)
            for index, m in enumerate(self.messages)
        ]
