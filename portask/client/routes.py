"""Topics that this client publishes to: how many partitions each has, and which one a message goes to.

The number of partitions is the broker's to say, in the answer to the first OPEN. Until it came, messages are
parked.

A message with a key goes to partition ``crc32c(key) % partitions``: all messages of a key stay in order, and
every client in any language can compute the same. Messages without a key stick to one partition for a batch
and then move to the next, which fills batches and spreads load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from crc32c import crc32c

from portask.client.channel import Channel
from portask.errors import Draining, NotConnected, PortaskError, RequestTimeout, UnknownPartition
from portask.messages import TopicPartition
from portask.wire.frames import Frame

if TYPE_CHECKING:
    from portask.client.publisher import Publisher

Resolved = Callable[[PortaskError | None], None]


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: ``crc32c(key) % partitions``, CRC32C as in RFC 3720 §B.4."""
    return int(crc32c(key)) % partitions


class Route:
    """One topic.

    Attributes:
        topic: Its name.
        partitions: How many it has; 0 until the broker said so.
    """

    __slots__ = ("_asking", "_channels", "_create", "_publisher", "_waiting", "partitions", "topic")

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._channels: dict[int, Channel] = {}
        self._waiting: list[tuple[float, Resolved]] = []
        self._asking = False
        self._create = 0
        self.topic = topic
        self.partitions = 0

    def channel(self, partition: int) -> Channel:
        """The channel of a partition; opened when something is sent on it."""
        found = self._channels.get(partition)
        if found is None:
            found = self._publisher.new_channel(TopicPartition(self.topic, partition))
            self._channels[partition] = found
        return found

    def check(self, partition: int) -> None:
        """Raises `UnknownPartition` unless the topic, once resolved, has that partition."""
        if not 0 <= partition < self.partitions:
            raise UnknownPartition(
                f"{self.topic} has the partitions 0 to {self.partitions - 1}, not {partition}"
            )

    def when_resolved(self, call: Resolved, create: int = 0) -> None:
        """``call(None)`` once `partitions` is known, ``call(error)`` if it cannot be; at once if it already is."""
        if self.partitions:
            call(None)
            return
        self._create = max(self._create, create)
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._publisher.options.request_timeout, call))
        self._publisher.arm()
        self.ask()

    async def resolve(self, create: int = 0) -> int:
        """How many partitions the topic has; it is created, with ``create`` of them, if it is new.

        Raises:
            BrokerError: the broker refused.
            RequestTimeout: no answer in time.
        """
        if not self.partitions:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def resolved(error: PortaskError | None) -> None:
                if future.done():
                    return
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

            self.when_resolved(resolved, create)
            await future
        return self.partitions

    def ask(self) -> None:
        """Asks the broker, if somebody waits and there is a link."""
        link = self._publisher.link
        if self._waiting and not self._asking and link is not None and link.usable:
            self._asking = True
            self.channel(0).open(link, self._create).add_done_callback(self._answered)

    def _answered(self, reply: asyncio.Future[Frame]) -> None:
        self._asking = False
        error = reply.exception()
        if isinstance(error, (NotConnected, Draining)) and self._publisher.reconnects:
            return  # asked again on the next link
        opened = self.channel(0).partitions
        if error is None and opened < 1:
            error = NotConnected(f"the broker's answer to opening {self.topic} was not understood")
        self.partitions = 0 if error else opened
        self._tell(error if isinstance(error, PortaskError) else None)

    def _tell(self, error: PortaskError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for _, call in waiting:
            call(error)

    def expire(self, now: float) -> None:
        """Fails those that waited too long."""
        timeout = self._publisher.options.request_timeout
        while self._waiting and self._waiting[0][0] <= now:
            _, call = self._waiting.pop(0)
            call(RequestTimeout(f"the broker could not be asked about {self.topic} within {timeout:g} s"))

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the broker's answer."""
        return bool(self._waiting)

    def link_lost(self) -> None:
        """What was asked will not be answered."""
        self._asking = False
        for channel in self._channels.values():
            channel.link_lost()

    def link_up(self) -> None:
        """Asks again, and sends what waits."""
        self.ask()
        for channel in self._channels.values():
            channel.pump()

    def sweep(self, now: float) -> None:
        """Fails what is past its deadline."""
        self.expire(now)
        for channel in self._channels.values():
            channel.expire(now)

    def fail(self, error: PortaskError) -> None:
        """The client is over."""
        self._tell(error)
        for channel in self._channels.values():
            channel.fail(error)
