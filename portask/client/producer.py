"""Gathers published messages into batches, one accumulator a partition.

A message waits in its accumulator until one of these: the linger is over (0: the end of this iteration of the
event loop); `batch_bytes` are gathered; somebody flushes. While `max_in_flight` batches of the partition are
unacknowledged, what is due keeps waiting and gathering, so that the batches grow exactly when the broker or
the network is the slower side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from portask.client.bulk import publish_many
from portask.client.channel import Channel
from portask.client.codecs import as_message, size_of
from portask.client.pending import Pending
from portask.client.results import PublishManyResult, Receipt
from portask.client.routes import partition_of
from portask.errors import BufferExhausted, NotConnected, PortaskError, RequestTimeout
from portask.messages import Buffer, Headers, Message

if TYPE_CHECKING:
    from portask.client.publisher import Publisher


class Accumulator:
    """Messages of one partition that will share a batch."""

    __slots__ = ("_asked", "_producer", "channel", "deadline", "messages", "pendings", "size")

    def __init__(self, producer: Producer, channel: Channel) -> None:
        self._producer = producer
        self._asked = False
        self.channel = channel
        self.messages: list[Message] = []
        self.pendings: list[Pending] = []
        self.size = 0
        self.deadline = 0.0

    def due(self) -> None:
        """The linger is over: goes now, or as soon as the channel has room."""
        if not self.messages or self._asked:
            return
        if self.channel.has_room:
            self.seal()
        else:
            self._asked = True
            self.channel.when_room(self._room)

    def _room(self) -> None:
        self._asked = False
        self.seal()

    def seal(self) -> None:
        """Makes a batch of what is here and puts it in line."""
        if self.messages:
            messages, pendings, size = self.messages, self.pendings, self.size
            self.messages, self.pendings, self.size = [], [], 0
            self._producer.ship(self.channel, messages, pendings, size)

    def expire(self, now: float) -> None:
        """Fails what waited too long for room."""
        if self.messages and self.deadline <= now:
            self.fail(
                RequestTimeout(
                    f"{self.channel.key} took nothing before the deadline; the messages were not sent"
                )
            )

    def fail(self, error: PortaskError) -> None:
        """Nothing here will be sent."""
        pendings, size = self.pendings, self.size
        self.messages, self.pendings, self.size = [], [], 0
        self._producer.give_up(pendings, size, error)


class Producer:
    """Publishes to one topic. Made by `Client.producer`; an async context manager that flushes at its end.

    Attributes:
        topic: Where to.
        linger_ms: How long a message may wait for others.
        batch_bytes: Bytes that end the wait.
    """

    def __init__(
        self, publisher: Publisher, topic: str, linger_ms: float, batch_bytes: int, ttl: int
    ) -> None:
        self.topic = topic
        self.linger_ms = linger_ms
        self.batch_bytes = batch_bytes
        self._publisher = publisher
        self._route = publisher.route(topic)
        self._ttl = ttl
        self._accumulators: dict[int, Accumulator] = {}
        self._parked: list[tuple[Message, int | None, Pending, int]] = []
        self._sticky = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # ── for applications ──────────────────────────────────────────────────────────────────────────────────────────

    async def publish(
        self,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
    ) -> Receipt:
        """Publishes one message and waits for its ack; waits for buffer room first where there is none.

        Cancelling stops the waiting, not the message.

        Args:
            payload: The application's bytes.
            key: Chooses the partition.
            headers: Small metadata.
            partition: Overrides what the key would choose.
            timestamp: µs since the epoch; 0 for the present.

        Raises:
            RequestTimeout: no ack in time; the message may have been stored.
            BufferExhausted: no room in time; it was not sent.
            UnknownPartition: the topic has no such partition.
            BatchTooLarge: the broker takes no frame so large.
            CodecError: a field that the wire does not carry.
            BrokerError: the broker refused it.
            StorageError: the broker could not store it.
            NotConnected: the client is closed or gave up.
        """
        return await self.put(as_message(payload, key, headers, timestamp), partition)

    def publish_nowait(
        self,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
    ) -> Pending:
        """Publishes one message without waiting. Await the `Pending` for the receipt, or leave failures to `flush`.

        Args:
            payload: The application's bytes.
            key: Chooses the partition.
            headers: Small metadata.
            partition: Overrides what the key would choose.
            timestamp: µs since the epoch; 0 for the present.

        Raises:
            BufferExhausted: ``buffer_bytes`` are waiting already. Nothing was sent: slow down, or await
            `publish`. UnknownPartition: the topic has no such partition. NotConnected: the client is closed
            or gave up.
        """
        return self.put_nowait(as_message(payload, key, headers, timestamp), partition)

    async def put(self, message: Message, partition: int | None = None) -> Receipt:
        """`publish` for a `Message` that is there already."""
        size = size_of(message)
        publisher = self._publisher
        self._check_open()
        try:
            publisher.budget.take(size)
        except BufferExhausted:
            await publisher.budget.wait(size, publisher.options.request_timeout)
        return await self._put(message, partition, size)

    def put_nowait(self, message: Message, partition: int | None = None) -> Pending:
        """`publish_nowait` for a `Message` that is there already."""
        size = size_of(message)
        self._check_open()
        self._publisher.budget.take(size)
        return self._put(message, partition, size)

    async def publish_many(
        self, messages: Iterable[Message | Buffer], *, partition: int | None = None
    ) -> PublishManyResult:
        """Publishes all of ``messages`` in large batches and waits for the acks; see `Client.publish_many`."""
        self._check_open()
        self.seal()
        return await publish_many(
            self._publisher,
            self.topic,
            messages,
            partition=partition,
            batch_bytes=self.batch_bytes,
            ttl=self._ttl,
        )

    async def flush(self) -> None:
        """Sends what lingers and waits until everything published by this client so far is acknowledged.

        Raises:
            PortaskError: the first failure of a message whose `Pending` nobody looked at.
        """
        await self._publisher.flush()

    async def close(self) -> None:
        """Flushes and refuses further messages. Idempotent.

        Raises:
            PortaskError: as `flush`.
        """
        if not self._closed:
            self._closed = True
            try:
                await self._publisher.flush()
            finally:
                self._publisher.forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except PortaskError as failure:
            if error is None:
                raise
            error.add_note(f"while the producer was closed: {failure}")

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnected(f"this producer of {self.topic} is closed")
        self._publisher.check_open()

    def _put(self, message: Message, partition: int | None, size: int) -> Pending:
        """The message is paid for; it goes to its accumulator, or is parked until the partitions are known."""
        publisher = self._publisher
        pending = Pending(publisher.unclaimed)
        publisher.arm()
        route = self._route
        if route.partitions:
            try:
                self._add(message, partition, pending, size)
            except PortaskError:
                publisher.budget.give(size)
                raise
        else:
            self._parked.append((message, partition, pending, size))
            if len(self._parked) == 1:
                route.when_resolved(self._unpark)
        return pending

    def _add(self, message: Message, partition: int | None, pending: Pending, size: int) -> None:
        route = self._route
        if partition is not None:
            route.check(partition)
        elif message.key is not None:
            partition = partition_of(message.key, route.partitions)
        else:
            partition = self._sticky
        accumulator = self._accumulators.get(partition)
        if accumulator is None:
            accumulator = self._accumulators[partition] = Accumulator(self, route.channel(partition))
        if not accumulator.messages:
            self._begin(accumulator)
        accumulator.messages.append(message)
        accumulator.pendings.append(pending)
        accumulator.size += size
        if accumulator.size >= self.batch_bytes:
            accumulator.seal()

    def _begin(self, accumulator: Accumulator) -> None:
        publisher = self._publisher
        patience = publisher.options.request_timeout + self.linger_ms / 1000
        accumulator.deadline = publisher.loop.time() + patience
        if not self.linger_ms:
            publisher.dispatch_soon(accumulator)
        elif self._timer is None:
            self._timer = publisher.loop.call_later(self.linger_ms / 1000, self._linger_over)

    def _linger_over(self) -> None:
        self._timer = None
        for accumulator in self._accumulators.values():
            accumulator.due()
        self._publisher.write()

    def _unpark(self, error: PortaskError | None) -> None:
        parked, self._parked = self._parked, []
        for message, partition, pending, size in parked:
            try:
                if error is not None:
                    raise error
                self._add(message, partition, pending, size)
            except PortaskError as failure:
                self.give_up([pending], size, failure)
        self._publisher.write()

    def ship(self, channel: Channel, messages: list[Message], pendings: list[Pending], size: int) -> None:
        """Puts one accumulator's messages in line; those that cannot be encoded fail alone."""
        partitions = self._route.partitions
        if partitions > 1 and channel.key.partition == self._sticky:
            self._sticky = (self._sticky + 1) % partitions
        publisher = self._publisher
        key = channel.key
        share = size // len(messages)
        rest = size - share * len(messages)
        for start, count, data in publisher.encode(messages, self._ttl):
            own = pendings[start : start + count]
            taken = share * count + rest
            rest = 0
            if isinstance(data, PortaskError):
                self.give_up(own, taken, data)
                continue

            def settle(base: int, error: PortaskError | None, own: list[Pending] = own) -> None:
                if error is None:
                    for offset, pending in enumerate(own, base):
                        pending.acknowledge(key, offset if base >= 0 else -1)
                else:
                    for pending in own:
                        pending.fail(error)

            publisher.ship(channel, data, count, taken, settle)

    def give_up(self, pendings: list[Pending], size: int, error: PortaskError) -> None:
        """These messages will not be sent."""
        self._publisher.budget.give(size)
        for pending in pendings:
            pending.fail(error)

    def seal(self) -> None:
        """Puts everything that is here in line, without waiting."""
        for accumulator in self._accumulators.values():
            accumulator.seal()

    def sweep(self, now: float) -> None:
        """Fails what waited too long."""
        for accumulator in self._accumulators.values():
            accumulator.expire(now)

    def fail(self, error: PortaskError) -> None:
        """The client is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for accumulator in self._accumulators.values():
            accumulator.fail(error)

    @property
    def parked(self) -> bool:
        """Whether messages wait to learn how many partitions there are."""
        return bool(self._parked)
