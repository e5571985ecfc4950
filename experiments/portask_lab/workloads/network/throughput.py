"""Throughput: bounded in flight, counted where messages arrive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portask.registry import Entry
from portask_lab.loadgen import clients
from portask_lab.loadgen.messages import SMALLEST
from portask_lab.workloads import Measurement, Params
from portask_lab.workloads.network.latency import saturate
from portask_lab.workloads.network.subjects import delivered, number, product, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_IN_FLIGHT_BYTES = 1 << 20
_IN_FLIGHT_MESSAGES = 20_000
_CLIENT_IN_FLIGHT = 30_000
_CLIENT_IN_FLIGHT_BYTES = 32 << 20


def _mean(payloads: Sequence[bytes]) -> int:
    return sum(map(len, payloads)) // max(1, len(payloads))


class Saturated:
    """By the lean generator: ``size`` bytes, ``batch`` messages a publish, publishers and subscribers of a topic.

    About 1 MiB, or 20,000 messages if those are less, are under way from each publisher, in 4 batches at least.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.size = number(params, "size")
        self.batch = number(params, "batch")
        self.publishers = number(params, "publishers")
        self.subscribers = number(params, "subscribers")
        self.params = params
        self.seed = seed

    def measure(self, seconds: float) -> Measurement:
        """One closed-loop run of so many seconds, warm-up included. The broker's CPU is that of the whole run."""
        in_flight = max(4, min(_IN_FLIGHT_BYTES // self.size, _IN_FLIGHT_MESSAGES) // self.batch)
        with start(self.entry, self.params) as child:
            began, cpu = time.monotonic(), child.cpu()
            found = saturate(
                child, self.size, self.batch, in_flight, seconds, self.seed, self.publishers, self.subscribers
            )
            share = (child.cpu() - cpu) / (time.monotonic() - began)
        shape = f"{self.size} B, {self.batch} a publish, {self.publishers}→{self.subscribers}"
        note = (
            f"server/{self.entry.name}, {shape}: {found.in_flight:,} messages in flight; "
            f"delivered batches of {delivered(found.deliveries)}"
        )
        return Measurement(
            metrics={"rate": [found.rate], "bytes": [found.rate * self.size / 1e6], "broker": [share * 100]},
            notes=[note] if self.batch > 1 else [],
        )

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""


class ClientSaturated:
    """By Python clients: random bytes, ``size`` a message, or a corpus, in each product's own way of sending many.

    A message of a corpus is a stamp of 16 bytes longer, so that its order and content are verified like any other's.
    Some 30,000 messages, or 32 MiB if those are less, are under way.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.contents = corpus.payloads
        self.size = number(params, "size") if "size" in params else SMALLEST + _mean(corpus.payloads)
        self.params = params
        self.seed = seed

    def measure(self, seconds: float) -> Measurement:
        """One closed-loop run of so many seconds, warm-up included."""
        subject = product(self.entry, self.params)
        in_flight = max(3, min(_CLIENT_IN_FLIGHT, _CLIENT_IN_FLIGHT_BYTES // self.size))
        subject.batch = min(subject.batch, in_flight // 3)
        with subject.start() as child:
            began, cpu = time.monotonic(), child.cpu()
            work = clients.closed_loop(
                subject, child.port, seconds, self.size, self.seed, in_flight, self.contents
            )
            found = clients.run(work)
            share = (child.cpu() - cpu) / (time.monotonic() - began)
        return Measurement(
            metrics={"rate": [found.rate], "bytes": [found.rate * self.size / 1e6], "broker": [share * 100]},
            notes=[subject.note] if subject.note else [],
        )

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""
