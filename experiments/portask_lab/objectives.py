"""What each family's variants are compared by when a winner is chosen.

One objective a family (the server has two). Geometric means: no corpus outweighs another by its size. Compression is
judged by the time that delivering a raw byte takes: compressing, the link, decompressing, with a link of 1 Gbit/s
(`LINK_NS`). Storages are compared by what survives the broker being killed (durability ``os``): one that forgets would
win every comparison of speed. The server is judged by p99 at 1,000 msg/s, then by its CPU time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from portask_lab.results import Case, Run

LINK_NS = 8.0
"""What a byte costs on the way between machines, ns: 1 Gbit/s."""

Values = dict[str, float]
"""Variant label → value of an objective."""


class Objective(msgspec.Struct, frozen=True):
    """What a family's variants are compared by.

    Attributes:
        words: For people.
        unit: Of the value.
        better: Direction.
        suite: Whose noise floor decides what is equal.
        values: Computes it.
    """

    words: str
    unit: str
    better: Literal["higher", "lower"]
    suite: str
    values: Callable[[Run], Values]


def _cases(run: Run, suite: str, workload: str, metric: str, **where: Any) -> list[Case]:
    return [
        case
        for case in run.cases
        if case.suite == suite
        and case.workload.startswith(workload)
        and case.metric == metric
        and all(case.params.get(name) == value for name, value in where.items())
    ]


def _medians(run: Run, cases: Iterable[Case]) -> dict[str, dict[str, float]]:
    """Variant → case id → median; only variants that were measured in every one of the cases."""
    wanted = {case.id for case in cases}
    found: dict[str, dict[str, float]] = {}
    for summary in run.summaries:
        if summary.case in wanted and summary.role in {"reference", "variant"}:
            found.setdefault(summary.variant, {})[summary.case] = summary.median
    return {label: values for label, values in found.items() if len(values) == len(wanted)}


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive values; 0 when one of them is 0."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values and min(values) > 0 else 0.0


def _mean(suite: str, workload: str, metric: str, **where: Any) -> Callable[[Run], Values]:
    def values(run: Run) -> Values:
        medians = _medians(run, _cases(run, suite, workload, metric, **where))
        return {label: geometric_mean(each.values()) for label, each in medians.items()}

    return values


def delivery(run: Run) -> Values:
    """Ns to deliver a raw byte, geometric mean over the corpora: compress, carry what is left, decompress.

    A variant without a figure for decompressing left its batches alone, which takes no time to undo.
    """
    cases = _cases(run, "compression", "compression.pack", "rate", batch=100)
    medians = {(each.case, each.variant): each.median for each in run.summaries}
    named = {
        (case.workload, str(case.params.get("corpus")), case.params.get("batch"), case.metric): case
        for case in run.cases
    }

    def median(label: str, case: Case | None) -> float | None:
        return medians.get((case.id, label)) if case else None

    made: Values = {}
    for label in _medians(run, cases):
        costs: list[float] = []
        for case in cases:
            corpus, batch = str(case.params.get("corpus")), case.params.get("batch")
            if corpus == "random":  # a control: nobody chooses a strategy for noise
                continue
            rate = median(label, case)
            ratio = median(label, named.get(("compression.pack", corpus, batch, "ratio")))
            back = median(label, named.get(("compression.unpack", corpus, batch, "rate")))
            if not rate or not ratio:
                continue
            costs.append(1e3 / rate + LINK_NS / ratio + (1e3 / back if back else 0.0))
        if costs:
            made[label] = geometric_mean(costs)
    return made


OBJECTIVES: dict[str, tuple[Objective, ...]] = {
    "codec": (
        Objective(
            "round trips in batches of 100, geometric mean over corpora",
            "msg/s",
            "higher",
            "serialization",
            _mean("serialization", "codec.roundtrip", "rate", batch=100),
        ),
    ),
    "ring": (
        Objective(
            "batched hand-off between two threads",
            "records/s",
            "higher",
            "rings",
            _mean("rings", "ring.handoff", "rate", between="threads", batch=64),
        ),
    ),
    "pool": (
        Objective("take, touch, give back", "ns/buffer", "lower", "pools", _mean("pools", "pool.", "cost")),
    ),
    "compression": (
        Objective(
            f"time to deliver a raw byte over {LINK_NS:g} ns/B", "ns/B", "lower", "compression", delivery
        ),
    ),
    "workers": (
        Objective(
            "steps to the end", "steps/s", "higher", "workers", _mean("workers", "workers.steps", "rate")
        ),
    ),
    "storage": (
        Objective(
            "appends with durability os, one at a time and in batches",
            "msg/s",
            "higher",
            "storage",
            _mean("storage", "storage.append", "rate", durability="os"),
        ),
    ),
    "server": (
        Objective(
            "p99 at 1,000 msg/s",
            "µs",
            "lower",
            "latency",
            _mean("latency", "network.latency", "p99", rate=1_000),
        ),
        Objective(
            "CPU at 50,000 msg/s",
            "%",
            "lower",
            "cpu",
            _mean("cpu", "network.cpu", "cpu", rate=50_000, batch=50),
        ),
    ),
}
