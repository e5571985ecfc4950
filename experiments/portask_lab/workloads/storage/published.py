"""Publishing to a whole broker over the storage, and to other products, until each message is acknowledged."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import TYPE_CHECKING, cast

from portask.registry import Entry
from portask_lab.loadgen import clients
from portask_lab.loadgen.latencies import percentile
from portask_lab.peers import STORES
from portask_lab.peers.durable import Portask, Store
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult
from portask_lab.workloads.storage.remote import promise_of

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_LEAST = 0.4
"""Seconds. In less, a store that syncs each message by itself acknowledges nothing to a hundred producers."""


class Published:
    """Producers that each wait for the acks of what they published; all in one process and on one event loop.

    Params:
        producers: How many.
        at_once: Messages that each publishes before it waits: 1, or more in the way that the library has for many.
        size: Bytes a payload.
        durability: Value of `portask.contracts.Durability`; peers come where they are nearest to.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        durability = str(params["durability"])
        self.producers = int(params["producers"] or 1)
        self.at_once = int(params["at_once"] or 1)
        size = int(params["size"] or 1)
        self.payload = (b"%016d" % seed * (size // 16 + 1))[:size]
        promised = getattr(
            entry.load(), "durability", durability
        )  # one with modes has none before it is made
        promised = getattr(promised, "value", promised)
        peer = entry in {stick.entry for stick in STORES}
        beside = getattr(entry.load(), "server", "") if peer else ""
        if promised != promise_of(durability) and beside != durability:
            raise NotForThis(f"{entry.label} promises {promised}, this case is about {durability}")
        self.store: Store = cast("Store", entry.make()) if peer else Portask(entry, durability)
        self.acknowledged = self.stored = 0

    def measure(self, seconds: float) -> Measurement:
        """One run of about ``seconds``, after one publish of each producer that connects it and is not counted."""
        with self.store.start() as child:
            return clients.run(self._run(child.port, seconds))

    async def _run(self, port: int, seconds: float) -> Measurement:
        store = self.store
        waits: list[int] = []
        try:
            await store.connect(port)
            await asyncio.gather(*(store.publish(self.payload) for _ in range(self.producers)))
            self.acknowledged = self.producers
            span = max(seconds, _LEAST)
            ends = perf_counter_ns() + int(span * 1e9)
            await asyncio.gather(*(self._produce(ends, waits) for _ in range(self.producers)))
            self.stored = await store.stored()
        finally:
            await store.close()
        waits.sort()
        return Measurement(
            metrics={
                "rate": [len(waits) * self.at_once / span],
                "p50": [percentile(waits, 0.5) / 1e3],
                "p99": [percentile(waits, 0.99) / 1e3],
            },
            notes=[store.note] if store.note else [],
            invalid="" if waits else "nothing was acknowledged in time",
        )

    async def _produce(self, ends: int, waits: list[int]) -> None:
        store, payload, at_once = self.store, self.payload, self.at_once
        many = [payload] * at_once
        while (begun := perf_counter_ns()) < ends:
            if at_once == 1:
                await store.publish(payload)
            else:
                await store.publish_many(many)
            now = perf_counter_ns()
            self.acknowledged += at_once
            if now < ends:
                waits.append(now - begun)

    def verify(self) -> None:
        """The server has just what it acknowledged."""
        if self.stored != self.acknowledged:
            raise WrongResult(f"{self.acknowledged} messages were acknowledged, the server has {self.stored}")
