"""The client without asyncio: the same names, blocking.

An event loop runs in a background thread; every call hands its work over and waits for the outcome, so
nothing hangs longer than it would with the asyncio client. Iterators are plain. Ctrl-C interrupts any wait.
Objects may be used from any thread, a subscription by one at a time.

::

    with portask.sync.connect() as client:
        client.publish("orders.eu", b"...")
        for message in client.subscribe("orders.>", "earliest"):
            print(message.payload)

A single `Client.publish` costs two thread switches, about 50 µs; `publish_nowait` and `publish_many` share
them among many.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from portask import client as aio
from portask.client.options import OptionsDict
from portask.client.positions import Start
from portask.client.results import Delivered, DeliveredBatch, OffsetRange, PublishManyResult, Receipt
from portask.config.settings import DEFAULT_URL
from portask.errors import NotConnected, PortaskError, RequestTimeout
from portask.messages import Buffer, Headers, Message, TopicPartition
from portask.wire import control

__all__ = ["Client", "Pending", "Producer", "Subscription", "connect"]

T = TypeVar("T")
_KEPT = 100_000  # failed publishes that are remembered until somebody looks
_CHUNK = 10_000  # messages that publish_many takes from its iterable at a time


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._outstanding: dict[
            Future[Receipt], None
        ] = {}  # of publish_nowait; failures until somebody looks
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="portask-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts ``work`` on the loop's thread."""
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            work.close()
            raise NotConnected("the client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` there and waits; if the waiting is interrupted, cancels it."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def publish(self, work: Coroutine[Any, Any, Receipt]) -> Pending:
        """Starts a publish that nobody waits for yet."""
        future = self.begin(work)
        self._outstanding[future] = None
        future.add_done_callback(self._published)
        return Pending(future, self._outstanding)

    def _published(self, future: Future[Receipt]) -> None:
        if future.cancelled() or future.exception() is None or len(self._outstanding) > _KEPT:
            self._outstanding.pop(future, None)

    def flush(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a flush, and raises the first failure of a publish that nobody looked at."""
        self.run(work)
        waited = list(self._outstanding)
        wait(waited)
        failed = [future for future in waited if future in self._outstanding and not future.cancelled()]
        for future in waited:
            self._outstanding.pop(future, None)
        for future in failed:
            error = future.exception()
            if error is not None:
                raise error

    def stop(self) -> None:
        """Ends the loop and joins the thread. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


class Pending:
    """A published message whose ack is outstanding; see `portask.client.Pending`."""

    __slots__ = ("_future", "_outstanding")

    def __init__(self, future: Future[Receipt], outstanding: dict[Future[Receipt], None]) -> None:
        self._future = future
        self._outstanding = outstanding

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
                self._outstanding.pop(self._future, None)
            return self._future.result(0)
        except TimeoutError:
            raise RequestTimeout(f"no ack within {timeout} s; the message may still be stored") from None


class Producer:
    """Publishes to one topic; see `portask.client.Producer`."""

    def __init__(self, loop: _Loop, producer: aio.Producer) -> None:
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
        work = self._producer.publish(
            payload, key=key, headers=headers, partition=partition, timestamp=timestamp
        )
        return self._loop.publish(work)

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
        self._loop.flush(self._producer.flush())

    def close(self) -> None:
        """Flushes and refuses further messages. Idempotent."""
        self._loop.flush(self._producer.close())

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

    def __init__(self, loop: _Loop, subscription: aio.Subscription) -> None:
        self._loop = loop
        self._subscription = subscription
        self._rest: Iterator[Delivered] = iter(())

    def start(self) -> Self:
        """Subscribes, and returns once the broker agreed; iterating does it too."""
        self._loop.run(self._subscription.start())
        return self

    def __iter__(self) -> Iterator[Delivered]:
        while True:
            # Kept here and not in the generator: whoever breaks out of a loop can go on in another.
            yield from self._rest
            batch = self._loop.run(self._subscription.next_batch())
            if batch is None:
                return
            self._rest = iter(batch.delivered())

    def batches(self) -> Iterator[DeliveredBatch]:
        """The same messages, a batch at a time. What a message iterator had begun is not given again."""
        while (batch := self._loop.run(self._subscription.next_batch())) is not None:
            yield batch

    def get(self, timeout: float | None = None) -> Delivered:
        """The next message; see `portask.client.Subscription.get`."""
        for delivered in self._rest:
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

    def __init__(self, loop: _Loop, client: aio.Client) -> None:
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
        """Publishes one message without waiting for its ack; errors come with `Pending.result`."""
        work = self._client.publish(
            topic, payload, key=key, headers=headers, partition=partition, timestamp=timestamp, ttl=ttl
        )
        return self._loop.publish(work)

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
        self._loop.flush(self._client.flush())

    def create_topic(self, topic: str, partitions: int = 0) -> int:
        """Creates a topic unless it exists; returns how many partitions it has."""
        return self._loop.run(self._client.create_topic(topic, partitions))

    def subscribe(
        self,
        filter: str,  # noqa: A002 - the wire's word for it
        start: Start = "latest",
        *,
        partition: int | None = None,
        credit_messages: int = 65_536,
        credit_bytes: int = 8 * 1024 * 1024,
    ) -> Subscription:
        """A subscription; begins with ``with``, `start` or iterating; see `portask.client.Client.subscribe`."""
        made = self._client.subscribe(
            filter, start, partition=partition, credit_messages=credit_messages, credit_bytes=credit_bytes
        )
        return Subscription(self._loop, made)

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
    def buffered(self) -> int:
        """Bytes that wait to be sent or acknowledged."""
        return self._client.buffered

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
                self._loop.flush(self._client.close())
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

    loop = _Loop()
    try:
        return Client(loop, loop.run(make()))
    except BaseException:
        loop.stop()
        raise
