"""Rings in one thread: what a put and a get cost, without anybody else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from portask.contracts import BatchRing
from portask.errors import RingEmpty
from portask.registry import Entry
from portask_lab.workloads import NotForThis, Params, WrongResult

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

CAPACITY = 4 << 20
BATCH = 64


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


class Records:
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


class Single(Records):
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


class Batched(Records):
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
