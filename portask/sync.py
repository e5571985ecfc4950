"""The client without asyncio: the same names, blocking.

An event loop runs in a background thread; every call hands its work over and waits for the outcome, so
nothing hangs longer than it would with the asyncio client. Iterators are plain. Ctrl-C interrupts any wait.
Objects may be used from any thread, a subscription by one at a time.

::

    with portask.sync.connect() as client:
        client.publish("orders.eu", b"...")
        for message in client.subscribe("orders.>", "earliest"):
            print(message.payload)

A single `Client.publish` costs two thread switches; `publish_nowait` and `publish_many` share them among many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self, Unpack

from portask import client as aio
from portask.client.codecs import as_message
from portask.client.members import GroupSubscription
from portask.client.options import OptionsDict
from portask.client.positions import Start
from portask.client.results import (
    Delivered,
    DeliveredBatch,
    OffsetRange,
    Published,
    PublishManyResult,
    Receipt,
)
from portask.client.thread import LoopThread
from portask.config.settings import DEFAULT_URL
from portask.errors import PortaskError, RequestTimeout
from portask.messages import Buffer, Headers, Message, TopicPartition
from portask.wire import control

__all__ = ["Client", "Pending", "Producer", "Subscription", "connect"]

_CHUNK = 10_000  # messages that publish_many takes from its iterable at a time


class Pending:
    """A published message whose ack is outstanding; see `portask.client.Pending`."""

    __slots__ = ("_future", "_loop")

    def __init__(self, future: Future[Receipt], loop: LoopThread) -> None:
        self._future = future
        self._loop = loop

    def done(self) -> bool:
        """Whether it is acknowledged or has failed."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Receipt:
        """Waits for the ack; by default as long as the client's request timeout lets it take.

        Raises:
            PortaskError: it failed.
            RequestTimeout: it is not done within ``timeout`` seconds.
        """
        try:
            wait([self._future], timeout)
            if self._future.done():
                self._loop.outstanding.pop(self._future, None)
            return self._future.result(0)
        except TimeoutError:
            raise RequestTimeout(f"no ack within {timeout} s; the message may still be stored") from None


class Producer:
    """Publishes to one topic; see `portask.client.Producer`."""

    def __init__(self, loop: LoopThread, producer: aio.Producer) -> None:
        self._loop = loop
        self._producer = producer

    @property
    def topic(self) -> str:
        """Where to."""
        return self._producer.topic

    def publish(
        self,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
    ) -> Receipt:
        """Publishes one message and waits for its ack; see `portask.client.Producer.publish`."""
        return self._loop.run(
            self._producer.publish(
                payload, key=key, headers=headers, partition=partition, timestamp=timestamp
            )
        )

    def publish_nowait(
        self,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
    ) -> Pending:
        """Publishes one message without waiting for its ack. Waits for buffer room where there is none."""
        message = as_message(payload, key, headers, timestamp)
        future = self._loop.publish(lambda: self._producer, message, partition)
        return Pending(future, self._loop)

    def publish_many(
        self, messages: Iterable[Message | Buffer], *, partition: int | None = None
    ) -> PublishManyResult:
        """Publishes all of ``messages``; see `Client.publish_many`."""
        count = 0
        ranges: list[OffsetRange] = []
        source = iter(messages)
        while chunk := list(islice(source, _CHUNK)):
            # In the caller's thread: a generator may do there whatever it likes.
            result = self._loop.run(self._producer.publish_many(chunk, partition=partition))
            count += result.count
            ranges += result.ranges
        return PublishManyResult(self.topic, count, ranges)

    def flush(self) -> None:
        """Waits until everything published so far is acknowledged; see `portask.client.Producer.flush`."""
        self._loop.flush(self._producer.flush)

    def close(self) -> None:
        """Flushes and refuses further messages. Idempotent."""
        self._loop.flush(self._producer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except PortaskError as failure:
            if error is None:
                raise
            error.add_note(f"while the producer was closed: {failure}")


class Subscription:
    """A plain iterator of `Delivered`; see `portask.client.Subscription`."""

    def __init__(self, loop: LoopThread, subscription: aio.Subscription) -> None:
        self._loop = loop
        self._subscription = subscription
        self._member = subscription if isinstance(subscription, GroupSubscription) else None
        self._rest: Iterator[Delivered] = iter(())

    def start(self) -> Self:
        """Subscribes, and returns once the broker agreed; iterating does it too."""
        self._loop.run(self._subscription.start())
        return self

    def __iter__(self) -> Iterator[Delivered]:
        member = self._member
        while True:
            # Kept here and not in the generator: whoever breaks out of a loop can go on in another.
            if member is None:
                yield from self._rest
            else:
                for delivered in self._rest:
                    if (
                        delivered.offset < member.given_up
                    ):  # if not, the caller took so long that it was returned
                        member.at = delivered.offset
                        yield delivered
            batch = self._loop.run(self._subscription.next_batch())
            if batch is None:
                return
            self._rest = iter(batch.delivered())

    def batches(self) -> Iterator[DeliveredBatch]:
        """The same messages, a batch at a time. What a message iterator had begun is not given again."""
        self._rest = iter(())
        while (batch := self._loop.run(self._subscription.next_batch())) is not None:
            yield batch

    def get(self, timeout: float | None = None) -> Delivered:
        """The next message; see `portask.client.Subscription.get`."""
        member = self._member
        for delivered in self._rest:
            if member is not None:
                if delivered.offset >= member.given_up:
                    continue
                member.at = delivered.offset
            return delivered
        return self._loop.run(self._subscription.get(timeout))

    @property
    def filter(self) -> str:
        """What was subscribed to."""
        return self._subscription.filter

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """By partition, the offset after the last message that arrived."""
        return self._subscription.positions

    @property
    def buffered(self) -> tuple[int, int]:
        """Messages and bytes that arrived and are not consumed."""
        return self._subscription.buffered

    def close(self) -> None:
        """Unsubscribes. Idempotent."""
        self._rest = iter(())
        self._loop.run(self._subscription.close())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A connection to a broker; see `portask.client.Client`. Made by `connect`."""

    def __init__(self, loop: LoopThread, client: aio.Client) -> None:
        self._loop = loop
        self._client = client
        self._closed = False

    def publish(
        self,
        topic: str,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
        ttl: float | timedelta | None = None,
    ) -> Receipt:
        """Publishes one message and waits for its ack; see `portask.client.Client.publish`."""
        work = self._client.publish(
            topic, payload, key=key, headers=headers, partition=partition, timestamp=timestamp, ttl=ttl
        )
        return self._loop.run(work)

    def publish_nowait(
        self,
        topic: str,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int = 0,
        ttl: float | timedelta | None = None,
    ) -> Pending:
        """Publishes one message without waiting for its ack; failures come with `Pending.result`, or with `flush`.

        Waits only while 10,000 messages are on the way to the loop's thread, or the client's buffer is full.
        """
        message = as_message(payload, key, headers, timestamp)
        future = self._loop.publish(partial(self._client.default_producer, topic, ttl), message, partition)
        return Pending(future, self._loop)

    def publish_many(
        self,
        topic: str,
        messages: Iterable[Message | Buffer],
        *,
        partition: int | None = None,
        ttl: float | timedelta | None = None,
    ) -> PublishManyResult:
        """Publishes all in large batches and waits for the acks; see `portask.client.Client.publish_many`."""
        return self.producer(topic, ttl=ttl).publish_many(messages, partition=partition)

    def producer(
        self,
        topic: str,
        *,
        linger_ms: float | None = None,
        batch_bytes: int | None = None,
        ttl: float | timedelta | None = None,
    ) -> Producer:
        """A producer for one topic with a linger of its own; see `portask.client.Client.producer`."""

        async def make() -> aio.Producer:
            return self._client.producer(topic, linger_ms=linger_ms, batch_bytes=batch_bytes, ttl=ttl)

        return Producer(self._loop, self._loop.run(make()))

    def flush(self) -> None:
        """Waits until everything published so far is acknowledged; see `portask.client.Client.flush`."""
        self._loop.flush(self._client.flush)

    def create_topic(self, topic: str, partitions: int = 0) -> int:
        """Creates a topic unless it exists; returns how many partitions it has."""
        return self._loop.run(self._client.create_topic(topic, partitions))

    def subscribe(
        self,
        filter: str,  # noqa: A002 - the wire's word for it
        start: Start = "latest",
        *,
        partition: int | None = None,
        credit_messages: int | None = None,
        credit_bytes: int = 8 * 1024 * 1024,
        group: str = "",
        ack_wait: float | timedelta | None = None,
        max_deliveries: int | None = None,
        dead_letter: str | None = None,
        auto_ack: bool = True,
    ) -> Subscription:
        """A subscription; begins with ``with``, `start` or iterating; see `portask.client.Client.subscribe`."""

        async def make() -> aio.Subscription:
            return self._client.subscribe(
                filter,
                start,
                partition=partition,
                credit_messages=credit_messages,
                credit_bytes=credit_bytes,
                group=group,
                ack_wait=ack_wait,
                max_deliveries=max_deliveries,
                dead_letter=dead_letter,
                auto_ack=auto_ack,
            )

        return Subscription(self._loop, self._loop.run(make()))

    def request(
        self,
        topic: str,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timeout: float | None = None,
    ) -> Delivered:
        """Publishes a message and waits for the first reply to it; see `portask.client.Client.request`."""
        return self._loop.run(
            self._client.request(
                topic, payload, key=key, headers=headers, partition=partition, timeout=timeout
            )
        )

    def respond(self, message: Delivered, payload: Buffer, *, headers: Headers | None = None) -> None:
        """Replies to a request; see `portask.client.Client.respond`."""
        self._loop.run(self._client.respond(message, payload, headers=headers))

    def fetch(
        self, topic: str, partition: int = 0, start: Start = "earliest", max_bytes: int = 1024 * 1024
    ) -> list[DeliveredBatch]:
        """Reads once, without a subscription; see `portask.client.Client.fetch`."""
        return self._loop.run(self._client.fetch(topic, partition, start, max_bytes))

    def topics(self, filter: str = ">") -> list[control.TopicInfo]:  # noqa: A002 - the wire's word for it
        """The topics that match; see `portask.client.Client.topics`."""
        return self._loop.run(self._client.topics(filter))

    def describe(self, filter: str = ">") -> control.Described:  # noqa: A002 - the wire's word for it
        """What the broker says of itself and of the topics that match."""
        return self._loop.run(self._client.describe(filter))

    def groups(self, filter: str = ">") -> list[control.GroupInfo]:  # noqa: A002 - the wire's word for it
        """The groups that match, and where they stand; see `portask.client.Client.groups`."""
        return self._loop.run(self._client.groups(filter))

    def drop_group(self, group: str) -> None:
        """Forgets a group that has no members; see `portask.client.Client.drop_group`."""
        self._loop.run(self._client.drop_group(group))

    def ping(self) -> float:
        """Seconds of one round trip; see `portask.client.Client.ping`."""
        return self._loop.run(self._client.ping())

    @property
    def broker(self) -> control.Welcome:
        """What the broker said of itself."""
        return self._client.broker

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._client.connected

    @property
    def address(self) -> str:
        """``host:port`` of the broker that is, or was last, connected."""
        return self._client.address

    @property
    def producer_id(self) -> int:
        """The id that this client's batches carry; 0 if it is not idempotent."""
        return self._client.producer_id

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent or acknowledged."""
        return self._client.buffered

    @property
    def published(self) -> Published:
        """Batches that were formed so far, messages in them, and their bytes; those under way included."""
        return self._client.published

    def drain(self) -> None:
        """Finishes what is under way and disconnects; what arrived can still be iterated; then `close`."""
        self._loop.run(self._client.drain())

    def close(self) -> None:
        """Closes the client, joins its thread. Idempotent.

        Raises:
            PortaskError: a publish failed that nobody looked at; everything is closed nevertheless.
        """
        if not self._closed:
            self._closed = True
            try:
                self._loop.flush(self._client.close)
            finally:
                self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except PortaskError as failure:
            if error is None:
                raise
            error.add_note(f"while the client was closed: {failure}")


def connect(url: str | Sequence[str] = DEFAULT_URL, **options: Unpack[OptionsDict]) -> Client:
    """Connects to a broker: ``with portask.sync.connect(url) as client``. Arguments as for `portask.connect`.

    Raises:
        ConfigError: a URL or an option is wrong.
        ConnectFailed: no address answered.
        VariantError: the codec or the compression is not there.
    """
    connecting = aio.connect(url, **options)

    async def make() -> aio.Client:
        return await connecting

    loop = LoopThread()
    try:
        return Client(loop, loop.run(make()))
    except BaseException:
        loop.stop()
        raise
