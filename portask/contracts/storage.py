"""What keeps record batches, and what some storages can do besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol, runtime_checkable

from portask.errors import PortaskError
from portask.messages import Buffer, RecordBatch, TopicPartition


class Durability(Enum):
    """What a publish ack means."""

    MEMORY = "memory"
    """In RAM of the broker: lost when the process ends."""
    OS = "os"
    """Handed to the kernel: survives kill -9."""
    SYNCED = "synced"
    """Synced to the device: survives power loss."""
    SERVER = "server"
    """As the remote store says; read from it and reported, never assumed."""


EARLIEST = -2
"""`Storage.lookup`: the oldest offset that is still there."""
LATEST = -1
"""`Storage.lookup`: the offset that the next append gets."""

Appended = Callable[[int, PortaskError | None], None]
"""``done(base_offset, None)`` or ``done(-1, error)``."""
Read = Callable[[Sequence[Buffer], PortaskError | None], None]
"""``done(batches, None)``: whole stamped batches in offset order, or ``done((), error)``."""
Found = Callable[[int, PortaskError | None], None]
"""``done(offset, None)`` or ``done(-1, error)``."""


@runtime_checkable
class Storage(Protocol):
    """Appends record batches and gives them back by offset. Completes by callback; embedded ones before they return.

    Offsets of a partition are dense from 0 and never reused. A storage may store neighbouring small batches
    as one (`portask.wire.coalesce`), never reorders, and never changes a record.
    """

    durability: Durability

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """Assigns the next ``batch.count`` offsets. ``batch.data`` is only valid during the call: keep a copy.

        Args:
            partition: Created by its first append.
            batch: Already checked; its stamp bytes are ignored.
            now: Append time, µs since the epoch; never goes back within a partition.
            done: Called with the base offset once the declared durability is reached, or with `StorageFull`
                or another error.
        """
        ...

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """Batches from the one that contains ``offset``: about ``limit`` bytes, but at least one if there is one.

        The first batch may begin before ``offset``: readers skip. An offset equal to the next one gives no
        batches. The buffers stay valid and unchanged for as long as the caller holds them.
        Errors: `UnknownPartition`, `OffsetOutOfRange`.
        """
        ...

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """The offset to read from: for `EARLIEST`, `LATEST`, or the first record appended at ``when`` µs or later.

        Coalescing blurs append times by at most `COALESCE_WINDOW_US`: a time lookup may answer that much
        early, never late. Lookups of one partition complete in the order in which they were asked.
        Errors: `UnknownPartition`.
        """
        ...

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """Forgets whole batches, oldest first: those that end at or before ``before``, and those above ``max_bytes``.

        Offsets stay as they are. The newest batch always stays, so that the next offset is never forgotten.
        """
        ...

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """``done`` once everything appended so far has the declared durability."""
        ...


COALESCE_WINDOW_US = 1_000_000
"""Append times that one coalesced batch may span."""


@runtime_checkable
class Catalog(Protocol):
    """A storage that can say what it holds, so that a broker finds its topics again."""

    def partitions(self) -> Iterable[TopicPartition]:
        """Every partition with an append behind it."""
        ...

    def size(self, partition: TopicPartition) -> int:
        """Bytes stored for it now. Errors: 0 for an unknown one."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A storage with a limit, which can say how far away it is."""

    def room(self) -> int:
        """Bytes of batches that it would still take, all partitions together. Asked before every append: cheap."""
        ...


@runtime_checkable
class Deferred(Protocol):
    """A storage that may complete after it returned: it syncs on another thread, or asks a server.

    ``done`` callbacks are called from `poll`, on the thread that calls it, never from elsewhere.
    """

    notify: Callable[[], None]
    """Set by the owner: thread-safe and cheap; called from any thread when completions wait for `poll`."""

    def poll(self) -> int:
        """Calls ``done`` of what finished, in order of append within a partition; returns how many. Never blocks."""
        ...


@runtime_checkable
class Gathering(Protocol):
    """A storage that completes the appends of one turn together: one write, neighbouring small batches as one.

    Its `Storage.append` may return before ``done`` was called. Whoever appends calls `commit` soon after.
    """

    def commit(self) -> None:
        """Stores what was appended and saved since the last call; calls ``done`` of what is as durable as declared.

        Cheap when there is nothing. `Deferred.poll` of such a storage commits too.
        """
        ...


@runtime_checkable
class Producers(Protocol):
    """A storage that remembers where each producer stands, so that a retry is known as one after a restart."""

    def producers(self, partition: TopicPartition) -> Mapping[int, tuple[int, int, int]]:
        """Producer id → (epoch, last sequence number, offset of that record), of completed appends.

        The storage's own table: it changes with the next append. Those whose records were all trimmed may be
        missing. Empty for an unknown partition.
        """
        ...


@runtime_checkable
class Explained(Protocol):
    """A storage whose durability needs words: those of the server that keeps the records."""

    promise: str
    """What an acknowledged record survives, for people, in one line. May change while it is open."""


class Parts(Protocol):
    """What `Divisible.divide` made.

    Attributes:
        paths: Each worker's ``path``, in their order.
    """

    paths: list[str]

    def close(self) -> None:
        """Lets others have it. Idempotent."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A storage that keeps files below its option ``path``, of which several workers can have a part each."""

    @staticmethod
    def divide(path: str, places: int, owner: Callable[[TopicPartition], int]) -> Parts:
        """Brings what is there, for however many workers it was, into as many parts; keeps others out of it.

        A crash in the midst of it loses nothing.

        Args:
            path: The option.
            places: How many workers; 1 for a storage that is whole, whose path is ``path``.
            owner: Who has a partition, from 0.

        Raises:
            StorageError: another process has it, or something else is there.
            OSError: it cannot be read or written.
        """
        ...


@runtime_checkable
class GroupState(Protocol):
    """A storage that keeps what a consumer group knows about a partition, as durable as it keeps records."""

    def save_group(
        self,
        group: str,
        partition: TopicPartition,
        state: bytes,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        """Replaces the group's state of the partition. Of several saves before a `Gathering.commit` the last stays."""
        ...

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        """The newest state of every group and partition."""
        ...

    def drop_group(self, group: str) -> None:
        """Forgets the group. One that is not there is no error."""
        ...
