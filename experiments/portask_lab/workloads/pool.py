"""Buffer pools: what taking, touching and giving back a buffer costs, and how often that allocates.

The pattern is a broker's: several buffers are lent at a time and come back in another order; sizes change with the
traffic.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from portask.registry import Entry
from portask_lab.workloads import Metric, Params, Plan, Workload, WrongResult

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

SIZES = {"small": (256,), "receive": (65_536,), "mixed": (128, 512, 1_500, 4_096, 16_384, 65_536)}
LENT = 16
"""Buffers that are out at once."""
_PAGE = 4_096


class TakeGive:
    """`LENT` takes and as many gives an iteration; each page of a buffer is written once, as a receive would.

    Params:
        sizes: A key of `SIZES`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.pool = entry.make()
        source = random.Random(seed)
        sizes = SIZES[str(params["sizes"])]
        self.rounds = [[source.choice(sizes) for _ in range(LENT)] for _ in range(64)]
        self.returns = [source.sample(range(LENT), LENT) for _ in range(64)]

    def run(self, iterations: int) -> int:
        """Work is buffers given back."""
        take, give = self.pool.take, self.pool.give
        rounds, returns = self.rounds, self.returns
        for index in range(iterations):
            buffers = [take(size) for size in rounds[index & 63]]
            for buffer in buffers:
                for at in range(0, len(buffer), _PAGE):
                    buffer[at] = 1
            for position in returns[index & 63]:
                give(buffers[position])
        return iterations * LENT

    def verify(self) -> None:
        """Buffers are large enough and nobody else's, and all come back."""
        buffers = [self.pool.take(size) for size in self.rounds[0]]
        for mark, (buffer, size) in enumerate(zip(buffers, self.rounds[0], strict=True)):
            if len(buffer) < size:
                raise WrongResult(f"a buffer of {len(buffer)} bytes was lent for {size}")
            buffer[0] = buffer[size - 1] = mark
        for mark, (buffer, size) in enumerate(zip(buffers, self.rounds[0], strict=True)):
            if buffer[0] != mark or buffer[size - 1] != mark:
                raise WrongResult("two buffers that are lent share memory")
            self.pool.give(buffer)
        if self.pool.stats().lent:
            raise WrongResult(f"{self.pool.stats().lent} bytes count as lent after all were given back")

    def extras(self) -> dict[str, float]:
        """Share of takes that were served without allocating, and what the pool keeps."""
        stats = self.pool.stats()
        return {"reused": 100 * stats.reused / stats.taken, "held": stats.held / 1e6}

    def close(self) -> None:
        """Frees what can be freed."""
        if hasattr(self.pool, "close"):
            self.pool.close()


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "pool.take_give",
        "pool",
        "TakeGive",
        "take, touch and give back",
        (
            Metric("cost", "ns/buffer", "lower", 0, scale=1e9, inverse=True),
            Metric("reused", "%", "none", 1),
            Metric("held", "MB", "none", 2),
        ),
    ),
)
PLANS: tuple[Plan, ...] = (Plan("pools", "pool.take_give", quick=tuple({"sizes": sizes} for sizes in SIZES)),)
