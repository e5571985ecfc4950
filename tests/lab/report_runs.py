"""A run as the lab leaves it, made up but complete: every part of the schema, every verdict, every role."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from portask_lab import results
from portask_lab.results import Better, Role, Verdict
from tests.lab import report_parts as parts
from tests.lab.report_parts import CORPORA, machine

__all__ = ["full_run", "machine"]

CODECS = {"codec/struct": 1.35, "codec/msgspec-msgpack": 2.9}
STRATEGIES = {
    "compression/always": 0.9,
    "compression/threshold": 1.0,
    "compression/adaptive": 1.6,
    "compression/batch": 0.8,
    "compression/dictionary": 0.7,
    "compression/lz4": 3.0,
}
STREAMS = "server/asyncio-streams"
SERVERS = {"server/asyncio-protocol": 1.5, "server/uvloop": 1.9, "server/epoll": 2.2}
PEERS = {"peer/nats": 1.2, "peer/valkey": 0.4, "peer/zeromq": 1.7}
MEDIANS = {STREAMS: 118, "server/uvloop": 84, "server/epoll": 71, "server/asyncio-protocol": 99}
MEDIANS |= {"peer/nats": 130, "peer/valkey": 310, "peer/zeromq": 65, "floor/raw-relay": 31}


class Kind(NamedTuple):
    """A metric of a workload, and whose variants are compared in it."""

    suite: str
    workload: str
    metric: str
    unit: str
    better: Better
    reference: str
    title: str


def _codec(work: str, metric: str = "rate", unit: str = "msg/s", better: Better = "higher") -> Kind:
    return Kind("serialization", f"codec.{work}", metric, unit, better, "codec/cbor2", work)


PACK = Kind("compression", "compression.pack", "speed", "MB/s", "higher", "compression/never", "compress")
THROUGHPUT = Kind("throughput", "network.throughput", "rate", "msg/s", "higher", STREAMS, "client to client")
LATENCY = Kind("latency", "network.latency", "p99", "µs", "lower", STREAMS, "end to end")
QUEUED = Kind("memory", "memory.queued", "slope", "B/msg", "lower", "storage/memory", "queued messages")
HELD = Kind(
    "connections", "network.connections", "alive", "connections", "higher", STREAMS, "connections held"
)
CPU = Kind("cpu", "network.cpu", "cpu", "%", "lower", STREAMS, "broker's own CPU")


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cases: list[results.Case] = []
        self.summaries: list[results.Summary] = []
        self.floors: list[results.NoiseFloor] = []

    def case(
        self,
        kind: Kind,
        params: dict[str, results.Scalar],
        base: float,
        factors: dict[str, float],
        extra: dict[str, tuple[Role, float]] | None = None,
    ) -> results.Case:
        case = results.Case(
            id=results.case_id(kind.suite, kind.workload, params, kind.metric),
            suite=kind.suite,
            family=kind.reference.partition("/")[0],
            workload=kind.workload,
            params=params,
            metric=kind.metric,
            unit=kind.unit,
            better=kind.better,
            title=kind.title,
        )
        self.cases.append(case)
        floor = self.random.uniform(0.01, 0.05)
        self.floors.append(_floor(case.suite, case.metric, floor, case.id))
        self._summary(case, kind.reference, "reference", base, None, floor)
        self._summary(case, kind.reference + results.CONTROL_SUFFIX, "control", base, 1.004, floor)
        for label, factor in factors.items():
            turned = 1 / factor if case.better == "lower" else factor
            turned *= math.exp(self.random.gauss(0, 0.05))
            role: Role = "peer" if label.startswith("peer/") else "variant"
            self._summary(case, label, role, base * turned, turned, floor)
        for label, (role, value) in (extra or {}).items():
            self._summary(case, label, role, value, None, floor)
        return case

    def _summary(  # noqa: PLR0917 - a row of a table
        self, case: results.Case, label: str, role: Role, value: float, ratio: float | None, floor: float
    ) -> None:
        width = self.random.uniform(0.005, 0.04)
        verdict: Verdict = {"reference": "reference", "control": "A/A"}.get(role, "not compared")  # type: ignore[assignment]
        if ratio is not None and role in {"variant", "peer"}:
            low, high = ratio * (1 - width), ratio * (1 + width)
            if low <= 1 + floor and high >= 1 / (1 + floor):
                verdict = "indistinguishable"
            else:
                verdict = "faster" if (ratio > 1) == (case.better == "higher") else "slower"
        self.summaries.append(
            results.Summary(
                case=case.id,
                variant=label,
                role=role,
                median=value,
                low=value * (1 - width),
                high=value * (1 + width),
                processes=6,
                samples=30,
                ratio=ratio,
                ratio_low=ratio and ratio * (1 - width),
                ratio_high=ratio and ratio * (1 + width),
                p=0.001 if ratio else None,
                verdict=verdict,
                steady=self.random.random() > 0.05,
                notes=["1 of 6 processes failed; the others are shown"]
                if self.random.random() > 0.97
                else [],
            )
        )

    def points(self, corpus: str) -> list[results.Point]:
        """Strategies in the plane of speed and ratio, for two batch sizes, and the ceiling."""
        made = []
        for place, batch in enumerate((4096, 65536)):
            gain = {"random": 1.0, "tiny": 1.15}.get(corpus, 3.5 + 2 * place)
            found: list[tuple[str, Role, float, float]] = [("ceiling/copy", "ceiling", 9000, 1)]
            for label, speed in STRATEGIES.items():
                x = 180 * speed * self.random.uniform(0.8, 1.2) * (1 + place * 0.4)
                y = 1 + (gain - 1) * (1.15 - 0.2 * speed) * self.random.uniform(0.9, 1.1)
                found.append((label, "variant", x, max(y, 1.0)))
            rivals = [(x, y) for _, role, x, y in found if role == "variant"]
            made += [
                results.Point(
                    plot="compression",
                    variant=label,
                    role=role,
                    params={"corpus": corpus, "batch_bytes": batch},
                    x=x,
                    y=y,
                    x_low=x * 0.96,
                    x_high=x * 1.04,
                    z=x * 3.1 if role == "variant" else None,
                    front=role == "variant" and not any(a > x and b > y for a, b in rivals),
                )
                for label, role, x, y in found
            ]
        return made


def _floor(suite: str, metric: str, floor: float, case: str = "") -> results.NoiseFloor:
    ratio, low, high = (1.004, 0.99, 1.02) if case else (None, None, None)
    return results.NoiseFloor(
        suite=suite, metric=metric, case=case, floor=floor, ratio=ratio, low=low, high=high
    )


def _curves(case: results.Case, rate: float) -> list[results.Curve]:
    at = [0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100]
    tail = [math.exp(0.55 * (-math.log10(max(1 - p / 100, 1e-5))) ** 1.15 - 0.25) for p in at]
    made = []
    for label, median in MEDIANS.items():
        role: Role = "reference" if label == STREAMS else "variant"
        if label.startswith(("peer/", "floor/")):
            role = label.partition("/")[0]  # type: ignore[assignment]
        if role == "reference" and rate > 40_000:
            continue  # void: among the failures
        made.append(
            results.Curve(
                case=case.id,
                variant=label,
                role=role,
                rate=rate,
                schedule="poisson",
                percentiles=[float(p) for p in at],
                values=[median * (1 + rate / 60_000) * factor for factor in tail],
                count=int(rate * 20),
            )
        )
    return made


def _lines(case: results.Case) -> list[results.MemoryLine]:
    counts = [25_000, 50_000, 100_000, 200_000]
    slopes = {
        "storage/memory": (74.1, "in RAM"),
        "storage/per-message": (243.7, "in RAM"),
        "storage/files": (0.1, "in files"),
    }
    return [
        results.MemoryLine(
            case=case.id,
            variant=label,
            messages=counts,
            growth=[n * slope + 90_000 for n in counts],
            private=[n * slope + 14.2e6 for n in counts],
            peak=[n * slope + 31e6 for n in counts],
            slope=slope,
            payload=64,
            durability="memory",
            held=held,
        )
        for label, (slope, held) in slopes.items()
    ]


def _trace(case: str) -> results.Trace:
    phases = {"idle": 15, "ramp": 25, "saturated": 25, "idle again": 15}
    load = [0.05] * 15 + [0.05 + 0.9 * n / 25 for n in range(25)] + [0.97] * 25 + [0.04] * 15
    level = [9.0 - round(8 * x) if x < 0.95 else 0.0 for x in load]
    return results.Trace(
        case=case,
        variant="compression/adaptive",
        phase=[name for name, steps in phases.items() for _ in range(steps)],
        time=[n * 0.1 for n in range(len(load))],
        load=load,
        level=level,
        raw=[65536] * len(load),
        packed=[int(65536 / (1 + 0.5 * at)) for at in level],
    )


def full_run(seed: int = 1) -> results.Run:
    """Everything filled in; the same for the same seed."""
    build = _Builder(seed)
    for work, base in (("encode", 1.45e6), ("decode", 0.93e6), ("roundtrip", 0.55e6)):
        for corpus in CORPORA:
            for batch in (1, 100) if corpus == "tiny" else (100,):
                params: dict[str, results.Scalar] = {"corpus": corpus, "batch": batch}
                loop: tuple[Role, float] = ("floor", 2.1e8)
                base_here = base * (0.5 if batch == 1 else 1)
                build.case(_codec(work), params, base_here, CODECS, {"floor/empty-loop": loop})
    sizes = {"codec/struct": 1.0, "codec/msgspec-msgpack": 1.01}
    build.case(_codec("encode", "size", "B/msg", "lower"), {"corpus": "flights", "batch": 100}, 306.2, sizes)
    points: list[results.Point] = []
    for corpus in CORPORA:
        points += build.points(corpus)
        slower = {label: speed / 20 for label, speed in STRATEGIES.items()}
        build.case(PACK, {"corpus": corpus, "batch_bytes": 65536}, 5200, slower)
    for size in (16, 1024, 65536):
        for pattern in ("1→1", "1→N"):
            shape: dict[str, results.Scalar] = {"bytes": size, "pattern": pattern, "durability": "memory"}
            build.case(THROUGHPUT, shape, 310_000 / (1 + size / 9000), SERVERS | PEERS)
    curves: list[results.Curve] = []
    for rate in (1_000, 10_000, 50_000):
        relay: tuple[Role, float] = ("floor", 61.0)
        load: dict[str, results.Scalar] = {"rate": rate, "schedule": "poisson"}
        base_here = 240 * (1 + rate / 20_000)
        case = build.case(LATENCY, load, base_here, SERVERS | PEERS, {"floor/raw-relay": relay})
        curves += _curves(case, rate)
    queued = build.case(QUEUED, {"bytes": 64}, 74.1, {"storage/per-message": 0.3, "storage/files": 700})
    build.case(HELD, {"workers": 1}, 16_000, SERVERS)
    cpu = build.case(CPU, {"rate": 50_000, "size": 100, "batch": 50}, 13.2, SERVERS)
    late = "the generator was late: 4.2% of its sends began over 1 ms after their time"
    return results.Run(
        id="20260501-142233-full",
        started="2026-05-01T14:22:33Z",
        seconds=1834.2,
        profile="full",
        seed=seed,
        command="portask lab run --profile full",
        suites=["serialization", "compression", "throughput", "latency", "memory"],
        complete=True,
        machine=machine(),
        corpora=parts.corpora(),
        cases=build.cases,
        summaries=build.summaries,
        noise_floors=[*build.floors, _floor("serialization", "rate", 0.021), _floor("latency", "p99", 0.064)],
        criteria=parts.criteria(),
        winners=parts.winners(),
        conformance=parts.conformance(["codec/cbor2", *CODECS, *STRATEGIES, STREAMS, *SERVERS]),
        unavailable=parts.unavailable(),
        failures=[
            parts.failure("ring/broken", "wrong", "record 5 of 10 came twice <b>|`x`", bytes=64),
            parts.failure(STREAMS, "void", late, rate=50_000, schedule="poisson"),
        ],
        blocks=parts.blocks(),
        curves=curves,
        traces=[_trace(cpu.id)],
        points=points,
        memory=_lines(queued),
        notes=[
            "webhooks has 329 distinct messages; under 1,000 they repeat while they are measured, which flatters caches"
        ],
    )
