"""Over sockets: throughput, latency, CPU and connections of whole brokers, each a process of its own.

The variants are servers; everything else of the broker is the reference, so messages are kept in RAM (storage memory),
which is not what `portask serve` does unless told so. Two ways of driving them:

* ``network.…``: the lab's lean load generator (`portask_lab.loadgen`). This is the broker's figure.
* ``network.client_…``: the asyncio client, publisher and subscriber in one process. This is what a Python user
  gets, and the rows ``peer/…`` are other products through their own Python clients.

The rows ``floor/relay`` and ``floor/relay-spin`` are a TCP relay of two hops that does nothing, once asleep
in epoll between messages as the brokers are, once spinning (which has no CPU worth measuring).

This module only declares; the work is in `latency`, `throughput`, `cpu` and `connections`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from portask.registry import Entry
from portask_lab.peers import PEERS
from portask_lab.workloads import Metric, Params, Plan, Workload, Yardstick


def _relay(name: str, target: str, summary: str) -> Yardstick:
    return Yardstick("floor", Entry("server", name, f"portask_lab.loadgen.relay:{target}", summary))


RELAYS = (
    _relay("relay", "Sleeping", "a TCP relay in Python that sleeps in epoll"),
    _relay("relay-spin", "Spinning", "a TCP relay in Python that never sleeps"),
)

_RATE = Metric("rate", "msg/s", "higher")
_LATENCY = (
    Metric("p50", "µs", "lower", 1),
    Metric("p99", "µs", "lower", 1),
    Metric("p999", "µs", "lower", 1, words="p99.9"),
    Metric("achieved", "msg/s", "none"),
    Metric("late", "µs", "none", 1, words="p99 of lateness"),
)
_CPU = (
    Metric("cpu", "%", "lower", 2, words="share of a core"),
    Metric("idle", "%", "lower", 3, words="when idle"),
    Metric("machine", "%", "none", 1, words="whole machine"),
    Metric("p50", "µs", "none", words="p50 latency"),
    Metric("backlog", "messages", "none"),
)
_THROUGHPUT = (
    _RATE,
    Metric("bytes", "MB/s", "none", 1),
    Metric("broker", "% of a core", "none", 1, words="broker's CPU"),
)
_CONNECTIONS = (
    Metric("alive", "connections", "none"),
    Metric("failed", "connections", "lower"),
    Metric("connect", "conn/s", "higher", words="connect rate"),
    Metric("memory", "B/conn", "lower", words="user-space memory"),
    Metric("kernel", "B/conn", "none", words="kernel memory"),
    Metric("trip", "µs", "none", words="p99 round trip"),
    Metric("storm", "conn/s", "higher", words="reconnect rate"),
)
_SCALING_LATENCY = (Metric("p50", "µs", "lower", 1), Metric("p99", "µs", "lower", 1))
_SCALING_RATE = (
    _RATE,
    Metric("bytes", "MB/s", "none", 1),
    Metric("broker", "%", "none", words="busiest broker process"),
    Metric("generator", "%", "none", words="least busy generator"),
)
_FAIRNESS = (
    Metric("ratio", "x", "lower", 1, words="p99 beside it ÷ alone"),
    Metric("p99", "µs", "lower", words="p99 beside it"),
    Metric("alone", "µs", "none", words="p99 alone"),
    Metric("load", "1/s", "none", words="load beside"),
)

WORKLOADS: tuple[Workload, ...] = (
    Workload("network.latency", "server", "Latency", "end-to-end latency, lean generator", _LATENCY, RELAYS),
    Workload(
        "network.client_latency",
        "server",
        "ClientLatency",
        "end-to-end latency, Python clients",
        _LATENCY,
        PEERS,
    ),
    Workload("network.throughput", "server", "Saturated", "throughput, lean generator", _THROUGHPUT),
    Workload(
        "network.client_throughput",
        "server",
        "ClientSaturated",
        "throughput, Python clients",
        _THROUGHPUT,
        PEERS,
    ),
    Workload("network.cpu", "server", "Cpu", "CPU of the broker, lean generator", _CPU, RELAYS[:1]),
    Workload("network.client_cpu", "server", "ClientCpu", "CPU of the broker, Python clients", _CPU, PEERS),
    Workload("network.connections", "server", "Connections", "connections held, all alive", _CONNECTIONS),
    Workload("network.scaling", "server", "ScalingRate", "throughput while one thing grows", _SCALING_RATE),
    Workload(
        "network.scaling_latency",
        "server",
        "ScalingLatency",
        "latency at 1,000 msg/s while one thing grows",
        _SCALING_LATENCY,
    ),
    Workload("network.fairness", "server", "Fairness", "quiet producers beside a disturbance", _FAIRNESS),
)


def _latency(rate: float, schedule: str = "constant") -> Params:
    return {"rate": rate, "size": 64, "schedule": schedule}


def _load(size: int, batch: int, publishers: int = 1, subscribers: int = 1) -> Params:
    return {"size": size, "batch": batch, "publishers": publishers, "subscribers": subscribers}


def _fifty(batch: int, producers: int = 1) -> Params:
    found = {"rate": 50_000, "size": 100, "batch": batch}
    return found if producers == 1 else {**found, "producers": producers}


_FIFTY = _fifty(50)
_LINGERS = (_fifty(10), _fifty(5, 10))
"""A message lingers for 0.2 ms at most; from ten producers, for 1 ms."""
_GROWING = (
    *({"connections": count} for count in (100, 1_000, 10_000)),
    *({"topics": count} for count in (1, 10, 100, 1_000)),
    *({"subscribers": count} for count in (1, 4, 16, 64)),
    *({"size": count} for count in (16, 100, 1_024, 16_384, 65_536)),
)
_WORKERS: tuple[Params, ...] = tuple({"workers": count} for count in (1, 2, 4, 6))
_SHAPES = ((1, 4), (4, 1), (4, 4))

PLANS: tuple[Plan, ...] = (
    Plan(
        "latency",
        "network.latency",
        quick=(_latency(1_000),),
        full=(_latency(1_000), _latency(1_000, "poisson")),
        seconds=(0.45, 6.0),
    ),
    Plan(
        "latency",
        "network.latency",
        quick=(),  # four minutes are short: one rate must do
        full=(
            *(_latency(rate) for rate in (10_000, 50_000)),
            {"rate": "80% of the most", "size": 64, "schedule": "constant"},
        ),
        seconds=(0.4, 3.0),
        controlled=False,
    ),
    Plan(
        "latency",
        "network.client_latency",
        quick=(_latency(1_000),),
        full=(_latency(1_000), _latency(10_000)),
        seconds=(0.3, 5.0),
        controlled=False,
    ),
    Plan(
        "throughput",
        "network.throughput",
        quick=(_load(100, 100),),
        full=(
            *(
                _load(size, batch)
                for size, batch in ((16, 1000), (100, 100), (1024, 64), (16_384, 8), (65_536, 4))
            ),
            *(_load(100, 100, publishers, subscribers) for publishers, subscribers in _SHAPES),
        ),
        seconds=(0.35, 3.0),
    ),
    Plan(
        "throughput",
        "network.throughput",
        quick=(),  # a broker more for every server: full has it
        full=tuple(_load(size, 1) for size in (16, 100, 1024, 16_384, 65_536)),
        seconds=(0.3, 3.0),
        controlled=False,
    ),
    Plan(
        "throughput",
        "network.client_throughput",
        quick=({"size": 100},),
        full=({"size": 16}, {"size": 100}, {"size": 1024}),
        seconds=(0.35, 3.0),
        controlled=False,
    ),
    Plan("cpu", "network.cpu", quick=(_FIFTY,), seconds=(1.0, 30.0)),
    Plan("cpu", "network.cpu", quick=(), full=_LINGERS, seconds=(1.5, 30.0), controlled=False),
    Plan("cpu", "network.client_cpu", quick=(), full=(_FIFTY,), seconds=(1.0, 30.0), controlled=False),
    Plan(
        "connections",
        "network.connections",
        quick=({"connections": 1_000, "hold": 1, "processes": 1},),
        full=({"connections": 0, "hold": 10, "processes": 3},),
        seconds=(3.0, 45.0),
        controlled=False,
    ),
    Plan(
        "connections",
        "network.connections",
        quick=(),
        full=({"connections": 105_000, "hold": 60, "processes": 6, "workers": 6},),
        seconds=(3.0, 140.0),
        controlled=False,
        applies="multicore",
    ),
    Plan(
        "scaling",
        "network.scaling",
        quick=({"subscribers": 4},),
        full=_GROWING,
        seconds=(0.4, 3.0),
        controlled=False,
    ),
    Plan("scaling", "network.scaling_latency", quick=(), full=_GROWING, seconds=(0.4, 3.0), controlled=False),
    Plan(
        "scaling",
        "network.scaling",
        quick=(),
        full=_WORKERS,
        seconds=(0.4, 3.0),
        controlled=False,
        applies="multicore",
    ),
    Plan(
        "scaling",
        "network.scaling_latency",
        quick=(),
        full=_WORKERS,
        seconds=(0.4, 3.0),
        controlled=False,
        applies="multicore",
    ),
    Plan(
        "scaling",
        "network.fairness",
        quick=(),  # a p99 takes more messages than these have time for
        full=(
            {"beside": "a loud producer", "batch": 1, "quiet": 1_000},
            {"beside": "a loud producer", "batch": 100, "quiet": 1_000},
            {"beside": "reconnects", "quiet": 1_000},
        ),
        seconds=(1.0, 20.0),
        controlled=False,
    ),
)


_MODULES = {
    "Latency": "latency",
    "ClientLatency": "latency",
    "Saturated": "throughput",
    "ClientSaturated": "throughput",
    "Cpu": "cpu",
    "ClientCpu": "cpu",
    "Connections": "connections",
    "Fairness": "fairness",
    "ScalingLatency": "scaling",
    "ScalingRate": "scaling",
}


def __getattr__(name: str) -> Any:
    """The workloads' classes, imported when they are first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
