"""How long one record takes to a consumer that waits for it: from just before the put to just after the get.

The producer puts a record, then pauses long enough that the consumer waits again. The record carries its number, which
the consumer checks. Each side notes its own times (CLOCK_MONOTONIC, ns: one clock for all processes), which are brought
together at the end: nothing but the clock, the put, the wait and the get lies between the two.

Between processes the producer spins through its pause, so that it is as awake as it would be under load: each
side has an interpreter of its own, and a core of its own on a machine that has two to spare. Between threads
it sleeps: spinning in Python it would hold the interpreter, and what was measured would be the interpreter's
switch interval.

How the consumer waits is what is compared. ``spinning``: it looks for the record all the time. ``sleeping``:
it leaves the core to others; a ring that can wake it (`WaitingRing`) does, with another it looks, sleeps
`SPARE` seconds, and looks again.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any

from portask.contracts import SharedRing, WaitingRing
from portask.errors import RingClosed, RingEmpty
from portask.registry import Entry
from portask_lab.loadgen.latencies import percentile
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult
from portask_lab.workloads.ring.handoff import SPARE, OtherProcess

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

CAPACITY = 1 << 16
PAUSE = 0.000_2
"""Seconds between two records: long enough for a consumer that sleeps to be asleep again."""
PATIENCE = 5.0
"""Seconds without a record after which it counts as lost."""
WARM_UP = 0.1
"""Share of the records, from the first on, that does not count."""

_NUMBER = Struct("<Q56x")  # 64 bytes, as the hand-off's
_clock = time.monotonic_ns


class Hop:
    """Records to a consumer that waits.

    Params:
        between: ``processes`` or ``threads``.
        waits: ``spinning`` or ``sleeping``.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.ring: Any = entry.make(capacity=CAPACITY)
        self.between = str(params["between"])
        self.spins = params["waits"] == "spinning"
        self.problem = ""
        if self.between == "processes" and not isinstance(self.ring, SharedRing):
            self.close()
            raise NotForThis(f"{entry.label} cannot be opened from another process")

    def measure(self, seconds: float) -> Measurement:
        """As many records as fit into the time."""
        count = max(20, int(seconds / PAUSE))
        puts: list[int] = []
        if self.between == "processes":
            with OtherProcess(self.ring, _produce, count, True) as producer:
                producer.start()
                gets = self._consume(count)
                if not self.problem:
                    puts = producer.outcome()
        else:
            thread = threading.Thread(
                target=lambda: puts.extend(_produce(self.ring, count, False)), daemon=True
            )
            thread.start()
            gets = self._consume(count)
            thread.join(PATIENCE)
        delays = [got - put for got, put in zip(gets, puts, strict=not self.problem)]
        ordered = sorted(delays[int(WARM_UP * count) :]) or [0]
        found = {name: [percentile(ordered, share) / 1e3] for name, share in (("p50", 0.5), ("p99", 0.99))}
        return Measurement(found)

    def verify(self) -> None:
        """Raises what the consumer found."""
        if self.problem:
            raise WrongResult(self.problem)

    def close(self) -> None:
        """Closes the ring."""
        self.ring.close()

    def _consume(self, count: int) -> list[int]:
        """When each record was there, ns."""
        ring, unpack, get = self.ring, _NUMBER.unpack, self.ring.get
        wait = _waiting(ring, self.spins)
        gets: list[int] = []
        while len(gets) < count:
            if not wait():
                self.problem = (
                    f"of {count:,} records {len(gets):,} arrived, then none within {PATIENCE:.0f} s"
                )
                break
            try:
                record = get()
            except RingEmpty:
                continue
            except RingClosed:
                self.problem = f"of {count:,} records {len(gets):,} arrived, then the ring was closed"
                break
            now = _clock()
            (number,) = unpack(record)
            if number != len(gets):
                self.problem = f"record {len(gets):,} was expected and {number:,} came"
                break
            gets.append(now)
        return gets


def _waiting(ring: Any, spins: bool) -> Any:
    """A function that returns whether something came within `PATIENCE` seconds."""
    if isinstance(ring, WaitingRing):
        return partial(ring.wait, PATIENCE, PATIENCE if spins else 0.0)

    def look() -> bool:
        end = time.monotonic() + PATIENCE
        while not len(ring):
            if not spins:
                time.sleep(SPARE)
            if time.monotonic() > end:
                return False
        return True

    return look


def _produce(ring: Any, count: int, awake: bool) -> list[int]:
    """Puts so many records; returns when it began to put each, ns."""
    put, pause = ring.put, int(PAUSE * 1e9)
    puts: list[int] = []
    for record in [_NUMBER.pack(number) for number in range(count)]:
        if awake:
            due = _clock() + pause
            while _clock() < due:
                os.sched_yield()
        else:
            time.sleep(PAUSE)
        now = _clock()
        put(record)
        puts.append(now)
    return puts
