"""What a client receives: one object a subscription, iterated message by message or batch by batch.

Flow control: the broker may send as much as it was given credit for, in messages and in bytes, and credit
comes back as the application consumes: a batch counts when the application asks for what follows it. A
subscription therefore holds at most its credit (and the last batch, which is never cut), however slow the
application is.

A lost connection is not seen: the subscription is made again and each partition goes on after the last batch
that arrived. What arrived and was not consumed stays and counts against the new credit. Nothing is delivered
twice by that; what the producers' resending stored twice is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from portask.client.positions import Position
from portask.client.results import Delivered, DeliveredBatch
from portask.contracts import EARLIEST
from portask.errors import ClientError, Draining, NotConnected, PortaskError, RequestTimeout
from portask.messages import RecordBatch, TopicPartition
from portask.wire import batches, control
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.client.link import Link
    from portask.client.subscriber import Subscriber

log = logging.getLogger("portask.client")

PINNED = 4
"""A queued batch may keep so many times its own bytes of received data alive."""


class Item(NamedTuple):
    """A batch that arrived: of its records those from ``skip`` to before ``stop`` are meant."""

    position: Position
    batch: RecordBatch
    skip: int
    stop: int
    deliveries: int = 0


class Subscription:
    """An async iterator of `Delivered`; `batches` gives the same as `DeliveredBatch`. One consumer at a time.

    ``async with client.subscribe(…) as subscription`` begins and ends it; so do ``await client.subscribe(…)``
    and `close`. Iterating begins it too. A batch that cannot be decoded raises `CodecError`, `BatchCorrupt`
    or `UnknownCompression` once; iterating again goes on after it.

    Attributes:
        filter: A topic or a filter.
        partition: The only partition that is read; ``None`` for all.
        credit_messages: Most messages that may be under way or waiting here.
        credit_bytes: Most bytes, likewise.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        number: int,
        *,
        filter: str,  # noqa: A002 - the wire's and the API's word
        start: tuple[int, int | None],
        partition: int | None,
        credit_messages: int,
        credit_bytes: int,
    ) -> None:
        if credit_messages < 1 or credit_bytes < 1:
            raise ValueError(
                "credit_messages and credit_bytes must be 1 or more: without credit nothing is delivered"
            )
        self.filter = filter
        self.partition = partition
        self.credit_messages = credit_messages
        self.credit_bytes = credit_bytes
        self._subscriber = subscriber
        self._number = number
        self._start, self._time = start
        self._positions: dict[TopicPartition, Position] = {}
        self._queue: deque[Item] = deque()
        self._held = [0, 0]  # messages and bytes that arrived and are not consumed
        self._returned = [0, 0]  # consumed, and not given back as credit yet
        self._current: Item | None = None
        self._batch: DeliveredBatch | None = None  # what the message iterator is in the middle of
        self._index = 0
        self._waiter: asyncio.Future[None] | None = None
        self._begun: asyncio.Future[None] | None = None
        self._complete = False
        self._ended = False
        self._error: PortaskError | None = None

    # ── for applications ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> Self:
        """Subscribes, and returns once the broker agreed. Called for you by ``async with``, ``await`` and iterating.

        Raises:
            InvalidTopic: the filter is none.
            OffsetOutOfRange: the start is no offset of every partition; carries what there is.
            RequestTimeout: no answer in time.
            NotConnected: the client is closed or gave up.
        """
        if self._begun is None:
            self._subscriber.check_open()
            self._begun = asyncio.get_running_loop().create_future()
            self._subscriber.add(self._number, self)
        timeout = self._subscriber.options.request_timeout
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._begun)
        except TimeoutError:
            error = RequestTimeout(
                f"the broker did not answer SUBSCRIBE to {self.filter} within {timeout:g} s"
            )
            self.end(error)
            raise error from None
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Delivered]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Delivered]:
        while True:
            batch = self._batch
            if batch is None:
                batch = await self.next_batch()
                if batch is None:
                    return
                self._batch, self._index = batch, 0
            topic, partition, offset, time = (
                batch.topic,
                batch.partition,
                batch.base_offset,
                batch.append_time,
            )
            messages, deliveries, lease = batch.messages, batch.deliveries, batch.lease
            for index in range(self._index, len(messages)):
                # Kept here and not in the generator: whoever breaks out of a loop can go on in another.
                self._index = index + 1
                m = messages[index]
                yield Delivered(
                    topic,
                    partition,
                    offset + index,
                    m.payload,
                    m.key,
                    m.headers,
                    m.timestamp,
                    time,
                    deliveries,
                    lease,
                )
                if self._batch is not batch:
                    break
            else:
                self._batch = None

    async def batches(self) -> AsyncIterator[DeliveredBatch]:
        """The same messages, a batch at a time: the fast way. Batches are as the storage keeps them."""
        while True:
            batch = await self.next_batch()
            if batch is None:
                return
            yield batch

    async def get(self, timeout: float | None = None) -> Delivered:  # noqa: ASYNC109 - reads better than a block
        """The next message.

        Args:
            timeout: Seconds to wait for one; ``None`` waits as long as the subscription lives.

        Raises:
            RequestTimeout: none came in time.
            NotConnected: the subscription is over.
        """
        if self._batch is None:
            try:
                async with asyncio.timeout(timeout):
                    self._batch, self._index = await self.next_batch(), 0
            except TimeoutError:
                raise RequestTimeout(f"no message of {self.filter} came within {timeout:g} s") from None
            if self._batch is None:
                raise NotConnected(f"the subscription to {self.filter} is closed")
        batch, index = self._batch, self._index
        self._index = index + 1
        if self._index == len(batch.messages):
            self._batch = None
        return batch.at(index)

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """By partition, the offset after the last message that arrived here."""
        return {key: position.next for key, position in self._positions.items()}

    @property
    def buffered(self) -> tuple[int, int]:
        """Messages and (encoded) bytes that arrived and are not consumed: never more than the credit and one batch."""
        return self._held[0], self._held[1]

    async def close(self) -> None:
        """Unsubscribes. What was not consumed is dropped. Idempotent; bounded by the request timeout."""
        if self._ended:
            self._drop()
            return
        self._return_credit(final=True)
        self.end(None)
        self._drop()
        await self._subscriber.unsubscribe(self._number)

    # ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def next_batch(self) -> DeliveredBatch | None:
        """The next batch, or the rest of the one that a message iterator was left in; ``None`` once it is over.

        Raises:
            PortaskError: why the subscription ended, if not by being closed; or why this batch cannot be
            decoded.
        """
        if self._begun is None or not self._begun.done():
            await self.start()
        if self._batch is not None:
            batch, index = self._batch, self._index
            self._batch = None
            if index < len(batch.messages):
                return batch.rest(index)
        if self._current is not None:
            self._consumed()
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._ran_dry()
            if self._waiter is not None:
                raise ClientError("two tasks iterate over one subscription: subscribe once for each")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._current = self._queue.popleft()
        return self._open(self._current)

    def _open(self, item: Item) -> DeliveredBatch:
        """What the application gets of a batch."""
        position, batch, skip, _, _ = item
        messages = self._subscriber.decoder.decode(batch)
        key = position.key
        return DeliveredBatch(
            key.topic,
            key.partition,
            batch.base_offset + skip,
            messages[skip:] if skip else messages,
            batch.append_time,
        )

    def _ran_dry(self) -> None:
        """The application wants more than has arrived."""

    def _consumed(self) -> None:
        """The application is done with the current batch."""
        assert self._current is not None  # noqa: S101 - for the type checker: the caller looked
        position, batch = self._current.position, self._current.batch
        self._current = None
        base, last = batch.base_offset, batch.base_offset + batch.count - 1
        position.consumed = (position.consumed[0] if position.consumed else base, last)
        self._give_back(batch.count, len(batch.data))
        self._return_credit_if_due()

    def _return_credit_if_due(self) -> None:
        if self._returned[0] * 2 >= self.credit_messages or self._returned[1] * 2 >= self.credit_bytes:
            self._return_credit()

    def _give_back(self, count: int, size: int) -> None:
        self._held[0] -= count
        self._held[1] -= size
        self._returned[0] += count
        self._returned[1] += size

    def _return_credit(self, *, final: bool = False) -> None:
        link = self._subscriber.link
        if link is None or not link.alive:
            return  # the next link starts with all the credit that is due
        messages, size = max(0, self._returned[0]), max(0, self._returned[1])
        for position in self._positions.values():
            if position.consumed is not None:
                self._subscriber.send(Opcode.ACK, control.Ack([position.consumed]), position.delivery)
                position.consumed = None
        if not final and (messages or size):
            self._returned[0] -= messages
            self._returned[1] -= size
            self._subscriber.send(Opcode.CREDIT, control.Credit(messages, size), self._number)

    # ── what the subscriber calls ─────────────────────────────────────────────────────────────────────────────────

    def begin(self, link: Link) -> None:
        """Subscribes on a new link: at the start, or where each partition stands."""
        resume: dict[str, list[int]] = {}
        for key, position in self._positions.items():
            known = resume.setdefault(key.topic, [])
            known += [-1] * (key.partition + 1 - len(known))
            known[key.partition] = position.next
            # A fresh object: acks for what came over the old link must not reach the new one.
            self._positions[key] = Position(self, key, position.next, 0)
        granted = [self.credit_messages - self._held[0], self.credit_bytes - self._held[1]]
        self._returned = [min(0, granted[0]), min(0, granted[1])]
        self._ask(link, max(0, granted[0]), max(0, granted[1]), resume)

    def _ask(self, link: Link, messages: int, size: int, resume: dict[str, list[int]]) -> None:
        body = control.Subscribe(
            self.filter,
            # Once all partitions are known, any other was created since: it is read from its first record.
            EARLIEST if self._complete else self._start,
            None if self._complete else self._time,
            self.partition,
            messages,
            size,
            resume,
        )
        self._fill(body)
        timeout = self._subscriber.options.request_timeout
        about = f"SUBSCRIBE to {self.filter}"
        future = link.request(
            Opcode.SUBSCRIBE, control.encode(body), channel=self._number, timeout=timeout, about=about
        )
        future.add_done_callback(lambda reply: self._answered(link, reply))

    def _fill(self, body: control.Subscribe) -> None:
        """What a kind of subscription asks for besides."""

    def _agreed(self, frame: Frame) -> None:
        """The broker subscribed us; ``frame`` ends its answer."""

    def _answered(self, link: Link, reply: asyncio.Future[Frame]) -> None:
        error = reply.exception()
        if self._ended or link is not self._subscriber.link:
            return
        if isinstance(error, (NotConnected, Draining)) and self._subscriber.options.reconnect:
            return  # the next link begins it again
        if error is not None:
            self.end(error if isinstance(error, PortaskError) else ClientError(str(error)))
            return
        self._complete = True
        self._agreed(reply.result())
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def assigned(self, body: control.Assigned) -> Position:
        """The broker delivers a partition, or moved on in it because retention overtook it."""
        key = TopicPartition(body.topic, body.partition)
        known = self._positions.get(key)
        if known is not None and known.next != body.offset:
            log.warning(
                "%s goes on at offset %d instead of %d: the broker no longer has those between",
                key,
                body.offset,
                known.next,
            )
        if known is not None and known.delivery == body.delivery:
            known.next = body.offset
            return known
        position = self._positions[key] = Position(self, key, body.offset, body.delivery)
        return position

    def arrived(self, position: Position, body: memoryview) -> None:
        """A DELIVER frame.

        Raises:
            BatchError: it is damaged; the link is then given up, and the next one asks for it again.
        """
        if self._ended:
            return
        whole = len(body.obj) if isinstance(body.obj, (bytes, bytearray)) else len(body)
        for batch in batches.split(body, self._subscriber.max_raw):
            count, size, base = batch.count, len(batch.data), batch.base_offset
            self._held[0] += count
            self._held[1] += size
            end = base + count
            if end <= position.next:
                self._give_back(count, size)
                continue
            if size * PINNED < whole:
                batch.data = bytes(batch.data)
            self._queue.append(Item(position, batch, max(0, position.next - base), count))
            position.next = end
        waiter = self._waiter
        if waiter is not None and self._queue and not waiter.done():
            waiter.set_result(None)

    def acknowledge(self) -> None:
        """Tells the broker what was consumed, for the last time."""
        self._return_credit(final=True)

    def end(self, error: PortaskError | None) -> None:
        """Nothing more will arrive; what is queued can still be consumed."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._subscriber.remove(self._number)
        if self._begun is not None and not self._begun.done():
            self._begun.set_exception(error or NotConnected(f"the subscription to {self.filter} was closed"))
            self._begun.exception()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop(self) -> None:
        self._queue.clear()
        self._batch = self._current = None
        self._held = [0, 0]
