"""The `Client`: one logical connection that survives the loss of the real one.

What happens to work that was under way when a connection is lost:

- publishes are kept, and sent again on the next connection, in order per partition (at least once);
- subscriptions go on after the last batch that arrived;
- `fetch`, `topics` and `create_topic` are asked again, within their deadline;
- `ping` fails with `NotConnected`: it is about the connection itself.

When the client gives up (reconnecting is off, or its limits are reached), everything outstanding and
everything later raises `NotConnected` with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from portask import registry
from portask.client.codecs import Decoder, Encoder, as_message, chosen
from portask.client.connector import Connector
from portask.client.encryption import Encryption
from portask.client.leases import Membership, milliseconds
from portask.client.members import GroupSubscription
from portask.client.options import Address, Options
from portask.client.pending import Pending
from portask.client.positions import Start, parse_start
from portask.client.producer import Producer
from portask.client.publisher import Publisher
from portask.client.requests import Requester
from portask.client.results import Delivered, DeliveredBatch, Published, PublishManyResult, Receipt
from portask.client.subscriber import Subscriber
from portask.client.subscription import Subscription
from portask.errors import ConfigError, NotConnected, PortaskError
from portask.messages import Buffer, Headers, Message
from portask.wire import batches, control
from portask.wire.frames import Opcode


class Client:
    """A connection to a broker. Made by `connect`; belongs to the event loop that it was made in.

    Attributes:
        options: What it was made with.
    """

    def __init__(
        self, addresses: Sequence[Address], options: Options, encryption: Encryption | None = None
    ) -> None:
        self.options = options
        self._loop = asyncio.get_running_loop()
        self._publisher = Publisher(options)
        self._subscriber = Subscriber(options)
        self._connector = Connector(addresses, options, self._publisher, self._subscriber, encryption)
        self._requester = Requester(self, self._connector, self._publisher)
        self._producers: dict[tuple[str, int], Producer] = {}
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Makes the first connection. `connect` does it.

        Raises:
            ConnectFailed: no address answered.
            AuthenticationFailed: the broker does not know who this is.
            VariantError: the codec or the compression is not there.
        """
        options = self.options
        for family, name in (("codec", options.codec), ("compression", options.compression)):
            if name:
                registry.get(family, name).load()  # a wrong name is said before anything is sent
        link = await self._connector.dial()
        welcome = link.welcomed.result()
        try:
            codec = chosen("codec", options.codec, welcome.codec)
            packing = chosen(
                "compression", options.compression, welcome.compression, options.compression_options
            )
            self._publisher.encoder = Encoder(codec, packing)
            self._subscriber.decoder = Decoder(codec, options.dictionaries)
        except BaseException:
            link.abort(NotConnected("the client was given up"))
            raise
        self._connector.begin(link)

    # ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(
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
        """Publishes one message and waits for its ack. `Producer.publish` lists the errors.

        Args:
            topic: Created by the broker if it is new and the broker does that.
            payload: The application's bytes.
            key: Chooses the partition: ``crc32c(key) % partitions``. Without one, batches take turns.
            headers: Small metadata.
            partition: Overrides what the key would choose.
            timestamp: µs since the epoch; 0 for the present.
            ttl: Seconds after which it is not delivered any more; ``None`` for never.
        """
        producer = self.default_producer(topic, ttl)
        return await producer.publish(
            payload, key=key, headers=headers, partition=partition, timestamp=timestamp
        )

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
        """Publishes one message without waiting; arguments as for `publish`, errors as for `Producer.publish_nowait`.

        What is published in one iteration of the event loop shares batches. Costs about 3 µs a message.
        """
        producer = self.default_producer(topic, ttl)
        return producer.publish_nowait(
            payload, key=key, headers=headers, partition=partition, timestamp=timestamp
        )

    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Message | Buffer],
        *,
        partition: int | None = None,
        ttl: float | timedelta | None = None,
    ) -> PublishManyResult:
        """Publishes all of ``messages`` in large batches, a bounded number of them under way, and waits for all acks.

        The fast way: about 1 µs a message, one pass of Python a batch. ``messages`` may be a generator; it is
        read as fast as the broker takes them. At the first failure it stops reading, waits for what is under
        way and raises; the exception's notes say how many were acknowledged.

        Args:
            topic: Where to.
            messages: Payloads, or `Message` objects with key, headers and timestamp.
            partition: Overrides what keys would choose.
            ttl: Seconds after which they are not delivered any more.

        Raises:
            PortaskError: as `Producer.publish`.
        """
        return await self.default_producer(topic, ttl).publish_many(messages, partition=partition)

    def producer(
        self,
        topic: str,
        *,
        linger_ms: float | None = None,
        batch_bytes: int | None = None,
        ttl: float | timedelta | None = None,
    ) -> Producer:
        """A producer for one topic with a linger of its own; an async context manager that flushes at its end.

        Args:
            topic: Where to.
            linger_ms: How long a message may wait for others; the client's if not given.
            batch_bytes: Bytes that end the wait; the client's if not given.
            ttl: Seconds after which its messages are not delivered any more.
        """
        self._connector.check_open()
        linger = self.options.linger_ms if linger_ms is None else linger_ms
        size = self.options.batch_bytes if batch_bytes is None else batch_bytes
        if linger < 0 or size < 1:
            raise ConfigError(f"linger_ms={linger!r} must be 0 or more, and batch_bytes={size!r} 1 or more")
        return self._publisher.producer(topic, linger, size, _milliseconds(ttl))

    async def flush(self) -> None:
        """Sends what lingers and waits until everything published so far is acknowledged.

        Raises:
            PortaskError: the first failure of a message whose `Pending` nobody looked at.
        """
        await self._publisher.flush()

    async def create_topic(self, topic: str, partitions: int = 0) -> int:
        """Creates a topic with so many partitions (0: the broker's default) unless it exists; returns how many it has.

        Raises:
            InvalidTopic: not a topic name.
            NotPermitted: the broker does not create topics, or not with so many partitions.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        self._connector.check_open()
        return await self._publisher.route(topic).resolve(partitions)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────

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
        """A subscription; it begins with ``async with``, ``await`` or the first iteration (see `Subscription.start`).

        With ``group`` it is a member of that group, which is made if it is new and stays until it is dropped: its
        members share the messages, and each message is done once a member acknowledged it (`Leased.ack`). Until then
        it is delivered again: at least once, in no order across members.

        Args:
            filter: A topic, or a filter: ``orders.*``, ``orders.>``, ``>``. Topics created later are included.
            start: ``"latest"``, ``"earliest"``, an offset, a `datetime` with a time zone, or a `timedelta`
                (so long ago). For a group it counts where the group is new.
            partition: One partition only.
            credit_messages: Most messages that may wait here unconsumed; of a group's member, most that it may have
                unacknowledged. 65,536 if not given, 1,024 for a member. Long jobs want 1 or a few.
            credit_bytes: Most encoded bytes that may wait here unconsumed.
            group: Tokens joined by dots, like a topic's name.
            ack_wait: Seconds that a member may take for a message; 30 for a new group. This and the next two are the
                group's: members that come later leave them out, or say the same.
            max_deliveries: How often a message is delivered before it goes to the dead-letter topic; 0, the default
                for a new group, is for ever.
            dead_letter: Name of that topic; by default the message's own topic and ``.dead``.
            auto_ack: Whether asking for the next message, or batch, acknowledges the one before. If not,
                acknowledge each, or some of them together.

        Raises:
            ValueError: the start, a credit or a time is none; or an argument needs a group.
            NotConnected: the client is closed or gave up.
        """
        self._connector.check_open()
        subscriber = self._subscriber
        number = subscriber.next_number()
        begin = parse_start(start)
        if group:
            return GroupSubscription(
                subscriber,
                number,
                Membership(group, milliseconds("ack_wait", ack_wait), max_deliveries, dead_letter, auto_ack),
                filter=filter,
                start=begin,
                partition=partition,
                credit_messages=1024 if credit_messages is None else credit_messages,
                credit_bytes=credit_bytes,
            )
        if (ack_wait, max_deliveries, dead_letter, auto_ack) != (None, None, None, True):
            raise ValueError(
                "ack_wait, max_deliveries, dead_letter and auto_ack are for groups: pass group=…"
            )
        return Subscription(
            subscriber,
            number,
            filter=filter,
            start=begin,
            partition=partition,
            credit_messages=65_536 if credit_messages is None else credit_messages,
            credit_bytes=credit_bytes,
        )

    async def fetch(
        self, topic: str, partition: int = 0, start: Start = "earliest", max_bytes: int = 1024 * 1024
    ) -> list[DeliveredBatch]:
        """Reads once, without a subscription: about ``max_bytes`` from ``start`` on, but at least one batch if any.

        Go on with ``fetch(topic, partition, result[-1].next_offset)``; an empty list says that nothing is
        there yet.

        Raises:
            UnknownTopic: there is none of that name.
            UnknownPartition: the topic has no such partition.
            OffsetOutOfRange: before the first or after the next offset; carries both.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        offset, time = parse_start(start)
        body = control.Fetch(topic, partition, offset, time, max_bytes)
        frame = await self._connector.ask(
            Opcode.FETCH, control.encode(body), f"FETCH from {topic}:{partition}"
        )
        found = []
        for batch in batches.split(frame.body, self._subscriber.max_raw):
            messages = self._subscriber.decoder.decode(batch)
            skip = max(0, offset - batch.base_offset)
            if skip < len(messages):
                base = batch.base_offset + skip
                found.append(
                    DeliveredBatch(
                        topic, partition, base, messages[skip:] if skip else messages, batch.append_time
                    )
                )
        return found

    # ── request and reply ─────────────────────────────────────────────────────────────────────────────────────────

    async def request(
        self,
        topic: str,
        payload: Buffer,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - reads better than a block
    ) -> Delivered:
        """Publishes a message and waits for the first reply to it: whatever a subscriber passes to `respond`.

        Adds the headers ``reply-to`` and ``correlation-id``. That nobody subscribes to the topic shows only by the
        timeout; after it the request is not delivered any more. Cancelling stops the waiting, not the request.

        Args:
            topic: As for `publish`.
            payload: Likewise.
            key: Likewise.
            headers: Likewise.
            partition: Likewise.
            timeout: Seconds to wait, all in all; the client's ``request_timeout`` if not given.

        Raises:
            RequestTimeout: no reply in time; somebody may have carried the request out nevertheless.
            PortaskError: as `Producer.publish`.
        """
        message = as_message(payload, key, headers, 0)
        seconds = self.options.request_timeout if timeout is None else timeout
        return await self._requester.request(topic, message, partition, seconds)

    async def respond(self, message: Delivered, payload: Buffer, *, headers: Headers | None = None) -> None:
        """Replies to a request; returns once the broker handed the reply over (nothing stores it).

        The trace headers of the request are those of the reply, unless ``headers`` has others. A request whose
        ``reply-to`` is a topic is replied to by publishing there.

        Raises:
            ValueError: the message asks for no reply.
            InvalidTopic: its ``reply-to`` is no name.
            UnknownTopic: who asked has gone.
            NotPermitted: who asked takes no more replies at the moment.
            BatchTooLarge: the broker takes no frame so large.
            PortaskError: as `fetch`.
        """
        await self._requester.respond(message, payload, headers)

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def topics(self, filter: str = ">") -> list[control.TopicInfo]:  # noqa: A002 - the wire's word for it
        """The topics that match, with their partitions, offsets and sizes.

        Raises:
            InvalidTopic: not a filter.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        return (await self.describe(filter)).topics

    async def describe(self, filter: str = ">") -> control.Described:  # noqa: A002 - the wire's word for it
        """What the broker says of itself and of the topics that match; errors as for `topics`."""
        frame = await self._connector.ask(
            Opcode.DESCRIBE, control.encode(control.Describe(filter)), "DESCRIBE"
        )
        return control.decode(frame.body, control.Described, self.options.max_frame)

    async def groups(self, filter: str = ">") -> list[control.GroupInfo]:  # noqa: A002 - the wire's word for it
        """The groups whose names match, with their members, where they stand, what they lag behind and have pending.

        Raises:
            InvalidTopic: not a filter.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        body = control.Describe("", filter)
        frame = await self._connector.ask(Opcode.DESCRIBE, control.encode(body), "DESCRIBE of groups")
        return control.decode(frame.body, control.Described, self.options.max_frame).groups

    async def drop_group(self, group: str) -> None:
        """Forgets a group that has no members: where it stood, and what it had pending. Messages stay.

        Raises:
            UnknownGroup: there is none of that name.
            NotPermitted: it has members.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        await self._connector.ask(
            Opcode.DROP_GROUP, control.encode(control.DropGroup(group)), f"DROP_GROUP {group}"
        )

    async def ping(self) -> float:
        """Seconds of one round trip.

        Raises:
            RequestTimeout: no answer in time.
            NotConnected: the connection was lost meanwhile, the client is closed or gave up.
        """
        link = await self._connector.usable(self._loop.time() + self.options.request_timeout)
        began = self._loop.time()
        await link.request(Opcode.PING, b"", channel=0, timeout=self.options.request_timeout, about="PING")
        return self._loop.time() - began

    @property
    def broker(self) -> control.Welcome:
        """What the broker said of itself: name, durability, limits; the last one's while there is none."""
        return self._connector.broker

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment; if not, the client is making one or is over."""
        return self._connector.link is not None and self._connector.link.usable

    @property
    def address(self) -> str:
        """``host:port`` of the broker that is, or was last, connected."""
        return str(self._connector.link.address) if self._connector.link is not None else ""

    @property
    def producer_id(self) -> int:
        """The id that this client's batches carry; 0 if it is not idempotent."""
        return self._publisher.producer_id

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent or acknowledged; at most ``buffer_bytes``."""
        return self._publisher.budget.used

    @property
    def published(self) -> Published:
        """Batches that were formed so far, messages in them, and their bytes; those under way included."""
        return Published(*self._publisher.shipped)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def drain(self) -> None:
        """Finishes what is under way and disconnects: flushes, says DRAIN, waits for the broker's answer.

        Nothing new can be published or subscribed. Subscriptions end once what has arrived is consumed.

        Raises:
            PortaskError: as `flush`; the client is closed nevertheless.
        """
        if self._closing is None:
            self._closing = self._loop.create_task(self._connector.close())
        await asyncio.shield(self._closing)

    async def close(self) -> None:
        """As `drain`, and drops what was delivered and not consumed. Idempotent.

        Bounded by the request timeout and 10 s for saying goodbye.
        """
        subscriptions = self._subscriber.subscriptions()
        try:
            await self.drain()
        finally:
            for subscription in subscriptions:
                await subscription.close()
            await self._requester.close()

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
            error.add_note(f"while the client was closed: {failure}")

    def default_producer(self, topic: str, ttl: float | timedelta | None = None) -> Producer:
        """The client's own producer of a topic: the one that `publish` and its like use."""
        key = (topic, _milliseconds(ttl) if ttl is not None else 0)
        found = self._producers.get(key)
        if found is None:
            found = self._producers[key] = self.producer(topic, ttl=ttl)
        return found


def _milliseconds(ttl: float | timedelta | None) -> int:
    if ttl is None:
        return 0
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not 0.001 <= seconds <= 0xFFFF_FFFF / 1000:
        raise ValueError(f"a ttl is 0.001 to {0xFFFF_FFFF // 1000:,} seconds, not {seconds!r}")
    return round(seconds * 1000)
