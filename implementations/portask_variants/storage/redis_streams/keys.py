"""What lies where in the server. All keys of one partition carry one hash tag, ``{topic:partition}``.

=============================  ======  ===============================================================================
``P:{T:N}:log``                stream  record batches (`scripts`)
``P:{T:N}:meta``               hash    ``next``, ``first`` offset; ``time`` of the newest append, µs; ``bytes`` ever
                                       appended and ``trimmed``
``P:{T:N}:producers``          hash    producer id → epoch, last number, its newest batches
``P:{T:N}:writer:W``           string  the last write of the broker W and its outcome; goes away by itself
``P:{T:N}:groups``             hash    the groups that know of the partition
``P:{T:N}:group:G``            hash    how far the group G is, and which broker has what (`group_scripts`)
``P:{topics}``                 hash    topic → partitions
``P:{groups}``                 hash    group → what its members agreed on
``P:{brokers}``                hash    broker → until when it is taken to be alive, ms of the server's clock
``P:{brokers}:news``           stream  what brokers tell each other (`news`)
=============================  ======  ===============================================================================

``P`` is the prefix, ``T`` a topic, ``N`` a partition's number. Topic names have no braces, so the tag is what it seems.
"""

from __future__ import annotations

from portask.errors import ConfigError
from portask.messages import TopicPartition


class Keys:
    """Names of keys under one prefix.

    Args:
        prefix: Keeps several brokers' data apart in one server; no braces.
        writer: This broker.
    """

    def __init__(self, prefix: str, writer: str) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigError(f"redis: the prefix is {prefix!r}; it must be some text without braces")
        self._prefix = prefix.encode()
        self._writer = writer.encode()
        self.topics = self._prefix + b":{topics}"
        self.brokers = self._prefix + b":{brokers}"
        self.news = self.brokers + b":news"
        self.groups = self._prefix + b":{groups}"

    def partition(self, key: TopicPartition) -> PartitionKeys:
        """The keys of one partition."""
        return PartitionKeys(b"%s:{%s:%d}:" % (self._prefix, key.topic.encode(), key.partition), self._writer)


class PartitionKeys:
    """The keys of one partition, as bytes."""

    __slots__ = ("_start", "groups", "log", "meta", "producers", "writer")

    def __init__(self, start: bytes, writer: bytes) -> None:
        self._start = start
        self.log = start + b"log"
        self.meta = start + b"meta"
        self.producers = start + b"producers"
        self.groups = start + b"groups"
        self.writer = start + b"writer:" + writer

    def group(self, name: str) -> bytes:
        """Of one group."""
        return self._start + b"group:" + name.encode()
