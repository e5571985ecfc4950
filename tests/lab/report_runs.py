"""A run as the lab leaves it, made up but complete: every part of the schema, every verdict, every role."""

from __future__ import annotations

import math
import random

from portask_lab import results
from portask_lab.results import Better, Role, Verdict

CODECS = {"codec/struct": 1.35, "codec/msgspec-msgpack": 2.9}
STRATEGIES = {
    "compression/always": 0.9,
    "compression/threshold": 1.0,
    "compression/adaptive": 1.6,
    "compression/batch": 0.8,
    "compression/dictionary": 0.7,
    "compression/lz4": 3.0,
}
SERVERS = {"server/asyncio-protocol": 1.5, "server/uvloop": 1.9, "server/epoll": 2.2}
PEERS = {"peer/nats": 1.2, "peer/valkey": 0.4, "peer/zeromq": 1.7}
CORPORA = ("flights", "weather", "webhooks", "tiny", "random")


def machine() -> results.Machine:
    return results.Machine(
        id="3f9c2a71be04",
        commit="4f2a90c+dirty",
        python="CPython 3.11.2 (GCC 12.2.0)",
        libraries={"cbor2": "6.3.0", "msgspec": "0.22.0", "uvloop": "0.23.0", "zstandard": "0.25.0"},
        kernel="Linux 6.1.0-18-amd64",
        cpu="Example CPU @ 2.40GHz",
        cores=2,
        memory=24 << 30,
        gc="collected before each sample, frozen during it",
        limits={"RLIMIT_NOFILE": "20000/20000"},
        clock="tsc, 1 ns",
        virtual="kvm",
    )


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cases: list[results.Case] = []
        self.summaries: list[results.Summary] = []
        self.floors: list[results.NoiseFloor] = []

    def case(  # noqa: PLR0917 - the schema's fields in its order
        self,
        suite: str,
        family: str,
        workload: str,
        params: dict[str, results.Scalar],
        metric: str,
        unit: str,
        better: Better,
        reference: str,
        base: float,
        factors: dict[str, float],
        *,
        title: str = "",
        extra: dict[str, tuple[Role, float]] | None = None,
    ) -> results.Case:
        case = results.Case(
            id=results.case_id(suite, workload, params, metric),
            suite=suite,
            family=family,
            workload=workload,
            params=params,
            metric=metric,
            unit=unit,
            better=better,
            title=title or workload,
        )
        self.cases.append(case)
        floor = self.random.uniform(0.01, 0.05)
        self.floors.append(
            results.NoiseFloor(
                suite=suite, metric=metric, case=case.id, floor=floor, ratio=1.004, low=0.99, high=1.02
            )
        )
        self._summary(case, reference, "reference", base, None, floor)
        self._summary(case, reference + results.CONTROL_SUFFIX, "control", base, 1.004, floor)
        for label, factor in factors.items():
            turned = 1 / factor if better == "lower" else factor
            factor = turned * math.exp(self.random.gauss(0, 0.05))
            role: Role = "peer" if label.startswith("peer/") else "variant"
            self._summary(case, label, role, base * factor, factor, floor)
        for label, (kind, value) in (extra or {}).items():
            self._summary(case, label, kind, value, None, floor)
        return case

    def _summary(  # noqa: PLR0917 - ditto
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
                notes=["1 of 6 processes crashed"] if self.random.random() > 0.97 else [],
            )
        )


def _curve(
    label: str, role: Role, rate: float, p50: float, case: str, *, valid: bool = True
) -> results.Curve:
    at = [0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100]
    values = [p50 * math.exp(0.55 * (-math.log10(max(1 - p / 100, 1e-5))) ** 1.15 - 0.25) for p in at]
    return results.Curve(
        case=case,
        variant=label,
        role=role,
        rate=rate,
        schedule="poisson",
        percentiles=[float(p) for p in at],
        values=values,
        count=int(rate * 20),
        valid=valid,
        reason="" if valid else "the generator sent 4.2% of its messages more than 1 ms late",
    )


def full_run(seed: int = 1) -> results.Run:
    """Everything filled in; the same for the same seed."""
    build = _Builder(seed)
    for work, base in (("encode", 1.45e6), ("decode", 0.93e6), ("roundtrip", 0.55e6)):
        for corpus in CORPORA:
            for batch in (1, 100) if corpus == "tiny" else (100,):
                params: dict[str, results.Scalar] = {"corpus": corpus, "batch": batch}
                build.case(
                    "serialization",
                    "codec",
                    f"codec.{work}",
                    params,
                    "rate",
                    "msg/s",
                    "higher",
                    "codec/cbor2",
                    base * (0.5 if batch == 1 else 1),
                    CODECS,
                    title=work,
                    extra={"floor/empty-loop": ("floor", 2.1e8)},
                )
    build.case(
        "serialization",
        "codec",
        "codec.encode",
        {"corpus": "flights", "batch": 100},
        "size",
        "B/msg",
        "lower",
        "codec/cbor2",
        306.2,
        {"codec/struct": 1.0, "codec/msgspec-msgpack": 1.01},
        title="encode",
    )
    points = []
    for corpus in CORPORA:
        for place, batch in enumerate((4096, 65536)):
            gain = {"random": 1.0, "tiny": 1.15}.get(corpus, 3.5 + 2 * place)
            found = []
            for label, speed in STRATEGIES.items():
                x = 180 * speed * build.random.uniform(0.8, 1.2) * (1 + place * 0.4)
                y = 1 + (gain - 1) * (1.15 - 0.2 * speed) * build.random.uniform(0.9, 1.1)
                found.append((label, x, max(y, 1.0)))
            for label, x, y in found:
                points.append(
                    results.Point(
                        plot="compression",
                        variant=label,
                        role="variant",
                        params={"corpus": corpus, "batch_bytes": batch},
                        x=x,
                        y=y,
                        x_low=x * 0.96,
                        x_high=x * 1.04,
                        z=x * 3.1,
                        front=not any(a > x and b > y for _, a, b in found),
                    )
                )
            points.append(
                results.Point(
                    plot="compression",
                    variant="ceiling/copy",
                    role="ceiling",
                    params={"corpus": corpus, "batch_bytes": batch},
                    x=9000,
                    y=1,
                    x_low=8800,
                    x_high=9200,
                )
            )
        build.case(
            "compression",
            "compression",
            "compression.pack",
            {"corpus": corpus, "batch_bytes": 65536},
            "speed",
            "MB/s",
            "higher",
            "compression/never",
            5200,
            {k: v / 20 for k, v in STRATEGIES.items()},
            title="compress",
        )
    for size in (16, 1024, 65536):
        for pattern in ("1→1", "1→N"):
            build.case(
                "throughput",
                "server",
                "network.throughput",
                {"bytes": size, "pattern": pattern, "durability": "memory"},
                "rate",
                "msg/s",
                "higher",
                "server/asyncio-streams",
                310_000 / (1 + size / 9000),
                SERVERS | PEERS,
                title="client to client",
            )
    curves = []
    for rate in (1000.0, 10_000.0, 50_000.0):
        case = build.case(
            "latency",
            "server",
            "network.latency",
            {"rate": int(rate), "schedule": "poisson"},
            "p99",
            "µs",
            "lower",
            "server/asyncio-streams",
            240 * (1 + rate / 20000),
            SERVERS | PEERS,
            title="end to end",
            extra={"floor/raw-relay": ("floor", 61.0)},
        )
        for label, p50 in {
            "server/asyncio-streams": 118,
            "server/uvloop": 84,
            "server/epoll": 71,
            "server/asyncio-protocol": 99,
        }.items():
            role: Role = "reference" if label.endswith("streams") else "variant"
            curves.append(
                _curve(
                    label,
                    role,
                    rate,
                    p50 * (1 + rate / 60000),
                    case.id,
                    valid=not (rate > 40_000 and role == "reference"),
                )
            )
        for label, p50 in {"peer/nats": 130, "peer/valkey": 310, "peer/zeromq": 65}.items():
            curves.append(_curve(label, "peer", rate, p50 * (1 + rate / 60000), case.id))
        curves.append(_curve("floor/raw-relay", "floor", rate, 31, case.id))
    memory_case = build.case(
        "memory",
        "storage",
        "memory.queued",
        {"bytes": 64},
        "slope",
        "B/msg",
        "lower",
        "storage/memory",
        74.1,
        {"storage/per-message": 0.3},
        title="queued messages",
    )
    counts = [25_000, 50_000, 100_000, 200_000]
    lines = [
        results.MemoryLine(
            case=memory_case.id,
            variant=label,
            messages=counts,
            growth=[n * slope + 90_000 for n in counts],
            private=[n * slope + 14.2e6 for n in counts],
            peak=[n * slope + 31e6 for n in counts],
            slope=slope,
            payload=64,
        )
        for label, slope in (("storage/memory", 74.1), ("storage/per-message", 243.7))
    ]
    build.case(
        "connections",
        "server",
        "network.connections",
        {"workers": 1},
        "alive",
        "connections",
        "higher",
        "server/asyncio-streams",
        16_000,
        SERVERS,
        title="connections held",
    )
    build.case(
        "cpu",
        "server",
        "network.cpu",
        {"rate": 50_000, "linger_ms": 1},
        "cpu",
        "%",
        "lower",
        "server/asyncio-streams",
        13.2,
        SERVERS,
        title="broker's own CPU",
    )
    steps = 80
    load = [0.05] * 15 + [0.05 + 0.9 * n / 25 for n in range(25)] + [0.97] * 25 + [0.04] * 15
    level = [9.0 - round(8 * x) if x < 0.95 else 0.0 for x in load]
    trace = results.Trace(
        case=build.cases[-1].id,
        variant="compression/adaptive",
        phase=["idle"] * 15 + ["ramp"] * 25 + ["saturated"] * 25 + ["idle again"] * 15,
        time=[n * 0.1 for n in range(steps)],
        load=load,
        level=level,
        raw=[65536] * steps,
        packed=[int(65536 / (1 + 0.5 * at)) for at in level],
    )
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
        corpora=_corpora(),
        cases=build.cases,
        summaries=build.summaries,
        noise_floors=[
            *build.floors,
            results.NoiseFloor(
                suite="serialization", metric="rate", case="", floor=0.021, ratio=None, low=None, high=None
            ),
            results.NoiseFloor(
                suite="latency", metric="p99", case="", floor=0.064, ratio=None, low=None, high=None
            ),
        ],
        criteria=_criteria(),
        winners=_winners(),
        conformance=_conformance(),
        unavailable=[
            results.Unavailable(
                variant="peer/rabbitmq", reason="needs rabbitmq-server: apt install rabbitmq-server"
            ),
            results.Unavailable(
                variant="ring/native-spsc", reason="needs portask-native: pip install portask-native"
            ),
        ],
        failures=[
            results.Failure(
                variant="ring/broken",
                suite="rings",
                workload="ring.threads",
                params={"bytes": 64},
                block=3,
                detail="record 5 of 10 came twice <b>|`x`",
            )
        ],
        blocks=[
            results.Block(
                suite=suite,
                index=n,
                order=["codec/struct", "codec/cbor2", "codec/cbor2#again", "codec/msgspec-msgpack"],
                started=n * 9.0,
                seconds=8.7,
                voided=n == 2 and suite == "latency",
                reason="steal 7.1% > 5%" if n == 2 else "",
                noise=results.Noise(
                    steal=0.002 * n, pressure=0.11, involuntary=14.0, load=1.2, foreign=None, speed=1.01
                ),
            )
            for suite in ("serialization", "latency")
            for n in range(6)
        ],
        curves=curves,
        traces=[trace],
        points=points,
        memory=lines,
        notes=[
            "webhooks has 329 distinct messages; under 1,000 they repeat while they are measured, which flatters caches"
        ],
    )


def _corpora() -> list[results.CorpusInfo]:
    return [
        results.CorpusInfo(
            name=name,
            what=f"{name} records",
            sha256="608a735e57a324d3f1032f4f2e5917683c52f52477ab55672c9cc6fbd9e42c72",
            records=2000,
            distinct=2000,
            bytes=598_855,
            median=299.0,
            largest=307,
            source="built in",
        )
        for name in CORPORA
    ]


def _criteria() -> list[results.Criterion]:
    part = results.CriterionPart(
        case=results.case_id("serialization", "codec.encode", {"corpus": "flights", "batch": 100}, "rate"),
        metric="rate",
        value=1.92e6,
        low=1.88e6,
        high=1.95e6,
        verdict="pass",
        title="encode",
    )
    return [
        results.Criterion(
            id="serialization",
            title="Serialize and deserialize",
            mark=1e6,
            unit="msg/s",
            better="higher",
            value=1.24e6,
            low=1.21e6,
            high=1.28e6,
            verdict="pass",
            variant="codec/struct",
            headline=True,
            parts=[part],
            explanation="decode of webhooks is its slowest case",
            measured_on="64-byte payloads and every corpus",
        ),
        results.Criterion(
            id="serialization",
            title="Serialize and deserialize",
            mark=1e6,
            unit="msg/s",
            better="higher",
            value=0.93e6,
            low=0.91e6,
            high=0.95e6,
            verdict="fail",
            variant="codec/cbor2",
            measured_on="64-byte payloads and every corpus",
        ),
        results.Criterion(
            id="memory",
            title="Memory of 100,000 queued messages",
            mark=10e6,
            unit="B",
            better="lower",
            value=7.41e6,
            low=7.38e6,
            high=7.44e6,
            verdict="pass",
            variant="storage/memory",
            headline=True,
            measured_on="slope and total, 64-byte payloads",
        ),
        results.Criterion(
            id="connections",
            title="Connections, every one alive",
            mark=100_000,
            unit="connections",
            better="higher",
            headline=True,
            measured_on="round trip on every connection",
            explanation="profile quick does not hold 100,000 connections",
        ),
        results.Criterion(
            id="latency",
            title="End-to-end latency, small messages",
            mark=100,
            unit="µs",
            better="lower",
            value=98.2,
            low=91.0,
            high=104.4,
            verdict="inconclusive",
            variant="server/epoll",
            headline=True,
            measured_on="p50 and p99 at 1k msg/s",
            explanation="the interval straddles the mark",
        ),
        results.Criterion(
            id="cpu",
            title="CPU at 50,000 msg/s",
            mark=5,
            unit="%",
            better="lower",
            value=6.1,
            low=5.8,
            high=6.4,
            verdict="fail",
            variant="server/uvloop",
            headline=True,
            measured_on="broker's own CPU",
            explanation="missed: linger produced 43 messages a batch",
        ),
    ]


def _winners() -> list[results.Winner]:
    return [
        results.Winner(
            family="codec",
            variant="codec/struct",
            objective="messages round-tripped a second, every corpus",
            value=0.74e6,
            unit="msg/s",
            runner_up="codec/cbor2",
            runner_up_value=0.55e6,
            reason="faster beyond the noise floor",
        ),
        results.Winner(
            family="server",
            variant="server/epoll",
            objective="p99 at 1,000 msg/s",
            value=98.2,
            unit="µs",
            runner_up="server/uvloop",
            runner_up_value=99.0,
            tie=True,
            reason="a tie: standard library before a dependency",
        ),
        results.Winner(
            family="workers", variant="", objective="steps a second", reason="nothing passed conformance"
        ),
    ]


def _conformance() -> list[results.Conformance]:
    labels = ["codec/cbor2", *CODECS, *STRATEGIES, "server/asyncio-streams", *SERVERS]
    good = [results.Conformance(variant=label, passed=14, failed=0, not_applicable=2) for label in labels]
    return [
        *good,
        results.Conformance(
            variant="ring/broken",
            passed=9,
            failed=1,
            not_applicable=0,
            failures=["fifo_order: record 5 of 10 came twice <script>alert(1)</script>"],
        ),
    ]
