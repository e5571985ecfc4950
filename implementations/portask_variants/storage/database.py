"""What a storage asks of a database, and what it hands to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from portask.messages import TopicPartition
from portask.storage.index import Standing
from portask.storage.turns import Pending, Saved, Turn


class Part(NamedTuple):
    """What a turn appended to one partition."""

    number: int
    key: TopicPartition
    turn: Turn


class State(NamedTuple):
    """What a group knows of a partition."""

    group: str
    number: int
    key: TopicPartition
    state: bytes


class Cut(NamedTuple):
    """A trim: batches of a partition that begin before an offset, and producers that wrote nothing since."""

    number: int
    before: int
    size: int
    producers: Sequence[int]

    def behind(self, earlier: Cut | None) -> Cut:
        """This one and one before it that was not stored."""
        if earlier is None:
            return self
        producers = (*earlier.producers, *self.producers)
        return Cut(self.number, max(earlier.before, self.before), earlier.size + self.size, producers)


class Work:
    """What is to be stored in one transaction, and who is told.

    Attributes:
        generation: See the module's text.
        parts: Of each partition, appended batches.
        drops: Groups to be forgotten, before ``states`` are stored.
        states: Of groups.
        cuts: Trims; they come alone.
        pending: Callbacks of appends, by partition.
        callbacks: Of everything else.
    """

    __slots__ = ("callbacks", "cuts", "drops", "generation", "parts", "pending", "states")

    def __init__(self, generation: int, cuts: Sequence[Cut] = ()) -> None:
        self.generation = generation
        self.parts: list[Part] = []
        self.drops: list[str] = []
        self.states: list[State] = []
        self.cuts = cuts
        self.pending: list[Pending] = []
        self.callbacks: list[Saved] = []

    @property
    def changes(self) -> bool:
        """Whether there is something to store."""
        return bool(self.parts or self.states or self.drops or self.cuts)


class Stored(NamedTuple):
    """What a database holds of one partition when it is opened. ``first`` and ``next`` are 0 where nothing is.

    ``newest`` is the base offset of its newest batch.
    """

    number: int
    key: TopicPartition
    first: int
    next: int
    newest: int
    bytes: int
    producers: dict[int, Standing]


class Database(Protocol):
    """What is asked of a database. `write` is called by one thread, the rest by another one.

    Every method raises `StorageError` for whatever the database or the device has to complain about.
    """

    def partitions(self) -> Iterable[Stored]:
        """Every partition that it knows."""
        ...

    def groups(self) -> Iterable[tuple[str, int, bytes]]:
        """Group, partition number and state of everything that was saved."""
        ...

    def write(self, works: Sequence[Work]) -> None:
        """Stores all of ``works`` in one transaction, in their order; or nothing of them.

        Raises:
            StorageFull: no room. The next call may find some.
            StorageError: anything else.
        """
        ...

    def read(self, number: int, offset: int, limit: int, end: int) -> list[tuple[int, bytes]]:
        """Base offsets and batches, from the one that holds ``offset`` (or the next one) to before offset ``end``.

        About ``limit`` bytes, at least one batch if there is one.
        """
        ...

    def sizes(self, number: int, start: int, most: int) -> list[tuple[int, int]]:
        """Base offset and bytes of up to ``most`` batches, from the one that begins at ``start`` or behind it."""
        ...

    def sync(self) -> None:
        """Returns once everything that was written is on the device."""
        ...

    def close(self) -> None:
        """Gives everything back. Nothing is called afterwards, but for `read`, which says that it is closed."""
        ...
