"""Which offset a request means by "earliest", a time, or where it was cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.contracts import EARLIEST, Found
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

    def check_bounds(first: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            first, error = 0, None
        if error is None and not first <= start <= partition.next:
            text = f"offset {start} of {key} is not there: it holds {first} to {partition.next}"
            error = OffsetOutOfRange(text, first, partition.next)
        done(start, error)

    if time is not None:
        storage.lookup(key, max(time, 0), empty_is_zero)
    elif start < 0:
        storage.lookup(key, start, empty_is_zero)
    else:
        storage.lookup(key, EARLIEST, check_bounds)


def resume_offset(broker: Broker, partition: Partition, offset: int, done: Found) -> None:
    """The offset that a cut-off subscription asks for; the oldest one if retention, or a lost log, took it away."""

    def check_bounds(first: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            first, error = 0, None
        done(offset if first <= offset <= partition.next else first, error)

    broker.storage.lookup(partition.key, EARLIEST, check_bounds)
