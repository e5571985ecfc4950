"""Rings: records through one thread, between two threads, between two processes.

* ``ring.single`` and ``ring.batched``: one thread, what a call costs.
* ``ring.handoff…``: a producer and a consumer at full speed. This is the rate of a busy ring.
* ``ring.hop``: a record now and then, to a consumer that waits for it. This is the delay of an idle ring, and
  ``waits`` says how: ``spinning`` burns one core, ``sleeping`` none.

Work is records taken out, and what comes out is compared with what went in: number, order and bytes.

This module only declares; the work is in `one_thread`, `handoff` and `hop`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portask.registry import Entry
from portask_lab.workloads import Metric, Params, Plan, Workload, Yardstick
from portask_lab.workloads.ring.one_thread import BATCH

_FLOOR = Yardstick(
    "floor",
    Entry("ring", "bare-list", "portask_lab.workloads.ring.one_thread:ListRing", "a list and two counters"),
)
_COST = Metric("cost", "ns/record", "lower", 0, scale=1e9, inverse=True)
_RATE = Metric("rate", "records/s", "higher")
_DELAY = (Metric("p50", "µs", "lower", 1), Metric("p99", "µs", "lower", 1))

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
    Workload("ring.hop", "ring", "Hop", "one record to a consumer that waits for it", _DELAY),
)


def _between(where: str, **more: str | int) -> Params:
    return {"between": where, **more}


_HOPS = tuple(_between("processes", waits=waits) for waits in ("spinning", "sleeping"))
PLANS: tuple[Plan, ...] = (
    Plan("rings", "ring.single", ("tiny",), full_corpora=("tiny", "real")),
    Plan("rings", "ring.batched", ("tiny",), full_corpora=("tiny", "real")),
    *(
        Plan(
            "rings",
            workload,
            ("tiny",),
            tuple(_between(where, batch=batch) for batch in (1, BATCH)),
            seconds=(0.1, 1.0),
        )
        for workload, where in (("ring.handoff", "threads"), ("ring.handoff_processes", "processes"))
    ),
    Plan("rings", "ring.hop", quick=_HOPS, seconds=(0.1, 1.0), applies="processes"),
    Plan(
        "rings",
        "ring.hop",
        quick=(),
        full=(_between("threads", waits="sleeping"),),
        seconds=(0.1, 1.0),
        applies="threads",
    ),
)

_HOMES = {
    "Single": "one_thread",
    "Batched": "one_thread",
    "Handoff": "handoff",
    "Hop": "hop",
}


def __getattr__(name: str) -> Any:
    # Declarations are read by every process of the lab; what does the work is imported where it is done.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
