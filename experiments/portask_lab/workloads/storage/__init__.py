"""Storage: how fast batches are stored, acknowledged, read and found again, and the memory that queued messages take.

Every case names its durability, and only storages that promise just that are measured in it: a variant that has modes
is made in the mode of that name (``segment-log`` in all of them), any other takes part where its promise is the same.
So ``os`` is never laid beside ``memory`` as if both had done the same work. Storages on a server have cases of their
own (`remote`), beside what redis-py does by itself.

`storage.published` goes through a whole broker and Python clients; there other products stand beside it, each in a mode
that its name states and that comes nearest to the case's. `storage.served` and `storage.backlog` go on to a consumer.

This module only declares; `driving` says how a storage is driven, the work is in the other modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portask.registry import Entry
from portask_lab.peers import STORES
from portask_lab.workloads import Metric, Params, Plan, Workload, Yardstick
from portask_lab.workloads.storage.remote import CLUSTER, SERVER

PAYLOAD = 64

_RATE = Metric("rate", "msg/s", "higher")
_WAITED = (Metric("p50", "µs", "lower", 1), Metric("p99", "µs", "lower", 1))
_ACKED = (_RATE, *_WAITED, Metric("grouped", "appends/sync", "none", 1))
_DIRECT = Yardstick(
    "ceiling",
    Entry(
        "storage",
        "redis-py",
        "portask_lab.workloads.storage.direct:Direct",
        "redis-py by itself, the same batches in the same pipelines",
        ("redis=portask[redis]", "hiredis=portask[redis]"),
        requires="portask_lab.sandboxes:why_not",
        capabilities=frozenset({"server"}),
        sandbox="portask_lab.sandboxes:server",
    ),
)
WORKLOADS: tuple[Workload, ...] = (
    Workload("storage.append", "storage", "Append", "append", (_RATE,), (_DIRECT,)),
    Workload("storage.read", "storage", "Read", "read on", (_RATE,), (_DIRECT,)),
    Workload("storage.acks", "storage", "Acks", "producers that wait for their ack", _ACKED),
    Workload(
        "storage.recovery",
        "storage",
        "Recovery",
        "opening what a killed process left",
        (Metric("time", "ms", "lower", 1), Metric("speed", "MB/s", "none")),
    ),
    Workload(
        "storage.published",
        "storage",
        "Published",
        "publishing until it is acknowledged, Python clients",
        (_RATE, *_WAITED),
        STORES,
    ),
    Workload(
        "storage.served", "storage", "Served", "through a broker to a consumer, lean generator", (_RATE,)
    ),
    Workload(
        "storage.backlog",
        "storage",
        "Backlog",
        "a consumer that is far behind, Python client",
        (_RATE, Metric("memory", "MB", "lower", 1)),
    ),
    Workload(
        "storage.queued",
        "storage",
        "Queued",
        "messages published one at a time and kept",
        (
            Metric("growth", "MB", "lower", 2, words="growth of private memory"),
            Metric("private", "MB", "none", 2, words="private memory"),
            Metric("peak", "MB", "none", 2, words="peak resident set"),
            Metric("slope", "B/msg", "lower", 1),
            Metric("queue", "MB", "lower", 2, words="100,000 × slope"),
        ),
    ),
)


_SIZE = 100
"""Bytes a payload that goes through a broker."""


def _each(modes: tuple[str, ...], *cases: Params) -> tuple[Params, ...]:
    """Every case in each of the modes."""
    return tuple({**case, "durability": mode} for case in cases for mode in modes)


def _published(*shapes: tuple[int, int]) -> tuple[Params, ...]:
    return tuple({"producers": producers, "at_once": at_once, "size": _SIZE} for producers, at_once in shapes)


_SERVED: tuple[Params, ...] = tuple({"batch": batch, "size": _SIZE} for batch in (1, 10, 100))


def _recoveries(*sizes: int, batch: int = 64, index: str = "kept") -> tuple[Params, ...]:
    cases: list[Params] = [{"megabytes": size, "batch": batch, "index": index} for size in sizes]
    return _each(("os",), *cases)


_APPENDS: tuple[Params, ...] = ({"batch": 1, "turn": 1}, {"batch": 1, "turn": 16}, {"batch": 100, "turn": 16})
_MORE_APPENDS: tuple[Params, ...] = (*_APPENDS, {"batch": 100, "turn": 1})
_READS: tuple[Params, ...] = ({"batch": 1}, {"batch": 100})
_ACKS: tuple[Params, ...] = ({"producers": 1, "batch": 1}, {"producers": 100, "batch": 1})
_PIPELINED: Params = {"producers": 100, "batch": 100}
_MORE_ACKS: tuple[Params, ...] = (*_ACKS, _PIPELINED, {"producers": 1000, "batch": 1})


def _queues(*counts: int) -> tuple[Params, ...]:
    return tuple({"messages": count, "payload": PAYLOAD} for count in counts)


_QUEUES = _queues(25_000, 100_000)
_MORE_QUEUES = _queues(25_000, 50_000, 100_000, 200_000)


def _flat_out(modes: tuple[str, ...], applies: str) -> tuple[Plan, ...]:
    """Appending and reading where nothing waits for a device: some milliseconds a sample are enough."""
    return (
        Plan(
            "storage",
            "storage.append",
            ("tiny",),
            _each(modes, *_APPENDS),
            _each(modes, *_MORE_APPENDS),
            seconds=(0.05, 0.25),
            full_corpora=("tiny", "real"),
            applies=applies,
        ),
        Plan(
            "storage",
            "storage.read",
            ("tiny",),
            _each(modes, *_READS),
            full_corpora=("tiny", "real"),
            applies=applies,
        ),
    )


def _acks(quick: tuple[Params, ...], full: tuple[Params, ...], applies: str) -> Plan:
    return Plan(
        "storage",
        "storage.acks",
        ("tiny",),
        quick,
        full,
        seconds=(0.12, 1.0),
        controlled=False,
        applies=applies,
    )


def _on_servers(applies: str, modes: tuple[str, ...], quick: tuple[Params, ...]) -> tuple[Plan, ...]:
    """Storages that keep records on a server, in each durability that it may have."""
    common: dict[str, Any] = {"controlled": False, "applies": applies}
    published = _each(modes, *_published((1, 1), (100, 1), (4, 250)))
    return (
        Plan(
            "storage",
            "storage.append",
            ("tiny",),
            quick,
            _each(modes, *_MORE_APPENDS),
            seconds=(0.15, 0.5),
            **common,
        ),
        Plan("storage", "storage.read", ("tiny",), (), _each(modes[:1], *_READS), **common),
        Plan(
            "storage",
            "storage.acks",
            ("tiny",),
            (),
            _each(modes, *_MORE_ACKS),
            seconds=(0.12, 1.0),
            **common,
        ),
        Plan("storage", "storage.published", quick=(), full=published, seconds=(0.35, 1.5), **common),
    )


PLANS: tuple[Plan, ...] = (
    *_flat_out(("memory",), ""),
    *_flat_out(("os",), "durable"),
    Plan(  # quick has the pipelined acks instead: a sample here must last many syncs to be worth anything
        "storage",
        "storage.append",
        ("tiny",),
        (),
        _each(("synced",), *_MORE_APPENDS),
        seconds=(1.0, 2.0),
        applies="durable",
    ),
    _acks(_each(("memory",), *_ACKS), _each(("memory",), *_MORE_ACKS), ""),
    _acks(
        (*_each(("os", "synced"), *_ACKS), *_each(("synced",), _PIPELINED)),
        _each(("os", "synced"), *_MORE_ACKS),
        "durable",
    ),
    Plan(
        "storage",
        "storage.recovery",
        quick=_recoveries(16),
        full=(
            *_recoveries(16, 64, 256, 1024),
            *_recoveries(64, 1024, index="missing"),
            *_recoveries(64, batch=1),
        ),
        controlled=False,
        applies="durable",
    ),
    Plan(
        "storage",
        "storage.published",
        quick=_each(("os",), *_published((100, 1))),
        full=_each(("os", "synced"), *_published((1, 1), (100, 1), (4, 250))),
        seconds=(0.35, 1.5),
        controlled=False,
        applies="durable",
    ),
    Plan(
        "storage",
        "storage.published",
        quick=(),
        full=_each(("memory",), *_published((1, 1), (100, 1), (4, 250))),
        seconds=(0.35, 1.5),
        controlled=False,
    ),
    *(
        Plan(
            "storage",
            "storage.served",
            quick=(),
            full=_each((mode,), *_SERVED),
            seconds=(1.0, 2.0),
            controlled=False,
            applies="" if mode == "memory" else "durable",
        )
        for mode in ("memory", "os", "synced")
    ),
    *(
        Plan(
            "storage",
            "storage.backlog",
            quick=(),
            full=_each((mode,), {"messages": count, "size": PAYLOAD}),
            controlled=False,
            applies="" if mode == "memory" else "durable",
        )
        for mode, count in (("memory", 1_000_000), ("os", 1_000_000), ("os", 10_000_000))
    ),
    Plan(
        "memory",
        "storage.queued",
        quick=_each(("memory",), *_QUEUES),
        full=_each(("memory",), *_MORE_QUEUES),
        alone=True,
        controlled=False,
    ),
    Plan(
        "memory",
        "storage.queued",
        quick=(),
        full=_each(("os",), *_MORE_QUEUES),
        alone=True,
        controlled=False,
        applies="durable",
    ),
    *_on_servers("server", SERVER, _each(SERVER[:1], _APPENDS[2])),
    *_on_servers("cluster", CLUSTER, ()),
)

_MODULES = {
    "Append": "throughput",
    "Read": "throughput",
    "Acks": "acks",
    "Recovery": "recovery",
    "Published": "published",
    "Queued": "queued",
    "Served": "served",
    "Backlog": "served",
}


def __getattr__(name: str) -> Any:
    """The workloads' classes, imported when they are first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
