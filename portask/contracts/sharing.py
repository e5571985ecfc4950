"""What a storage can do that several brokers use at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from portask.errors import PortaskError
from portask.messages import TopicPartition


@runtime_checkable
class Sequenced(Protocol):
    """A storage that checks the numbers of idempotent producers itself, because other brokers append to it as well.

    Its `Storage.append` of a numbered batch fails with `AlreadyStored` (a retry: nothing was appended), `OutOfSequence`
    or `Fenced`. It recognizes at least the last `portask.wire.sequences.KEPT_BATCHES` batches of a producer with their
    offsets, and forgets a producer whose records were all trimmed.
    """

    def resume(
        self,
        partition: TopicPartition,
        producer: int,
        epoch: int,
        sequence: int,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        """A producer says that ``sequence`` is its next number: what lies before was stored, or given up.

        0 says that it has not published here yet. ``done`` gets `Fenced` if somebody uses its id with a newer epoch,
        or did with this one where it says that it has not.
        """
        ...


@runtime_checkable
class Shared(Protocol):
    """A storage that other brokers use at the same time: topics come and partitions grow without the owner's doing."""

    grown: Callable[[TopicPartition, int], None]
    """Set by the owner, called from `Deferred.poll`: the next offset of a partition that others appended to.

    Both the partition and its topic may be new here. May be called for nothing; must be called in the end whatever
    happens to the other broker. 0 announces a topic."""

    lost: Callable[[TopicPartition, int], None]
    """Set by the owner, called from `Deferred.poll`: the store forgot records that were acknowledged, and gives their
    offsets, from this one on, to others. A broker hears it when it appends to the partition."""

    def topics(self) -> Mapping[str, int]:
        """Topics, and how many partitions they have, as far as is known without asking. Changes with time."""
        ...

    def declare(self, topic: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        """Says that there is a topic. ``done(count, None)``: how many partitions it has, as the first broker said."""
        ...


class Grant(NamedTuple):
    """Records that a broker got for its members of a group: fresh ones, or those of a broker that is gone.

    Attributes:
        number: Of the claim; ascending.
        first: The first fresh record.
        last: The last one; before ``first`` if there is none.
        state: What the other broker reported of those that it had, or ``None``.
    """

    number: int
    first: int
    last: int
    state: bytes | None = None


class GroupPart(NamedTuple):
    """What a store knows of a group in one partition, all brokers together.

    Attributes:
        group: Its name.
        partition: Where.
        settings: What its members agreed on, as the first broker wrote it.
        next: The first offset that no broker got.
        held: What brokers hold: fresh records, and states that they reported.
        counts: Acknowledged, redelivered, dead-lettered, skipped: records.
    """

    group: str
    partition: TopicPartition
    settings: bytes
    next: int
    held: Sequence[Grant]
    counts: Sequence[int]


@runtime_checkable
class SharedGroups(Protocol):
    """A storage in which brokers share a group's records among them, in place of `GroupState`.

    Within a partition each broker with members claims records, delivers them, and reports what it still holds. That is
    its own as long as it is alive; when it is gone, others claim it before anything fresh. Nothing is ever forgotten:
    at worst two brokers deliver the same.
    """

    regranted: Callable[[str, TopicPartition, bool], None]
    """Set by the owner, called from `Deferred.poll`. Of a group that this broker takes part in: there may be something
    to claim; or, if true, all that it held went to others, because it was not heard of in time: it takes part no
    more."""

    def begin(
        self,
        group: str,
        partition: TopicPartition,
        settings: bytes,
        start: int,
        done: Callable[[bytes, PortaskError | None], None],
    ) -> None:
        """This broker takes part. A group that is new gets these settings, and begins at ``start`` if it is new here.

        ``done(settings, None)`` gets those that hold. What is published later belongs to the group then.
        """
        ...

    def claim(
        self,
        group: str,
        partition: TopicPartition,
        count: int,
        done: Callable[[Grant | None, PortaskError | None], None],
    ) -> None:
        """Asks for up to ``count`` fresh records, or what a broker held that is gone; ``None`` if there is nothing."""
        ...

    def report(
        self,
        group: str,
        partition: TopicPartition,
        held: tuple[bytes | None, int],
        counts: Sequence[int],
        done: Callable[[PortaskError | None], None] | None,
    ) -> None:
        """Says what this broker still holds: a state, or ``None`` for nothing; and the number of the last grant in it.

        ``counts`` are added to the group's. Without ``done`` the broker takes part no more, and what it says that it
        holds is anybody's.
        """
        ...

    def group_parts(self, done: Callable[[Sequence[GroupPart], PortaskError | None], None]) -> None:
        """Everything that is known of groups."""
        ...

    def drop_group(self, group: str, done: Callable[[bool, PortaskError | None], None]) -> None:
        """Forgets a group; whether there was one. `NotPermitted` if a broker takes part."""
        ...
