"""What works with the broker while it is killed: producers that write down what was acknowledged, and consumers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from array import array
from collections import defaultdict, deque
from typing import IO

from portask.client import Client, Pending, Subscription, connect
from portask.client.connect import Connecting
from portask.errors import BufferExhausted, PortaskError
from portask_lab.crash import payloads
from portask_lab.crash.broker import TOPIC

OUTSTANDING = 4_000
"""Messages of one producer that may wait for their ack."""
_BURST = 200
_PAUSE = 0.002
_AGAIN = 0.05
GROUP = "crew"
ACK_WAIT = 2.0
"""Seconds until what a member holds is delivered again."""
UNKNOWN = -1
"""The offset in an ack of a message that was sent again and is there, nobody knows where."""


def _connected(url: str, name: str, *, numbered: bool = False) -> Connecting:
    """A client that is back soon after the broker is."""
    return connect(url, name=name, idempotent=numbered, reconnect_delay=0.02, reconnect_max_delay=0.1)


class Writer:
    """A producer: publishes at a rate to all partitions, in order in each, and writes down every ack.

    Its message ids are ``(index, number)``, numbers counted from 0.

    Args:
        index: Which one.
        url: Of the broker.
        partitions: Of the topic.
        rate: Messages a second; 0 for one at a time, each awaited before the next.
        idempotent: Whether its batches are numbered.
        acked: Where acknowledged ids are written: ``writer,number,partition,offset`` a line.
        seed: Of its choices.

    Attributes:
        sent: Messages handed to the client.
        acked: Messages acknowledged.
        failures: Reasons of messages that the client gave up.
    """

    def __init__(
        self,
        index: int,
        url: str,
        *,
        partitions: int,
        rate: float,
        idempotent: bool,
        acked: IO[str],
        seed: int,
    ) -> None:
        self.index = index
        self.idempotent = idempotent
        self.sent = self.acked = 0
        self.failures: list[str] = []
        self._url = url
        self._partitions = partitions
        self._rate = rate
        self._file = acked
        self._chance = random.Random(seed)
        self._waiting: list[deque[tuple[int, Pending]]] = [deque() for _ in range(partitions)]
        self._outstanding = 0
        self._stopping = False

    async def run(self) -> None:
        """Publishes until `stop`, then waits for the acks that are due."""
        name = f"writer-{self.index}"
        async with _connected(self._url, name, numbered=self.idempotent) as client:
            loop = asyncio.get_running_loop()
            since = loop.time()
            while not self._stopping:
                if not self._rate:
                    await self._one(client)
                    continue
                due = min(_BURST, OUTSTANDING - self._outstanding, int((loop.time() - since) * self._rate))
                if due > 0:
                    since = loop.time()  # what could not be sent in time is not caught up with
                    self._burst(client, due)
                await asyncio.sleep(_PAUSE)
                self._reap()
            while self._outstanding:
                await asyncio.sleep(_PAUSE)
                self._reap()

    def stop(self) -> None:
        """Nothing more is published."""
        self._stopping = True

    def _burst(self, client: Client, count: int) -> None:
        for _ in range(count):
            number, partition = self.sent, self._chance.randrange(self._partitions)
            payload = payloads.make(self.index, partition, number)
            try:
                pending = client.publish_nowait(TOPIC, payload, partition=partition)
            except BufferExhausted:
                return
            self.sent += 1
            self._outstanding += 1
            self._waiting[partition].append((number, pending))

    async def _one(self, client: Client) -> None:
        number, partition = self.sent, self._chance.randrange(self._partitions)
        self.sent += 1
        try:
            receipt = await client.publish(
                TOPIC, payloads.make(self.index, partition, number), partition=partition
            )
        except PortaskError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            self._note(number, partition, receipt.offset)

    def _reap(self) -> None:
        """Takes what is done: in each partition in the order of publishing."""
        for partition, waiting in enumerate(self._waiting):
            while waiting and waiting[0][1].done():
                number, pending = waiting.popleft()
                self._outstanding -= 1
                error = pending.exception()
                if error is None:
                    self._note(number, partition, pending.result().offset)
                else:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _note(self, number: int, partition: int, offset: int) -> None:
        self.acked += 1
        self._file.write(f"{self.index},{number},{partition},{offset}\n")


class Watcher:
    """A subscription of its own from the start; notes which message came at each offset.

    Attributes:
        seen: Partition → message ids by offset, -1 where nothing came.
        disordered: Offsets that came after a later one, or twice.
        altered: Messages that nobody published.
    """

    def __init__(self, url: str) -> None:
        self.seen: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self.disordered = 0
        self.altered = 0
        self._url = url

    @property
    def delivered(self) -> int:
        """Messages that came."""
        return sum(len(each) for each in self.seen.values())

    async def run(self) -> None:
        """Reads until it is cancelled."""
        async with _connected(self._url, "watcher") as client:
            subscription: Subscription = client.subscribe(TOPIC, "earliest")
            async for batch in subscription.batches():
                seen = self.seen[batch.partition]
                offset = batch.base_offset
                for message in batch.messages:
                    found = payloads.identity(message.payload, batch.partition)
                    if offset < len(seen):
                        self.disordered += 1
                    else:
                        seen.extend([-1] * (offset - len(seen)))
                        seen.append(-1 if found is None else found)
                    self.altered += found is None
                    offset += 1

    def reached(self, partition: int) -> int:
        """The offset after the last one that came."""
        return len(self.seen[partition]) if partition in self.seen else 0


class Member:
    """A member of the group; acknowledges a batch when it asks for the next one. May leave and come again.

    Args:
        index: Which one.
        url: Of the broker.
        deliveries: Partition → how often each offset came to any member, for all members of the group.
        stays: Seconds until it closes its connection and comes again, at random around that; 0 for as long as it lives.
        seed: Of that.

    Attributes:
        delivered: Messages that came, each time.
        altered: Messages that nobody published.
        joined: How often it came.
        trouble: Why it last went without wanting to.
    """

    def __init__(
        self, index: int, url: str, deliveries: dict[int, bytearray], *, stays: float, seed: int
    ) -> None:
        self.delivered = self.altered = self.joined = 0
        self.trouble = ""
        self._name = f"member-{index}"
        self._url = url
        self._deliveries = deliveries
        self._stays = stays
        self._chance = random.Random(seed)

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                async with _connected(self._url, self._name) as client:
                    self.joined += 1
                    leave = self._chance.uniform(0.5, 1.5) * self._stays
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(leave or None):
                            await self._work(client)
            except PortaskError as error:  # the broker is away just now, or went while we said goodbye
                self.trouble = f"{type(error).__name__}: {error}"
                await asyncio.sleep(_AGAIN)

    async def _work(self, client: Client) -> None:
        member = client.subscribe(TOPIC, "earliest", group=GROUP, ack_wait=ACK_WAIT)
        async for batch in member.batches():
            counts = self._deliveries[batch.partition]
            offset = batch.base_offset
            end = offset + len(batch)
            if len(counts) < end:
                counts.extend(bytes(end - len(counts)))
            for message in batch.messages:
                counts[offset] = min(counts[offset] + 1, 255)
                self.altered += payloads.identity(message.payload, batch.partition) is None
                offset += 1
            self.delivered += len(batch)
            await asyncio.sleep(0)
