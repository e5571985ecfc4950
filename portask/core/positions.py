"""Which offset a request means by "earliest", a time, or where it was cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from portask.contracts import EARLIEST, LATEST, Found
from portask.core.partitions import Partition
from portask.errors import OffsetOutOfRange, PortaskError, UnknownPartition

if TYPE_CHECKING:
    from portask.core.broker import Broker


def start_offset(broker: Broker, partition: Partition, start: int, time: int | None, done: Found) -> None:
    """The offset that a request means, or an error that says what there is."""
    storage, key = broker.storage, partition.key

    def empty_is_zero(offset: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            done(0, None)
        else:
            done(offset, error)

    def check_bounds(first: int, following: int, error: PortaskError | None) -> None:
        if error is None and not first <= start <= following:
            text = f"offset {start} of {key} is not there: it holds {first} to {following}"
            error = OffsetOutOfRange(text, first, following)
        done(start, error)

    if time is not None:
        storage.lookup(key, max(time, 0), empty_is_zero)
    elif start < 0:
        storage.lookup(key, start, empty_is_zero)
    else:
        _bounds(broker, partition, check_bounds)


def resume_offset(broker: Broker, partition: Partition, offset: int, done: Found) -> None:
    """The offset that a cut-off subscription asks for; the oldest one if retention, or a lost log, took it away."""

    def check_bounds(first: int, following: int, error: PortaskError | None) -> None:
        done(offset if first <= offset <= following else first, error)

    _bounds(broker, partition, check_bounds)


def _bounds(
    broker: Broker, partition: Partition, done: Callable[[int, int, PortaskError | None], None]
) -> None:
    """The oldest offset and the next one; both 0 where nothing was ever published."""
    storage, key = broker.storage, partition.key
    oldest = 0

    def found_first(first: int, error: PortaskError | None) -> None:
        nonlocal oldest
        if isinstance(error, UnknownPartition):
            first, error = 0, None
        oldest = first
        if error is not None or broker.shared is None:
            done(first, partition.next, error)
        else:  # others may have appended what is not known here
            storage.lookup(key, LATEST, found_next)

    def found_next(following: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            following, error = 0, None
        if following > partition.next:
            partition.next = following
            broker.touch(partition)
        done(oldest, following, error)

    storage.lookup(key, EARLIEST, found_first)
