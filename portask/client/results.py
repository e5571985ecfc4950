"""What the client hands to applications: receipts, and what was delivered.

All are msgspec structs outside the garbage collector's sight (`portask.messages` says why that matters). None
of their fields can lead back to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import msgspec

from portask.errors import ClientError
from portask.messages import Headers, Message


class Lease(Protocol):
    """What a group's member may say of records that it got. From any thread, without waiting."""

    def ack(self, first: int, last: int) -> None:
        """They are done."""

    def nack(self, first: int, last: int, delay: float | timedelta, reason: str) -> None:
        """They are not; somebody should get them again after ``delay`` seconds."""

    def extend(self, first: int, last: int) -> None:
        """They take longer."""


class Leased:
    """A message, or several: what is delivered to a member of a group can be acknowledged. All of it costs no wait.

    What the broker is told leaves with the next few milliseconds. After the connection was lost it is told nothing
    of what came before: it gives those messages to somebody again.
    """

    __slots__ = ()

    def ack(self) -> None:
        """Says that it is done: nobody will get it again.

        Raises:
            ClientError: it was not delivered to a group's member.
        """
        lease, first, last = self._leased()
        lease.ack(first, last)

    def nack(self, delay: float | timedelta = 0, reason: str = "") -> None:
        """Says that it could not be done: a member gets it again, or it becomes a dead letter.

        Args:
            delay: Seconds until then, at most a day.
            reason: For the headers of a dead letter.

        Raises:
            ClientError: it was not delivered to a group's member.
        """
        lease, first, last = self._leased()
        lease.nack(first, last, delay, reason)

    def extend(self) -> None:
        """Says that it is still worked on: the group's ``ack_wait`` begins anew.

        Raises:
            ClientError: it was not delivered to a group's member.
        """
        lease, first, last = self._leased()
        lease.extend(first, last)

    def _leased(self) -> tuple[Lease, int, int]:
        raise NotImplementedError


def _of_a_group(lease: Lease | None) -> Lease:
    if lease is None:
        raise ClientError("only what a group's member got can be acknowledged: subscribe with group=…")
    return lease


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


class Published(msgspec.Struct, frozen=True):
    """What a client published so far: what was really formed of the messages that it was given.

    Attributes:
        batches: How many, each once, however often it was sent.
        messages: In them.
        bytes: Of them, as they travel: encoded, and compressed where that was worth it.
    """

    batches: int
    messages: int
    bytes: int


class Delivered(Leased, msgspec.Struct, frozen=True, gc=False):
    """One message as it arrived. `Leased.ack` and its like are for members of groups.

    Attributes:
        topic: Where it came from.
        partition: Which log of the topic.
        offset: Its place there.
        payload: The application's bytes.
        key: As published.
        headers: As published; ``None`` if there were none.
        timestamp: µs since the epoch, by the producer's clock.
        append_time: µs since the epoch, by the broker's clock; the same for all messages of a batch.
        deliveries: How often it was delivered to the group's members, this time included; 0 without a group.
        lease: What `Leased` acts on; ``None`` without a group.
    """

    topic: str
    partition: int
    offset: int
    payload: bytes
    key: bytes | None
    headers: Headers | None
    timestamp: int
    append_time: int
    deliveries: int = 0
    lease: Lease | None = None

    def _leased(self) -> tuple[Lease, int, int]:
        return _of_a_group(self.lease), self.offset, self.offset


class DeliveredBatch(Leased, msgspec.Struct, frozen=True):
    """Neighbouring messages of one partition, decoded together. `Leased.ack` and its like are for members of groups.

    Attributes:
        topic: Where they came from.
        partition: Which log of the topic.
        base_offset: Of the first; ``messages[i]`` has ``base_offset + i``.
        messages: At least one, oldest first.
        append_time: µs since the epoch, by the broker's clock.
        deliveries: How often they were delivered to the group's members, this time included; 0 without a group.
        lease: What `Leased` acts on; ``None`` without a group.
    """

    topic: str
    partition: int
    base_offset: int
    messages: Sequence[Message]
    append_time: int
    deliveries: int = 0
    lease: Lease | None = None

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def next_offset(self) -> int:
        """The offset after the last message: where to go on."""
        return self.base_offset + len(self.messages)

    def at(self, index: int) -> Delivered:
        """The message ``messages[index]`` with all that is known of it."""
        m = self.messages[index]
        return Delivered(
            self.topic,
            self.partition,
            self.base_offset + index,
            m.payload,
            m.key,
            m.headers,
            m.timestamp,
            self.append_time,
            self.deliveries,
            self.lease,
        )

    def rest(self, index: int) -> DeliveredBatch:
        """The messages from ``messages[index]`` on."""
        return DeliveredBatch(
            self.topic,
            self.partition,
            self.base_offset + index,
            self.messages[index:],
            self.append_time,
            self.deliveries,
            self.lease,
        )

    def delivered(self) -> list[Delivered]:
        """The messages one by one. About 0.3 µs each."""
        topic, partition, offset, time = self.topic, self.partition, self.base_offset, self.append_time
        deliveries, lease = self.deliveries, self.lease
        return [
            Delivered(
                topic,
                partition,
                offset + index,
                m.payload,
                m.key,
                m.headers,
                m.timestamp,
                time,
                deliveries,
                lease,
            )
            for index, m in enumerate(self.messages)
        ]

    def _leased(self) -> tuple[Lease, int, int]:
        return _of_a_group(self.lease), self.base_offset, self.next_offset - 1
