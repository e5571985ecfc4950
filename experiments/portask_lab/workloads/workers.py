"""Workers: what it costs to hand a step over, and what several cores bring for steps that are worth it.

Steps are functions of this module and take plain bytes, so that a variant may run them in other processes.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from portask.errors import WorkersFull
from portask.registry import Entry
from portask_lab.workloads import Metric, Params, Plan, Workload, WrongResult

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


class Steps:
    """Keeps `LIMIT` steps in flight until all are done; results are counted, and checked against a plain call.

    Params:
        step: A key of `STEPS`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.step = STEPS[str(params["step"])]
        joined = b"".join(corpus.payloads)
        while len(joined) < 8 * BLOCK:
            joined += joined
        blocks = [joined[at : at + BLOCK] for at in range(0, min(len(joined), 16 * BLOCK) - BLOCK + 1, BLOCK)]
        self.calls = [partial(self.step, block) for block in blocks]
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


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "workers.steps",
        "workers",
        "Steps",
        "steps to the end, 64 in flight",
        (Metric("rate", "steps/s", "higher"),),
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
    Plan("workers", "workers.overhead", ("tiny",), ({"step": "nothing"},)),
)
