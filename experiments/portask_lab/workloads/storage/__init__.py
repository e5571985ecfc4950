"""Storage: how fast batches are stored and read, and the memory that queued messages take.

Every case names its durability, and only storages that promise just that are measured in it: a variant that has modes
is made in the mode of that name (``segment-log`` in all of them), any other takes part where its promise is the same.
So ``os`` is never laid beside ``memory`` as if both had done the same work.

This module only declares; `driving` says how a storage is driven, the work is in the other modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portask_lab.workloads import Metric, Params, Plan, Workload

MODES = ("memory", "os", "synced")
PAYLOAD = 64

_RATE = Metric("rate", "msg/s", "higher")
WORKLOADS: tuple[Workload, ...] = (
    Workload("storage.append", "storage", "Append", "append", (_RATE,)),
    Workload("storage.read", "storage", "Read", "read on", (_RATE,)),
    Workload(
        "storage.queued",
        "storage",
        "Queued",
        "messages published one at a time and kept",
        (
            Metric("growth", "MB", "lower", 2),
            Metric("private", "MB", "none", 2),
            Metric("peak", "MB", "none", 2),
            Metric("slope", "B/msg", "lower", 1),
            Metric("queue", "MB", "lower", 2),
        ),
    ),
)


def _appends(batch: int, turn: int) -> list[Params]:
    return [{"batch": batch, "turn": turn, "durability": mode} for mode in MODES]


def _reads(batch: int) -> list[Params]:
    return [{"batch": batch, "durability": mode} for mode in MODES]


def _queued(count: int) -> list[Params]:
    return [{"messages": count, "payload": PAYLOAD, "durability": mode} for mode in ("memory", "os")]


_COUNTS = (25_000, 50_000, 100_000, 200_000)
PLANS: tuple[Plan, ...] = (
    Plan(
        "storage",
        "storage.append",
        ("tiny",),
        (*_appends(1, 1), *_appends(1, 16), *_appends(100, 16)),
        (*_appends(1, 1), *_appends(1, 16), *_appends(100, 1), *_appends(100, 16)),
        full_corpora=("tiny", "real"),
    ),
    Plan("storage", "storage.read", ("tiny",), (*_reads(1), *_reads(100)), full_corpora=("tiny", "real")),
    Plan(
        "memory",
        "storage.queued",
        quick=tuple(params for count in _COUNTS for params in _queued(count)),
        alone=True,
        controlled=False,
    ),
)

_MODULES = {"Append": "throughput", "Read": "throughput", "Queued": "queued"}


def __getattr__(name: str) -> Any:
    """The workloads' classes, imported when they are first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
