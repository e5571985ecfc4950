"""`publish_many`: any number of messages in large batches, a bounded number of them under way.

There is no accumulator and no object a message here: a chunk of the input becomes a batch at once. How many
messages make a batch of the wanted size is learnt from the batch before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from portask.client.channel import Channel
from portask.client.codecs import as_message
from portask.client.results import OffsetRange, PublishManyResult
from portask.client.routes import Route, partition_of
from portask.errors import PortaskError
from portask.messages import Buffer, Message
from portask.wire.frames import HEADER_SIZE

if TYPE_CHECKING:
    from portask.client.publisher import Publisher

_FIRST_CHUNK = 256  # messages, before anything is known about their size
_SPREAD = 16  # partitions that one chunk without keys is dealt to, at most


async def publish_many(
    publisher: Publisher,
    topic: str,
    messages: Iterable[Message | Buffer],
    *,
    partition: int | None,
    batch_bytes: int,
    ttl: int,
) -> PublishManyResult:
    """See `portask.client.Client.publish_many`."""
    route = publisher.route(topic)
    await route.resolve()
    if partition is not None:
        route.check(partition)
    run = _Run(publisher, route, partition, ttl)
    source = iter(messages)
    spread = 1 if partition is not None else min(route.partitions, _SPREAD)
    chunk = _FIRST_CHUNK
    while run.failed is None and (taken := list(islice(source, chunk))):
        ready = [m if type(m) is Message else _message(m) for m in taken]
        encoded = await run.send(ready)
        if encoded:
            chunk = max(1, min(4 * chunk, batch_bytes * spread * len(ready) // encoded))
        # Hands over to the loop: acks are read, and others get their turn, once a batch.
        await asyncio.sleep(0)
    return await run.finish()


def _message(item: Message | Buffer) -> Message:
    return item if isinstance(item, Message) else as_message(item, None, None, 0)


class _Run:
    """One `publish_many`: batches under way, and where those that arrived lie."""

    def __init__(self, publisher: Publisher, route: Route, partition: int | None, ttl: int) -> None:
        self.failed: PortaskError | None = None
        self._publisher = publisher
        self._route = route
        self._partition = partition
        self._ttl = ttl
        self._next = 0
        self._ranges: list[OffsetRange | None] = []
        self._open = 0
        self._idle: asyncio.Future[None] | None = None

    async def send(self, messages: list[Message]) -> int:
        """Sends one chunk; returns the bytes of its batches. Waits for room in the channel and in the buffer."""
        publisher = self._publisher
        sent = 0
        try:
            for partition, group in self._grouped(messages):
                channel = self._route.channel(partition)
                for _, count, data in publisher.encode(group, self._ttl):
                    if isinstance(data, PortaskError):
                        self.failed = self.failed or data
                        return sent
                    await channel.room()
                    size = len(data) + HEADER_SIZE
                    await publisher.budget.wait(size, publisher.options.request_timeout)
                    publisher.arm()
                    self._ship(channel, data, count, size)
                    sent += size
        finally:
            publisher.write()
        return sent

    def _ship(self, channel: Channel, data: bytes, count: int, size: int) -> None:
        place = len(self._ranges)
        self._ranges.append(None)
        self._open += 1

        def settle(base: int, error: PortaskError | None) -> None:
            self._open -= 1
            if error is None:
                self._ranges[place] = OffsetRange(channel.key.partition, base, count)
            elif self.failed is None:
                self.failed = error
            if not self._open and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

        self._publisher.ship(channel, data, count, size, settle)

    def _grouped(self, messages: list[Message]) -> list[tuple[int, list[Message]]]:
        partitions = self._route.partitions
        if self._partition is not None:
            return [(self._partition, messages)]
        if partitions == 1:
            return [(0, messages)]
        groups: dict[int, list[Message]] = {}
        free: list[Message] = []
        for message in messages:
            if message.key is None:
                free.append(message)
            else:
                groups.setdefault(partition_of(message.key, partitions), []).append(message)
        if free:  # dealt out in runs, so that each batch stays large
            spread = min(partitions, _SPREAD, len(free))
            run = -(-len(free) // spread)
            for start in range(0, len(free), run):
                groups.setdefault(self._next % partitions, []).extend(free[start : start + run])
                self._next += 1
        return list(groups.items())

    async def finish(self) -> PublishManyResult:
        if self._open:
            self._idle = self._publisher.loop.create_future()
            await self._idle
        ranges = [found for found in self._ranges if found is not None]
        count = sum(found.count for found in ranges)
        if self.failed is not None:
            self.failed.add_note(
                f"{count:,} messages of this publish_many to {self._route.topic} were acknowledged before or besides"
            )
            raise self.failed
        return PublishManyResult(self._route.topic, count, ranges)
