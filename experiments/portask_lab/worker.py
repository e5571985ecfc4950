"""The measuring process.

``python -m portask_lab.worker`` reads a `Spec` on stdin and writes a line of JSON for each job.

One process measures one arm of one block and ends. It imports nothing but what it measures: start-up is paid
once for each arm and block, and whatever else is loaded shares the caches. Standard output belongs to the
protocol; what a variant prints goes to standard error, whose tail is shown when the process fails.

How `Timed` work is timed, always alike:

1. ``verify()``: wrong work is not timed.
2. The collector runs, and everything alive is frozen out of its sight; it stays on (`portask_lab.machine.GC_POLICY`).
3. ``iterations`` is multiplied by four until a run takes an eighth of a sample's time, then scaled to fill it.
4. Two samples are warm-up and discarded. The rule is fixed: nothing looks at them. Drift among the rest is tested
   later.
5. The samples: wall time of ``run`` by ``perf_counter_ns``, nothing subtracted.
6. ``verify()`` again.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
import zlib
from time import perf_counter_ns
from typing import Any

import msgspec

from portask.registry import Entry
from portask_lab import workloads
from portask_lab.corpora import EMPTY, Corpus, read
from portask_lab.suites import Job
from portask_lab.workloads import Measurement, Metric, NotForThis, Timed, WrongResult

WARM_UP = 2
"""Samples that are discarded, besides the calibration."""


class Spec(msgspec.Struct):
    """What one process is to do.

    Attributes:
        entry: The variant, or the yardstick.
        jobs: In the order in which to do them.
        corpora: Name → file that `Corpus.write` wrote.
        seed: For the workloads.
        slowdown: Planted by the self-test: every timed run is stretched by this share of its own duration.
        conform: Run the conformance suite instead.
    """

    entry: Entry
    jobs: list[Job] = []
    corpora: dict[str, str] = {}
    seed: int = 0
    slowdown: float = 0.0
    conform: bool = False


class Line(msgspec.Struct, omit_defaults=True):
    """One line of the answer.

    Attributes:
        job: Index of the job in `Spec.jobs`; of the check when conforming.
        pid: This process.
        begun: The job begins: if no other line of it follows, it took the process down.
        measurement: What came out.
        error: Why nothing did: one line, or a traceback's tail.
        wrong: The error is a `WrongResult`: something was lost, reordered or altered.
        skipped: The job is not for this variant, and why.
        check: Conformance: name, status and detail of one check.
        speed: ns that the same small loop took, once a process.
    """

    job: int
    pid: int
    speed: int = 0
    begun: bool = False
    measurement: Measurement | None = None
    error: str = ""
    wrong: bool = False
    skipped: str = ""
    check: tuple[str, str, str] | None = None


def main() -> None:
    """Reads the spec, answers, ends."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    encode = msgspec.json.Encoder().encode
    for line in conformance(spec) if spec.conform else measure(spec):
        out.write(encode(line) + b"\n")


def conformance(spec: Spec) -> Any:
    """One line a check."""
    from portask_lab.conformance import conform  # noqa: PLC0415 - measuring processes do without

    for number, outcome in enumerate(conform(spec.entry)):
        yield Line(number, os.getpid(), check=(outcome.check, outcome.status, outcome.detail))


def measure(spec: Spec) -> Any:
    """Two lines a job: begun, and what came of it. One that fails does not stop the others."""
    pid, speed = os.getpid(), probe()
    corpora: dict[str, Corpus] = {"": EMPTY}
    for number, job in enumerate(spec.jobs):
        yield Line(number, pid, speed, begun=True)
        name = str(job.params.get("corpus") or "")
        try:
            if name not in corpora:
                corpora[name] = read(spec.corpora[name])
            yield Line(number, pid, measurement=perform(spec, job, corpora[name]))
        except NotForThis as reason:
            yield Line(number, pid, skipped=str(reason))
        except Exception as error:  # noqa: BLE001 - whatever a variant raises is its failure, not ours
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            text = f"{type(error).__name__}: {error}\n{where}".rstrip()
            yield Line(number, pid, error=text, wrong=isinstance(error, WrongResult))


def probe() -> int:
    """Time of a fixed loop, ns: the least of ten, so that it tells the CPU's speed and no interruption.

    About 1 ms.
    """
    times = []
    for _ in range(10):
        start = perf_counter_ns()
        for _ in range(3_000):
            pass
        times.append(perf_counter_ns() - start)
    return min(times)


def perform(spec: Spec, job: Job, corpus: Corpus) -> Measurement:
    """One job, from preparing to closing."""
    workload = workloads.get(job.workload)
    seed = zlib.crc32(f"{spec.seed}|{job.workload}|{sorted(job.params.items(), key=str)}".encode())
    work = workload.prepare(spec.entry, corpus, job.params, seed)
    try:
        if hasattr(work, "measure"):
            measurement: Measurement = work.measure(job.seconds)
            work.verify()
            return measurement
        work.verify()
        values = sample(work, workload.metrics[0], job.seconds, job.samples, spec.slowdown)
        work.verify()
        extras = work.extras() if hasattr(work, "extras") else {}
        metrics = {workload.metrics[0].name: values, **{name: [value] for name, value in extras.items()}}
        return Measurement(metrics=metrics)
    finally:
        if hasattr(work, "close"):
            work.close()


def sample(work: Timed, metric: Metric, seconds: float, samples: int, slowdown: float = 0.0) -> list[float]:
    """``samples`` values of ``metric`` within about ``seconds``, warm-up and calibration included."""
    target = int(seconds * 1e9 / (samples + WARM_UP))
    gc.collect()
    gc.freeze()
    iterations, (_, took) = 1, _once(work, 1, 0.0)
    while took < target // 8:
        iterations *= 4
        _, took = _once(work, iterations, 0.0)
    iterations = max(1, iterations * target // max(took, 1))
    values = []
    for number in range(WARM_UP + samples):
        done, took = _once(work, iterations, slowdown)
        if number >= WARM_UP:
            values.append(metric.value(done, took))
    return values


def _once(work: Timed, iterations: int, slowdown: float) -> tuple[int, int]:
    before = getattr(work, "before", None)
    if before:
        before(iterations)
    start = perf_counter_ns()
    done = work.run(iterations)
    end = perf_counter_ns()
    if slowdown:
        until = end + int((end - start) * slowdown)
        while end < until:
            end = perf_counter_ns()
    return done, end - start


if __name__ == "__main__":
    main()
