"""Which worker has what: by hashes, so that all say the same without asking."""

from __future__ import annotations

from crc32c import crc32c


def home_of(name: str, places: int) -> int:
    """The worker that has an inbox, or a say about a topic or a group as a whole."""
    return crc32c(name.encode()) % places


def owner_of(topic: str, partition: int, places: int) -> int:
    """The worker that has a partition. Those of one topic are spread evenly."""
    return (crc32c(topic.encode()) + partition) % places
