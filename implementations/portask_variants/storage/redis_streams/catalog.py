"""Which topics, partitions and groups there are in the server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from portask.contracts import GroupPart
from portask.messages import TopicPartition
from portask_variants.storage.redis_streams import scripts
from portask_variants.storage.redis_streams.keys import Keys
from portask_variants.storage.redis_streams.lines import Line
from portask_variants.storage.redis_streams.link import Command, Link
from portask_variants.storage.redis_streams.sharing import part_of

_PIPELINE = 500
"""Commands sent at a time while everything is looked at."""


class Extent(NamedTuple):
    """What a partition holds: its offsets, and bytes."""

    first: int
    next: int
    size: int


def extent(reply: Sequence[bytes | None]) -> Extent:
    """From HMGET of `META`; ``next`` is 0 where there is nothing."""
    first, following, size, trimmed = (int(value or 0) for value in reply)
    return Extent(first, following, size - trimmed)


META = ("first", "next", "bytes", "trimmed")


class Catalog:
    """Lives on the loop's thread.

    Attributes:
        topics: Name → partitions, as far as is known here.
    """

    def __init__(self, link: Link, keys: Keys, timeout: float) -> None:
        self.topics: dict[str, int] = {}
        self._link = link
        self._keys = keys
        self._timeout = timeout

    async def declare(self, lines: Iterable[Line]) -> None:
        """Sees to it that the server knows the topics of partitions that are about to be written."""
        for line in lines:
            key = line.key
            if self.topics.get(key.topic, 0) <= key.partition:
                await self.agree(key.topic, 1, key.partition + 1)

    async def agree(self, topic: str, wanted: int, least: int) -> int:
        """How many partitions a topic has: ``wanted`` if it is new, at least ``least``."""
        command = ("EVAL", scripts.DECLARE, 1, self._keys.topics, topic, wanted, least)
        (reply,) = await self._run(self._keys.topics, [command])
        found = self.topics[topic] = int(reply)
        return found

    async def refresh(self) -> list[TopicPartition]:
        """Reads which topics there are; every partition of them."""
        (flat,) = await self._run(self._keys.topics, [("HGETALL", self._keys.topics)])
        self.topics = {flat[at].decode(): int(flat[at + 1]) for at in range(0, len(flat), 2)}
        return [
            TopicPartition(topic, number) for topic, count in self.topics.items() for number in range(count)
        ]

    async def extents(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Extent]:
        """What each of the partitions holds, of those that hold something."""
        wanted = list(partitions)
        replies = await self._each([(self._keys.partition(key).meta, "HMGET", *META) for key in wanted])
        found = {key: extent(reply) for key, reply in zip(wanted, replies, strict=True)}
        return {key: each for key, each in found.items() if each.next}

    async def group_parts(self) -> list[GroupPart]:
        """What is known of every group in every partition."""
        (flat,) = await self._run(self._keys.groups, [("HGETALL", self._keys.groups)])
        settings = {flat[at].decode(): flat[at + 1] for at in range(0, len(flat), 2)}
        there = await self.refresh()
        replies = await self._each([(self._keys.partition(key).groups, "HGETALL") for key in there])
        found = [(name.decode(), key) for key, flat in zip(there, replies, strict=True) for name in flat[::2]]
        hashes = await self._each([(self._keys.partition(key).group(name), "HGETALL") for name, key in found])
        return [
            part_of(name, key, settings.get(name, b""), flat)
            for (name, key), flat in zip(found, hashes, strict=True)
        ]

    async def _each(self, wanted: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One command a key, ``(key, name, *words)``; the replies in order. A pipeline a node and `_PIPELINE`."""
        by_lane: dict[str, list[int]] = {}
        for at, (key, *_) in enumerate(wanted):
            by_lane.setdefault(self._link.lane(key), []).append(at)
        replies: list[Any] = [None] * len(wanted)
        for places in by_lane.values():
            for begin in range(0, len(places), _PIPELINE):
                part = places[begin : begin + _PIPELINE]
                commands = [(wanted[at][1], wanted[at][0], *wanted[at][2:]) for at in part]
                for at, reply in zip(part, await self._run(wanted[part[0]][0], commands), strict=True):
                    replies[at] = reply
        return replies

    async def _run(self, key: bytes, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.run(self._link.lane(key), commands, self._timeout)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies
