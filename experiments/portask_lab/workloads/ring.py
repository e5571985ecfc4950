"""Rings: records through one thread, between two threads, between two processes.

Work is records taken out, and what comes out is compared with what went in: number, order and bytes. A producer that
meets a full ring and a consumer that meets an empty one yield their slice and try again, as a loop that has other
work would; the wait is part of what a hand-off costs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from portask.contracts import BatchRing, Ring, SharedRing
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.registry import Entry
from portask_lab.workloads import (
    Measurement,
    Metric,
    NotForThis,
    Params,
    Plan,
    Workload,
    WrongResult,
    Yardstick,
)

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

CAPACITY = 4 << 20
BATCH = 64
SPARE = 0.000_05
"""Seconds that a side sleeps when it met a full or empty ring 100 times in a row."""
PATIENCE = 10.0
"""Seconds without a record after which a hand-off counts as lost."""


class ListRing:
    """The floor: a preallocated list and two counters, without bounds, closing or byte accounting.

    One thread only.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: list[Any] = [b""] * 4096
        self._head = self._tail = 0

    def put(self, record: Any) -> None:
        """Stores a reference."""
        self._slots[self._head & 4095] = record
        self._head += 1

    def get(self) -> Any:
        """The oldest."""
        record = self._slots[self._tail & 4095]
        self._tail += 1
        return record

    def close(self) -> None:
        """Nothing to close."""


_FLOOR = Yardstick(
    "floor", Entry("ring", "bare-list", "portask_lab.workloads.ring:ListRing", "a list and two counters")
)
_COST = Metric("cost", "ns/record", "lower", 0, scale=1e9, inverse=True)
_RATE = Metric("rate", "records/s", "higher")


class _Records:
    """Records of the corpus, prepared once: as many as half the ring takes."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.ring: Any = entry.make(capacity=CAPACITY)
        largest = CAPACITY // 8
        self.records = [payload for payload in corpus.payloads if len(payload) <= largest]
        if not self.records:
            raise NotForThis(
                f"no message of {corpus.name} is below {largest:,} bytes, the largest that the ring takes"
            )

    def close(self) -> None:
        """Closes the ring."""
        self.ring.close()


class Single(_Records):
    """One put and one get an iteration, in one thread."""

    def run(self, iterations: int) -> int:
        """Work is records taken out."""
        put, get, records = self.ring.put, self.ring.get, self.records
        count = len(records)
        for index in range(iterations):
            put(records[index % count])
            get()
        return iterations

    def verify(self) -> None:
        """What is put comes out, in order."""
        some = self.records[:100]
        for record in some:
            self.ring.put(record)
        found = []
        with contextlib.suppress(RingEmpty):  # one that lost some has fewer: they differ
            found += [bytes(self.ring.get()) for _ in some]
        if found != some:
            raise WrongResult("records did not come out as they were put in")


class Batched(_Records):
    """One ``put_many`` and one ``get_many`` of `BATCH` records an iteration, in one thread."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        if not isinstance(self.ring, BatchRing):
            self.close()
            raise NotForThis(f"{entry.label} moves one record a call")
        small = [record for record in self.records if len(record) <= CAPACITY // 2 // BATCH]
        if len(small) < BATCH:
            self.close()
            raise NotForThis(f"messages of {corpus.name} are too large to have {BATCH} in the ring")
        self.groups = [small[at : at + BATCH] for at in range(0, len(small) - BATCH + 1, BATCH)]

    def run(self, iterations: int) -> int:
        """Work is records taken out."""
        put_many, get_many, groups = self.ring.put_many, self.ring.get_many, self.groups
        count, done = len(groups), 0
        for index in range(iterations):
            put_many(groups[index % count])
            done += len(get_many(BATCH))
        return done

    def verify(self) -> None:
        """What is put comes out, in order."""
        for group in self.groups[:10]:
            if (
                self.ring.put_many(group) != BATCH
                or [bytes(record) for record in self.ring.get_many(BATCH)] != group
            ):
                raise WrongResult("a batch did not come out as it was put in")


def _produce(ring: Ring, records: list[bytes], total: int, batched: bool) -> None:
    sent, misses, count = 0, 0, len(records)
    while sent < total:
        if batched:
            at = sent % count
            took = ring.put_many(records[at : min(at + BATCH, at + total - sent)])  # type: ignore[attr-defined]
        else:
            try:
                ring.put(records[sent % count])
                took = 1
            except RingFull:
                took = 0
        sent += took
        misses = 0 if took else misses + 1
        _yield_slice(misses)


def _consume(ring: Ring, records: list[bytes], total: int, batched: bool) -> tuple[int, int]:
    """Takes ``total`` records and checks each; returns how many came and how many were not as sent."""
    got = wrong = misses = 0
    count = len(records)
    last = time.monotonic()
    while got < total:
        try:
            found = ring.get_many(BATCH) if batched else [ring.get()]  # type: ignore[attr-defined]
        except RingEmpty:
            found = []
        except RingClosed:
            break
        for record in found:
            wrong += record != records[got % count]
            got += 1
        misses = 0 if found else misses + 1
        if misses and misses % 1000 == 0 and time.monotonic() - last > PATIENCE:
            break
        if found:
            last = time.monotonic() if misses > 1000 else last
        _yield_slice(misses)
    return got, wrong


def _yield_slice(misses: int) -> None:
    if misses:
        time.sleep(SPARE if misses > 100 else 0)


class Handoff(_Records):
    """A producer and a consumer, in two threads (param ``between=threads``) or processes, at full speed.

    Batched where the ring can and param ``batch`` is above 1.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        self.batched = int(params.get("batch") or 1) > 1
        self.between = str(params["between"])
        self.problem = ""
        if self.batched and not isinstance(self.ring, BatchRing):
            self.close()
            raise NotForThis(f"{entry.label} moves one record a call")
        if self.between == "processes" and not isinstance(self.ring, SharedRing):
            self.close()
            raise NotForThis(f"{entry.label} cannot be opened from another process")

    def measure(self, seconds: float) -> Measurement:
        """Grows the number of records until a hand-off takes its share of the time, then takes the samples."""
        handoff = self._threads if self.between == "threads" else self._processes
        total = 2_000
        took = handoff(total)
        while took < seconds / 16 and total < 1 << 24 and not self.problem:
            total *= 4
            took = handoff(total)
        values: list[float] = []
        until = time.monotonic() + seconds
        while not self.problem and (len(values) < 2 or time.monotonic() < until):
            values.append(total / handoff(total))
        return Measurement({"rate": values})

    def verify(self) -> None:
        """Raises what the consumers found."""
        if self.problem:
            raise WrongResult(self.problem)

    def _judge(self, got: int, wrong: int, total: int) -> None:
        if got != total or wrong:
            self.problem = (
                f"of {total:,} records handed over {got:,} arrived, {wrong:,} of them altered or out of order"
            )

    def _threads(self, total: int) -> float:
        ready = threading.Barrier(2)

        def produce() -> None:
            ready.wait(PATIENCE)
            _produce(self.ring, self.records, total, self.batched)

        producer = threading.Thread(target=produce, daemon=True)
        producer.start()
        ready.wait(PATIENCE)
        start = time.perf_counter()
        got, wrong = _consume(self.ring, self.records, total, self.batched)
        took = time.perf_counter() - start
        producer.join(PATIENCE)
        self._judge(got, wrong, total)
        return took

    def _processes(self, total: int) -> float:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        ours, theirs = context.Pipe()
        child = context.Process(
            target=_produce_there,
            args=(theirs, (type(self.ring), self.ring.name), self.records, total, self.batched),
        )
        child.start()
        try:
            ours.recv()
            start = time.perf_counter()
            ours.send(None)
            got, wrong = _consume(self.ring, self.records, total, self.batched)
            took = time.perf_counter() - start
        finally:
            child.join(PATIENCE)
            if child.is_alive():
                child.kill()
                child.join()
            ours.close()
            theirs.close()
        self._judge(got, wrong, total)
        return took


def _produce_there(
    pipe: Any, attach: tuple[Any, str], records: list[bytes], total: int, batched: bool
) -> None:
    kind, name = attach
    ring = kind.attach(name)
    pipe.send(None)
    pipe.recv()
    _produce(ring, records, total, batched)
    pipe.close()


WORKLOADS: tuple[Workload, ...] = (
    Workload("ring.single", "ring", "Single", "one put, one get, one thread", (_COST,), (_FLOOR,)),
    Workload("ring.batched", "ring", "Batched", f"put and get {BATCH} at a time, one thread", (_COST,)),
    Workload(
        "ring.handoff", "ring", "Handoff", "producer and consumer in two threads", (_RATE,), applies="threads"
    ),
    Workload(
        "ring.handoff_processes",
        "ring",
        "Handoff",
        "producer and consumer in two processes",
        (_RATE,),
        applies="processes",
    ),
)
_THREADS: tuple[Params, ...] = ({"between": "threads", "batch": 1}, {"between": "threads", "batch": BATCH})
_PROCESSES: tuple[Params, ...] = (
    {"between": "processes", "batch": 1},
    {"between": "processes", "batch": BATCH},
)
PLANS: tuple[Plan, ...] = (
    Plan("rings", "ring.single", ("tiny",), full_corpora=("tiny", "real")),
    Plan("rings", "ring.batched", ("tiny",), full_corpora=("tiny", "real")),
    Plan("rings", "ring.handoff", ("tiny",), _THREADS, seconds=(0.15, 2.0)),
    Plan("rings", "ring.handoff_processes", ("tiny",), _PROCESSES, seconds=(0.15, 2.0)),
)
