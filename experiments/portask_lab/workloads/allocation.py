"""Allocation: what one message makes the interpreter allocate on its way through a part. Never timed.

`tracemalloc` sees everything that goes through Python's allocators, also from C extensions that use them; it does not
see what a library gets from ``malloc`` itself (zstd's windows, Rust's buffers). `experiments/memory` attributes those
with memray.

* ``blocks``: allocations that are alive afterwards, a message, while the result is kept.
* ``held``: their bytes, a message.
* ``transient``: bytes beyond that at the peak of one call, a message: what the call needed and gave back.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

from portask.registry import Entry
from portask_lab.workloads import Measurement, Metric, NotForThis, Params, Plan, Workload, WrongResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from portask_lab.corpora import Corpus

ROUNDS = 20


class _Traced:
    """Runs ``step`` under `tracemalloc`; ``messages`` is what one step handles."""

    messages = 1

    def step(self, index: int) -> Any:
        """The work; what it returns is kept while blocks are counted."""
        raise NotImplementedError

    def measure(self, seconds: float) -> Measurement:
        """`ROUNDS` steps; three before them, so that caches and lazy imports are filled."""
        for index in range(3):
            self.step(index)
        blocks, held, transient = [], [], []
        gc.collect()
        gc.disable()
        tracemalloc.start(1)
        try:
            for index in range(3, 3 + ROUNDS):
                kept: Any = None
                before, count = tracemalloc.get_traced_memory()[0], _blocks()
                tracemalloc.reset_peak()
                kept = self.step(index)
                after, peak = tracemalloc.get_traced_memory()
                blocks.append((_blocks() - count) / self.messages)
                held.append((after - before) / self.messages)
                transient.append((peak - after) / self.messages)
                del kept
        finally:
            tracemalloc.stop()
            gc.enable()
        return Measurement({"blocks": blocks, "held": held, "transient": transient})


def _blocks() -> int:
    # snapshots cost far more than what is measured, but nothing is timed here
    return sum(stat.count for stat in tracemalloc.take_snapshot().statistics("filename"))


class Codec(_Traced):
    """One batch of 100 messages, encoded or decoded.

    Params:
        what: ``encode`` or ``decode``.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.codec = entry.make()
        self.messages = 100
        self.batches = corpus.batches(self.messages)
        self.bodies = [bytes(self.codec.encode(batch, batch[0].timestamp)) for batch in self.batches]
        self.step = self._encode if params["what"] == "encode" else self._decode  # type: ignore[method-assign]

    def _encode(self, index: int) -> Any:
        batch = self.batches[index % len(self.batches)]
        return self.codec.encode(batch, batch[0].timestamp)

    def _decode(self, index: int) -> Any:
        at = index % len(self.bodies)
        return self.codec.decode(self.bodies[at], self.messages, self.batches[at][0].timestamp)

    def verify(self) -> None:
        """What is decoded is what was encoded."""
        if list(self._decode(0)) != self.batches[0]:
            raise WrongResult("a batch did not decode to the messages it was encoded from")


class Ring(_Traced):
    """100 records made, put into a ring and left there: what a waiting record costs, its own bytes included.

    A ring that allocates its memory when it is made shows nothing here; its capacity is 4 MiB.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.ring = entry.make(capacity=4 << 20)
        self.records = [payload for payload in corpus.payloads if len(payload) <= 512][:100]
        if not self.records:
            raise NotForThis(f"{corpus.name} has no message of at most 512 bytes")
        self.messages = len(self.records)
        self.waiting = 0

    def step(self, index: int) -> Any:
        """Puts a copy of each."""
        put: Callable[[bytes], None] = self.ring.put
        for record in self.records:
            put(bytes(memoryview(record)))
        self.waiting += self.messages

    def verify(self) -> None:
        """The records are there."""
        taken = [bytes(self.ring.get()) for _ in range(self.waiting)]
        if taken != self.records * (self.waiting // self.messages):
            raise WrongResult("records did not come out as they were put in")

    def close(self) -> None:
        """Closes the ring."""
        self.ring.close()


class Pool(_Traced):
    """100 buffers of 1,500 bytes taken and given back, one after the other."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.pool = entry.make()
        self.messages = 100

    def step(self, index: int) -> Any:
        """Takes and gives back."""
        take, give = self.pool.take, self.pool.give
        for _ in range(self.messages):
            give(take(1_500))

    def verify(self) -> None:
        """Nothing is lent."""
        if self.pool.stats().lent:
            raise WrongResult("buffers count as lent after all were given back")


_METRICS = (
    Metric("held", "B/msg", "lower", 0),
    Metric("blocks", "blocks/msg", "lower", 2),
    Metric("transient", "B/msg", "lower", 0),
)
WORKLOADS: tuple[Workload, ...] = (
    Workload("allocation.codec", "codec", "Codec", "allocations of a codec", _METRICS),
    Workload("allocation.ring", "ring", "Ring", "allocations of a ring", _METRICS),
    Workload("allocation.pool", "pool", "Pool", "allocations of a pool", _METRICS),
)
PLANS: tuple[Plan, ...] = (
    Plan("allocation", "allocation.codec", ("tiny", "main"), ({"what": "encode"}, {"what": "decode"})),
    Plan("allocation", "allocation.ring", ("tiny",), controlled=False),
    Plan("allocation", "allocation.pool", controlled=False),
)
