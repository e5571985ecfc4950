"""Rings between two threads or two processes, at full speed.

A producer that meets a full ring and a consumer that meets an empty one yield their slice and try again, as a loop that
has other work would; the wait is part of what a hand-off costs. Batches are prepared beforehand and compared whole:
what is timed beside the ring is one pass of Python a batch.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Self

from portask.contracts import BatchRing, SharedRing
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.registry import Entry
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult
from portask_lab.workloads.ring.one_thread import BATCH, Records

if TYPE_CHECKING:
    from collections.abc import Callable

    from portask_lab.corpora import Corpus

SPARE = 0.000_05
"""Seconds that a side sleeps when it met a full or empty ring 100 times in a row."""
PATIENCE = 10.0
"""Seconds, at least, without a record after which a hand-off counts as lost."""


def _yield_slice(misses: int) -> None:
    if misses:
        time.sleep(SPARE if misses > 100 else 0)


class Traffic:
    """The records of a hand-off, over and over, one at a time or in batches."""

    def __init__(self, records: list[bytes], batched: bool) -> None:
        self.batched = batched
        self.records = records
        self.groups = [records[at : at + BATCH] for at in range(0, len(records) - BATCH + 1, BATCH)]

    def produce(self, ring: Any, total: int) -> None:
        """Puts ``total`` records; in batches, a multiple of `BATCH`."""
        (self._produce_batches if self.batched else self._produce_singles)(ring, total)

    def consume(self, ring: Any, total: int) -> tuple[int, int]:
        """Takes ``total`` records and checks each; returns how many came and how many were not as sent."""
        return (self._consume_batches if self.batched else self._consume_singles)(ring, total)

    def _produce_singles(self, ring: Any, total: int) -> None:
        put = ring.put
        for record in islice(cycle(self.records), total):
            misses = 0
            while True:
                try:
                    put(record)
                    break
                except RingFull:
                    misses += 1
                    _yield_slice(misses)

    def _produce_batches(self, ring: Any, total: int) -> None:
        put_many = ring.put_many
        for group in islice(cycle(self.groups), total // BATCH):
            took = put_many(group)
            misses = 0
            while took < BATCH:
                more = put_many(group[took:])
                took += more
                misses = 0 if more else misses + 1
                _yield_slice(misses)

    def _consume_singles(self, ring: Any, total: int) -> tuple[int, int]:
        get = ring.get
        got = wrong = 0
        for record in islice(cycle(self.records), total):
            misses = 0
            while True:
                try:
                    wrong += get() != record
                    break
                except RingEmpty:
                    misses += 1
                    if _gives_up(misses):
                        return got, wrong
                except RingClosed:
                    return got, wrong
            got += 1
        return got, wrong

    def _consume_batches(self, ring: Any, total: int) -> tuple[int, int]:
        get_many = ring.get_many
        wrong = 0
        for number, group in enumerate(islice(cycle(self.groups), total // BATCH)):
            found = get_many(BATCH)
            misses = 0
            while len(found) < BATCH:  # a batch that came in parts is checked as one
                more = get_many(BATCH - len(found))
                found = found + more
                misses = 0 if more else misses + 1
                if _gives_up(misses):
                    return number * BATCH + len(found), wrong
            if found != group:
                wrong += sum(map(bytes.__ne__, found, group))
        return total, wrong


def _gives_up(misses: int) -> bool:
    """Yields the slice of a consumer that found nothing so many times; ``True`` after `PATIENCE` seconds of that."""
    _yield_slice(misses)
    return misses > PATIENCE / SPARE


class Handoff(Records):
    """A producer and a consumer, in two threads (param ``between=threads``) or processes, at full speed.

    Batched where the ring can and param ``batch`` is above 1.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        batched = int(params.get("batch") or 1) > 1
        between = str(params["between"])
        self.problem = ""
        if batched and not isinstance(self.ring, BatchRing):
            self.close()
            raise NotForThis(f"{entry.label} moves one record a call")
        if between == "processes" and not isinstance(self.ring, SharedRing):
            self.close()
            raise NotForThis(f"{entry.label} cannot be opened from another process")
        if batched and len(self.records) < BATCH:
            self.close()
            raise NotForThis(f"{corpus.name} has fewer than {BATCH} messages that the ring takes")
        self.traffic = Traffic(self.records, batched)
        self.handoff: Callable[[int], float] = self._threads if between == "threads" else self._processes

    def measure(self, seconds: float) -> Measurement:
        """Grows the number of records until a hand-off takes its share of the time, then takes the samples."""
        total = 32 * BATCH
        took = self.handoff(total)
        while took < seconds / 16 and total < 1 << 24 and not self.problem:
            total *= 4
            took = self.handoff(total)
        values: list[float] = []
        until = time.monotonic() + seconds
        while not self.problem and (len(values) < 2 or time.monotonic() < until):
            values.append(total / self.handoff(total))
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
            self.traffic.produce(self.ring, total)

        producer = threading.Thread(target=produce, daemon=True)
        producer.start()
        ready.wait(PATIENCE)
        start = time.perf_counter()
        got, wrong = self.traffic.consume(self.ring, total)
        took = time.perf_counter() - start
        producer.join(PATIENCE)
        self._judge(got, wrong, total)
        return took

    def _processes(self, total: int) -> float:
        with OtherProcess(self.ring, self.traffic.produce, total) as producer:
            producer.start()
            began = time.perf_counter()
            got, wrong = self.traffic.consume(self.ring, total)
            took = time.perf_counter() - began
        self._judge(got, wrong, total)
        return took


class OtherProcess:
    """A child that attaches to the ring, says that it is ready, waits for the start, and does its side of the work.

    Leaving waits for its end; what is larger than a pipe holds must be asked for (`outcome`) before.
    """

    def __init__(self, ring: Any, work: Callable[..., Any], *details: Any) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.ours, self.theirs = context.Pipe()
        self.child = context.Process(
            target=_do_there, args=(self.theirs, type(ring), ring.name, work, *details)
        )

    def __enter__(self) -> Self:
        self.child.start()
        if not self.ours.poll(PATIENCE):
            self.__exit__()
            raise WrongResult(f"the other process did not attach within {PATIENCE:.0f} s")
        self.ours.recv()
        return self

    def start(self) -> None:
        """Has it begin."""
        self.ours.send(None)

    def outcome(self) -> Any:
        """Waits for what its work returned."""
        if not self.ours.poll(PATIENCE):
            raise WrongResult(f"the other process did not finish within {PATIENCE:.0f} s")
        return self.ours.recv()

    def __exit__(self, *_: object) -> None:
        self.child.join(PATIENCE)
        if self.child.is_alive():
            self.child.kill()
            self.child.join()
        self.ours.close()
        self.theirs.close()


def _do_there(pipe: Any, kind: Any, name: str, work: Callable[..., Any], *details: Any) -> None:
    ring = kind.attach(name)
    pipe.send(None)
    pipe.recv()
    pipe.send(work(ring, *details))
    pipe.close()
