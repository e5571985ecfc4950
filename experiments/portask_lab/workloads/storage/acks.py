"""How long a producer waits for its acknowledgement, and how many share a sync.

Producers in a closed loop, as a broker would serve them: those that were acknowledged append again in the next turn;
while nobody can, the storage is slept for. In durability ``synced`` that is what makes batches: while a sync runs,
those who wait pile up.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from portask.messages import TopicPartition
from portask.registry import Entry
from portask_lab.loadgen.latencies import percentile
from portask_lab.workloads import Measurement, Params, WrongResult
from portask_lab.workloads.storage.driving import START, Driven
from portask_lab.workloads.storage.throughput import encoded

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_PARTITION = TopicPartition("lab", 0)
_WARM_UP = 0.2


class Acks:
    """Producers that each wait for their ack, into one partition; latency is from the append to its ``done``.

    Params:
        producers: How many.
        batch: Messages an append.
        durability: Value of `portask.contracts.Durability`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.producers = int(params["producers"] or 1)
        self.driven = Driven(entry, str(params["durability"]))
        self.parsed = encoded(corpus, int(params["batch"] or 1))
        self.appended = self.acknowledged = 0
        self.disordered = 0
        self.failed: BaseException | None = None

    def measure(self, seconds: float) -> Measurement:
        """One run of about ``seconds``; its first fifth is warm-up, and what that began is not counted.

        It goes on until at least one append was counted, however slow the device is.
        """
        driven, parsed, size = self.driven, self.parsed, len(self.parsed)
        append = driven.storage.append
        waits: list[int] = []
        ready = list(range(self.producers))
        begun = [0] * self.producers
        newest = -1
        counting = 0  # when the warm-up was over

        def acknowledge(producer: int, offset: int, error: BaseException | None) -> None:
            nonlocal newest
            now = perf_counter_ns()
            if error is not None:
                self.failed = error
                return
            self.acknowledged += 1
            self.disordered += offset <= newest
            newest = offset
            if counting and begun[producer] >= counting:
                waits.append(now - begun[producer])
            ready.append(producer)

        calls = [
            lambda offset, error, producer=producer: acknowledge(producer, offset, error)
            for producer in range(self.producers)
        ]
        start = perf_counter_ns()
        opens, ends = start + int(_WARM_UP * seconds * 1e9), start + int(seconds * 1e9)
        syncs = before = 0
        while ((now := perf_counter_ns()) < ends or not waits) and self.failed is None:
            if not counting and now >= opens:
                counting, syncs, before = now, self._syncs(), self.acknowledged
            turn = ready[:]
            ready.clear()
            for producer in turn:
                begun[producer] = perf_counter_ns()
                append(_PARTITION, parsed[self.appended % size], START + self.appended, calls[producer])
                self.appended += 1
            driven.end_turn()
            if not ready:
                driven.wait(lambda: bool(ready) or self.failed is not None)
        self._must_work()
        span = (now - counting) / 1e9
        count, done_syncs = self.acknowledged - before, self._syncs() - syncs
        driven.wait(lambda: self.acknowledged == self.appended or self.failed is not None)
        ordered = sorted(waits)
        metrics = {
            "rate": [count * self.parsed[0].count / span],
            "p50": [percentile(ordered, 0.5) / 1e3],
            "p99": [percentile(ordered, 0.99) / 1e3],
        }
        if done_syncs:
            metrics["grouped"] = [count / done_syncs]
        return Measurement(metrics=metrics)

    def verify(self) -> None:
        """Every append was acknowledged, in order, and is there."""
        self._must_work()
        if self.acknowledged != self.appended:
            raise WrongResult(f"{self.acknowledged} of {self.appended} appends were acknowledged")
        if self.disordered:
            raise WrongResult(f"{self.disordered} appends were acknowledged before an earlier one")
        end = self.driven.lookup(_PARTITION)
        if end != self.appended * self.parsed[0].count:
            raise WrongResult(f"{self.appended} appends were acknowledged, the log ends at record {end}")

    def close(self) -> None:
        """Closes the storage."""
        self.driven.close()

    def _must_work(self) -> None:
        if self.failed is not None:
            raise WrongResult(f"an append failed: {self.failed}")

    def _syncs(self) -> int:
        """Syncs so far, as the storage itself counts them; 0 for one that does not sync."""
        times = getattr(self.driven.storage, "sync_times", None)
        return int(times.count) if times is not None else 0
