"""A whole broker over the storage: how fast messages pass through it, and a consumer that is far behind."""

from __future__ import annotations

import asyncio
import tempfile
from time import perf_counter_ns
from typing import TYPE_CHECKING

from portask.client import connect
from portask.registry import Entry
from portask_lab.loadgen import broker, clients
from portask_lab.loadgen.processes import Child
from portask_lab.peers.durable import NAME, Portask
from portask_lab.workloads import Measurement, Params, WrongResult
from portask_lab.workloads.network.latency import saturate
from portask_lab.workloads.storage.driving import options_for
from portask_lab.workloads.storage.remote import server_for

if TYPE_CHECKING:
    from portask.client import Client
    from portask_lab.corpora import Corpus

_IN_FLIGHT = 10_000
"""Messages under way between the publisher and the consumer."""
_LOAD = 5_000
"""Messages a `publish_many`."""
_LOOK_EVERY = 0.02
"""Seconds between two looks at the broker's memory."""


class Served:
    """Publisher to broker to consumer, by the lean generator: bounded in flight, counted at the consumer.

    The storage is the only part that differs between rows; all others are the reference.

    Params:
        batch: Messages a publish.
        size: Bytes a payload.
        durability: Value of `portask.contracts.Durability`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry, self.durability = entry, str(params["durability"])
        self.batch, self.size = int(params["batch"] or 1), int(params["size"] or 1)
        self.seed = seed

    def measure(self, seconds: float) -> Measurement:
        """One closed-loop run of so many seconds, warm-up included."""
        with (
            tempfile.TemporaryDirectory(prefix="portask-lab-") as folder,
            server_for(self.entry, self.durability) as given,
        ):
            options = options_for(self.entry, self.durability, folder, **given)
            with broker.start(
                "asyncio-streams", storage=self.entry.name, storage_options=options, limits=broker.FLOW
            ) as child:
                in_flight = max(4, _IN_FLIGHT // self.batch)
                found = saturate(child, self.size, self.batch, in_flight, seconds, self.seed)
        return Measurement(metrics={"rate": [found.rate]})

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""


class Backlog:
    """A consumer that comes when ``messages`` are waiting, and takes them all, by the Python client.

    ``memory`` is how much the broker's private memory grew at most while it caught up: what one that is far behind
    costs everybody else.

    Params:
        messages: How many are waiting.
        size: Bytes a payload; all differ.
        durability: Value of `portask.contracts.Durability`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.store = Portask(entry, str(params["durability"]))
        self.count, self.size = int(params["messages"] or 1), int(params["size"] or 1)
        self.taken = 0

    def measure(self, seconds: float) -> Measurement:
        """Publishes all, then takes all; the second part is timed."""
        with self.store.start() as child:
            return clients.run(self._run(child))

    async def _run(self, child: Child) -> Measurement:
        try:
            await self.store.connect(child.port)
            for first in range(0, self.count, _LOAD):
                last = min(first + _LOAD, self.count)
                await self.store.publish_many([self._payload(index) for index in range(first, last)])
            await self.store.close()
            before = child.private()
            async with await connect(f"portask://127.0.0.1:{child.port}", reconnect=False) as client:
                catching_up = asyncio.ensure_future(self._catch_up(client))
                most = before
                while not catching_up.done():
                    await asyncio.wait([catching_up], timeout=_LOOK_EVERY)
                    most = max(most, child.private())
                span = await catching_up
        finally:
            await self.store.close()
        return Measurement(metrics={"rate": [self.count / span], "memory": [(most - before) / 1e6]})

    def _payload(self, index: int) -> bytes:
        return b"%016d".ljust(self.size, b".") % index

    async def _catch_up(self, client: Client) -> float:
        """Seconds until the last one came.

        Raises:
            WrongResult: one is missing, altered or out of order.
        """
        begun = perf_counter_ns()
        async with await client.subscribe(NAME, start="earliest") as subscription:
            async for batch in subscription.batches():
                if batch.base_offset != self.taken:
                    raise WrongResult(f"offset {batch.base_offset} came where {self.taken} was due")
                self.taken = batch.next_offset
                ends = (batch.messages[0].payload, batch.messages[-1].payload)
                if ends != (self._payload(batch.base_offset), self._payload(self.taken - 1)):
                    raise WrongResult(
                        f"before offset {self.taken} lie other messages than were published there"
                    )
                if self.taken >= self.count:
                    break
        return (perf_counter_ns() - begun) / 1e9

    def verify(self) -> None:
        """Exactly those that were published came."""
        if self.taken != self.count:
            raise WrongResult(f"{self.count} messages were published, {self.taken} came")
