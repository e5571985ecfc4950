"""How long records stay: by bytes, by age and by count, whichever is reached first."""

from __future__ import annotations

import msgspec

from portask.contracts import LATEST, Storage
from portask.errors import PortaskError
from portask.messages import TopicPartition


class Retention(msgspec.Struct, frozen=True):
    """Limits of one partition. ``None`` is no limit.

    Attributes:
        bytes: Stored bytes.
        age: µs since the append.
        count: Records.
    """

    bytes: int | None = None
    age: int | None = None
    count: int | None = None

    def apply(self, storage: Storage, partition: TopicPartition, now: int) -> None:
        """Trims what is over a limit. Whole batches only, so up to one batch more than asked stays."""

        def trim(offset: int, error: PortaskError | None) -> None:
            if error is None:
                storage.trim(partition, before=offset)

        def trim_count(offset: int, error: PortaskError | None) -> None:
            trim(offset - (self.count or 0), error)

        if self.age is not None:
            storage.lookup(partition, max(now - self.age, 0), trim)
        if self.count is not None:
            storage.lookup(partition, LATEST, trim_count)
        if self.bytes is not None:
            storage.trim(partition, max_bytes=self.bytes)
