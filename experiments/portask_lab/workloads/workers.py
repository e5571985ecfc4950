"""Workers: what it costs to hand a step over, and what several cores bring for steps that are worth it.

Steps are functions of this module and take plain bytes, so that a variant may run them in other processes.

`Steps` keeps a loop that does nothing else; `Beside` one that is busy with Python, as a broker's under load is:
there a thread that needs the interpreter for a moment waits for the loop to give it up.
"""

from __future__ import annotations

import hashlib
import select
import threading
import time
import zlib
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from portask.contracts import NativeSteps
from portask.errors import WorkersFull
from portask.registry import Entry
from portask_lab.loadgen.latencies import percentile
from portask_lab.workloads import Measurement, Metric, Params, Plan, Workload, WrongResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from portask_lab.corpora import Corpus

LIMIT = 64
"""Steps in flight."""
PATIENCE = 10.0
"""Seconds to wait for a result before it counts as lost."""
BLOCK = 65_536


def nothing(data: bytes) -> int:
    """A step that does nothing: what remains is the hand-over."""
    return len(data)


def compress(data: bytes) -> bytes:
    """A step that costs some hundred µs and releases the GIL: zlib at its fastest level."""
    return zlib.compress(data, 1)


def digest(data: bytes) -> bytes:
    """A step that costs some tens of µs and releases the GIL: SHA-256."""
    return hashlib.sha256(data).digest()


STEPS: dict[str, Callable[[bytes], Any]] = {"nothing": nothing, "compress": compress, "digest": digest}


_LEVEL = 3
_own = threading.local()


def zstd(data: bytes) -> bytes:
    """A step that costs some hundred µs and releases the GIL: zstd, a compressor for each thread."""
    if not hasattr(_own, "compressor"):
        import zstandard  # noqa: PLC0415 - optional: where it is missing, the other workloads are still found

        _own.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    compressed: bytes = _own.compressor.compress(data)
    return compressed


def _blocks(corpus: Corpus) -> list[bytes]:
    joined = b"".join(corpus.payloads)
    while len(joined) < 8 * BLOCK:
        joined += joined
    return [joined[at : at + BLOCK] for at in range(0, min(len(joined), 16 * BLOCK) - BLOCK + 1, BLOCK)]


class Steps:
    """Keeps `LIMIT` steps in flight until all are done; results are counted, and checked against a plain call.

    Params:
        step: A key of `STEPS`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.step = STEPS[str(params["step"])]
        self.calls = [partial(self.step, block) for block in _blocks(corpus)]
        self.expected = [call() for call in self.calls]
        self.ready = threading.Event()
        self.workers = entry.make(limit=LIMIT, notify=self.ready.set)
        self.done = 0
        self.error: BaseException | None = None

    def run(self, iterations: int) -> int:
        """Work is steps whose results came back."""
        self.done = 0
        submit, poll, finish = self.workers.submit, self.workers.poll, self._finish
        for _, call in zip(range(iterations), cycle(self.calls), strict=False):
            while True:
                try:
                    submit(call, finish)
                    break
                except WorkersFull:
                    self.ready.clear()
                    if not poll():
                        self._wait()
        while self.done < iterations and self.error is None:
            self.ready.clear()
            if not poll():
                self._wait()
        return self.done

    def verify(self) -> None:
        """Every result is the plain call's, in the order of submission."""
        results: list[Any] = []
        self.run(1)
        for call in self.calls:
            self.workers.submit(call, lambda result, error: results.append(error or result))
        while len(results) < len(self.calls):
            self.ready.clear()
            if not self.workers.poll():
                self._wait()
        if results != self.expected:
            raise WrongResult("results differ from a plain call's, or came out of order")
        if self.error is not None:
            raise WrongResult(f"a step failed: {self.error!r}")

    def close(self) -> None:
        """Ends the workers."""
        self.workers.close()

    def _wait(self) -> None:
        if not self.ready.wait(PATIENCE) and not self.workers.poll():
            raise WrongResult(f"a step gave no result within {PATIENCE:.0f} s")

    def _finish(self, _result: Any, error: BaseException | None) -> None:
        self.done += 1
        if error is not None:
            self.error = error


FLIGHT = 16
"""Steps in flight beside the busy loop."""


class Beside:
    """A loop that is busy with Python all the time, and between its turns asks the kernel, polls and submits.

    Each step compresses 64 KiB by zstd: through the workers' own step where they have one (`NativeSteps`), else through
    `zstd`. ``loop`` is what is left for the loop, of what it does alone.

    Params:
        turn_us: µs that a turn takes when the loop is alone. Asking the kernel after it gives the interpreter up.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.blocks = _blocks(corpus)
        self.workers = entry.make(limit=FLIGHT)
        own = isinstance(self.workers, NativeSteps)
        self.steps = [
            self.workers.zstd_compress(block, _LEVEL) if own else partial(zstd, block)
            for block in self.blocks
        ]
        self.first: dict[int, bytes] = {}
        self.error: BaseException | None = None
        self.epoll = select.epoll()
        self.amount = 1000
        self.amount = max(1, int(1e-3 * int(params["turn_us"] or 0) / min(self._alone() for _ in range(20))))
        # Importing beside a busy loop takes a thread seconds: each of its many calls waits for the interpreter.
        zstd(b"")
        self._warm_up()

    def _warm_up(self) -> None:
        """Each thread makes what it keeps."""
        back: list[BaseException | None] = []
        for step in self.steps[:FLIGHT]:
            self.workers.submit(step, lambda _, error: back.append(error))
        until = time.perf_counter() + PATIENCE
        while len(back) < len(self.steps[:FLIGHT]):
            if time.perf_counter() > until:
                raise WrongResult(f"a step gave no result within {PATIENCE:.0f} s")
            self.workers.poll()
            time.sleep(0.001)

    def measure(self, seconds: float) -> Measurement:
        """Steps that came back, how long they took, and the turns that the loop did meanwhile."""
        clock, workers, steps = time.perf_counter, self.workers, self.steps
        alone = min(self._alone() for _ in range(50))
        took: list[float] = []
        turns = number = 0
        flight = 0

        def finish(index: int, since: float, result: Any, error: BaseException | None) -> None:
            nonlocal flight
            flight -= 1
            took.append(clock() - since)
            if error is not None:
                self.error = error
            else:
                self.first.setdefault(index, result)

        start = clock()
        # On a busy machine a short block may end before its first step came back: a figure needs one.
        while (lasted := (now := clock()) - start) < seconds or number < len(steps) or not took:
            if lasted > max(PATIENCE, 2 * seconds):
                raise WrongResult(f"{flight} steps gave no result within {lasted:.0f} s")
            while flight < FLIGHT:
                index = number % len(steps)
                workers.submit(steps[index], partial(finish, index, now))
                number += 1
                flight += 1
            self._turn()
            turns += 1
            workers.poll()
        lasted = clock() - start
        done = len(took)
        ordered = sorted(took)
        until = clock() + PATIENCE
        while flight and clock() < until:
            workers.poll()
            time.sleep(0.001)
        if flight:
            raise WrongResult(f"{flight} steps gave no result within {PATIENCE:.0f} s")
        return Measurement(
            {
                "rate": [done / lasted],
                "loop": [100 * turns * alone / lasted],
                "p50": [percentile(ordered, 0.5) * 1e6],
            }
        )

    def verify(self) -> None:
        """Every block comes back from what it was compressed to."""
        if self.error is not None:
            raise WrongResult(f"a step failed: {self.error!r}")
        import zstandard  # noqa: PLC0415 - as above

        decompress = zstandard.ZstdDecompressor().decompress
        if [decompress(self.first[index]) for index in range(len(self.blocks))] != self.blocks:
            raise WrongResult("what was compressed is not what it was made of")

    def close(self) -> None:
        """Ends the workers."""
        self.epoll.close()
        self.workers.close()

    def _turn(self) -> None:
        total = 0
        for number in range(self.amount):
            total += number
        self.epoll.poll(0)

    def _alone(self) -> float:
        start = time.perf_counter()
        self._turn()
        return time.perf_counter() - start


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "workers.steps",
        "workers",
        "Steps",
        "steps to the end, 64 in flight",
        (Metric("rate", "steps/s", "higher"),),
    ),
    Workload(
        "workers.beside",
        "workers",
        "Beside",
        "zstd steps beside a loop that is busy with Python",
        (
            Metric("rate", "steps/s", "higher"),
            Metric("loop", "% of the loop alone", "none", 1),
            Metric("p50", "µs", "lower"),
        ),
    ),
    Workload(
        "workers.overhead",
        "workers",
        "Steps",
        "hand over a step that does nothing",
        (Metric("cost", "ns/step", "lower", 0, scale=1e9, inverse=True),),
    ),
)
PLANS: tuple[Plan, ...] = (
    Plan(
        "workers", "workers.steps", ("main",), ({"step": "compress"}, {"step": "digest"}), seconds=(0.1, 1.0)
    ),
    Plan(
        "workers",
        "workers.beside",
        ("main",),
        ({"turn_us": 2_000},),
        ({"turn_us": 200}, {"turn_us": 2_000}),
        seconds=(0.1, 1.0),
    ),
    Plan("workers", "workers.overhead", ("tiny",), ({"step": "nothing"},)),
)
