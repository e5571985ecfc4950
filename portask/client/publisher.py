"""The publishing half of a client: topics, producers, the budget and the deadlines they share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

from portask.client.budget import Budget
from portask.client.channel import Channel, Outgoing, Settle, too_large
from portask.client.codecs import Encoder
from portask.client.link import Link, error_of
from portask.client.options import Address, Options
from portask.client.pending import Unclaimed
from portask.client.producer import Accumulator, Producer
from portask.client.routes import Route
from portask.errors import CodecError, Draining, NotConnected, PortaskError
from portask.messages import Message, TopicPartition
from portask.wire import control
from portask.wire.frames import Frame

_FIRST_CHUNK = 256  # messages, before anything is known about their size


class Publisher:
    """Belongs to one client; outlives its links.

    Attributes:
        options: The client's.
        loop: Its event loop.
        link: The present one; ``None`` between two.
        budget: Bytes that wait to be sent or acknowledged.
        unclaimed: Failures that nobody looked at.
        encoder: Builds batches; set once the first broker said what it recommends.
        closing: Nothing new is taken; what is there is still sent.
        producer_id: What batches carry beside their numbers; 0 if they carry none.
        shipped: Batches so far, the messages in them, and their bytes.
    """

    encoder: Encoder

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.link: Link | None = None
        self.budget = Budget(options.buffer_bytes)
        self.unclaimed = Unclaimed()
        self._limit = options.max_frame
        self.closing = False
        self.producer_id = 0
        if options.idempotent:
            self.producer_id = options.producer_id or secrets.randbelow((1 << 64) - 1) + 1
        self.shipped = [0, 0, 0]
        self._address: Address | None = None
        self._over: PortaskError | None = None
        self._routes: dict[str, Route] = {}
        self._channels: dict[int, Channel] = {}
        self._producers: dict[Producer, None] = {}
        self._due: list[Accumulator] = []
        self._live: dict[Outgoing, None] = {}
        self._flushes: list[tuple[set[Outgoing], asyncio.Future[None]]] = []
        self._quiet: asyncio.Future[None] | None = None
        self._armed = False

    @property
    def reconnects(self) -> bool:
        """Whether what a link could not do is tried again on the next."""
        return self.options.reconnect and self._over is None

    def check_open(self) -> None:
        """Raises `NotConnected` once the client is closed or gave up."""
        if self._over is not None:
            raise NotConnected(str(self._over))
        if self.closing:
            raise NotConnected("the client is being closed")

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def route(self, topic: str) -> Route:
        """The topic's route; made at its first use."""
        found = self._routes.get(topic)
        if found is None:
            found = self._routes[topic] = Route(self, topic)
        return found

    def new_channel(self, key: TopicPartition) -> Channel:
        """A channel with a number of its own, below those of subscriptions."""
        number = len(self._channels) + 1
        channel = self._channels[number] = Channel(self, number, key)
        return channel

    def producer(self, topic: str, linger_ms: float, batch_bytes: int, ttl: int) -> Producer:
        """A producer that this publisher looks after until `forget`."""
        producer = Producer(self, topic, linger_ms, max(batch_bytes, self.encoder.compression.coalesce), ttl)
        self._producers[producer] = None
        return producer

    def forget(self, producer: Producer) -> None:
        """The producer is closed."""
        self._producers.pop(producer, None)

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def dispatch_soon(self, accumulator: Accumulator) -> None:
        """At the end of this iteration of the loop the accumulator is due."""
        if not self._due:
            self.loop.call_soon(self._dispatch)
        self._due.append(accumulator)

    def _dispatch(self) -> None:
        due, self._due = self._due, []
        for accumulator in due:
            accumulator.due()
        self.write()

    def write(self) -> None:
        """Hands what is queued to the transport."""
        if self.link is not None:
            self.link.write()

    def encode(self, messages: list[Message], ttl: int) -> Iterator[tuple[int, int, bytes | PortaskError]]:
        """``(start, count, batch)``: one batch of all messages if they fit and none is wrong; else halved until so."""
        parts = [(0, len(messages))]
        while parts:
            start, count = parts.pop()
            outcome: bytes | PortaskError
            try:
                outcome = self.encoder.encode(
                    messages if count == len(messages) else messages[start : start + count], ttl
                )
                if len(outcome) > self._limit:
                    outcome = too_large(len(outcome), self._limit)
            except CodecError as error:
                outcome = error
            if isinstance(outcome, bytes) or count == 1:
                yield start, count, outcome
            else:
                half = count // 2
                parts += [(start + half, count - half), (start, half)]

    def ship(self, channel: Channel, data: bytes, count: int, size: int, settle: Settle) -> None:
        """Puts one batch, already paid for with ``size`` bytes of the budget, in its channel's line."""
        outgoing = Outgoing(data, count, size, settle, self.loop.time() + self.options.request_timeout)
        self._live[outgoing] = None
        shipped = self.shipped
        shipped[0] += 1
        shipped[1] += count
        shipped[2] += len(data)
        if self._over is not None:
            channel.waiting.append(outgoing)
            channel.fail(self._over)
        else:
            channel.send(outgoing)

    def settled(self, outgoing: Outgoing) -> None:
        """A batch was acknowledged or failed."""
        self._live.pop(outgoing, None)
        self.budget.give(outgoing.size)
        for wanted, future in self._flushes:
            wanted.discard(outgoing)
            if not wanted and not future.done():
                future.set_result(None)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def flush(self) -> None:
        """Waits for everything published so far; raises the first failure that nobody looked at."""
        for route in list(self._routes.values()):
            if any(producer.parked and producer.topic == route.topic for producer in self._producers):
                try:
                    await route.resolve()
                except PortaskError:
                    continue  # the messages that were parked there carry the same error
        for producer in list(self._producers):
            producer.seal()
        self.write()
        await self._settle(set(self._live))
        self.unclaimed.raise_first()

    async def quiet(self) -> None:
        """Waits until the present link owes no ack: each batch on it is acknowledged, or refused and back in line."""
        if self._owed():
            self._quiet = self.loop.create_future()
            await self._quiet

    def _owed(self) -> bool:
        return any(channel.unacked for channel in self._channels.values())

    def _answered(self) -> None:
        if self._quiet is not None and not self._quiet.done() and not self._owed():
            self._quiet.set_result(None)

    async def _settle(self, wanted: set[Outgoing]) -> None:
        wanted = {outgoing for outgoing in wanted if outgoing in self._live}
        if wanted:
            entry = (wanted, self.loop.create_future())
            self._flushes.append(entry)
            try:
                await entry[1]
            finally:
                self._flushes.remove(entry)

    def arm(self) -> None:
        """Sees to it that deadlines are looked at while anything is outstanding."""
        if not self._armed:
            self._armed = True
            self.loop.call_later(min(1.0, self.options.request_timeout / 10), self._sweep)

    def _sweep(self) -> None:
        self._armed = False
        now = self.loop.time()
        for route in list(self._routes.values()):
            route.sweep(now)
        for producer in list(self._producers):
            producer.sweep(now)
        if self.budget.used or any(route.busy for route in self._routes.values()):
            self.arm()

    # ── links ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def link_up(self, link: Link) -> None:
        """A new link: channels open again, and send what waits."""
        self.link = link
        self._limit = link.connection.max_batch
        if self._address not in {None, link.address}:
            for channel in self._channels.values():
                channel.moved()
        self._address = link.address
        for route in list(self._routes.values()):
            route.link_up()
        link.write()

    def link_lost(self) -> None:
        """What is unacknowledged goes back in line."""
        self.link = None
        for route in list(self._routes.values()):
            route.link_lost()

    def puback(self, link: Link, frame: Frame) -> None:
        """PUBACK."""
        channel = self._channels.get(frame.channel)
        if channel is not None:
            channel.acked(frame.correlation, control.decode_puback(frame.body))
            self._answered()

    def refused(self, link: Link, frame: Frame) -> None:
        """ERROR that answers no request: it is about a publish."""
        error = error_of(frame)
        if isinstance(error, Draining):
            link.begin_draining()
        channel = self._channels.get(frame.channel)
        if channel is not None:
            channel.refused(frame.correlation, error)
            self._answered()

    def fail(self, error: PortaskError) -> None:
        """The client is over: everything outstanding gets ``error``, and so does everything to come."""
        self._over = error
        self.link = None
        for route in list(self._routes.values()):
            route.fail(error)
        for producer in list(self._producers):
            producer.fail(error)
        self.budget.fail(error)
