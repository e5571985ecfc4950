"""The parts of a made-up run that are not figures: machine, verdicts, winners, entry tickets, failures, ledger."""

from __future__ import annotations

from typing import Any

from portask_lab import results
from portask_lab.results import FailureKind, Judgement

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


def corpora() -> list[results.CorpusInfo]:
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


def _criterion(
    title: str,
    mark: tuple[results.Better, float, str],
    found: tuple[float, float, float] | None,
    verdict: Judgement,
    variant: str = "",
    **others: Any,
) -> results.Criterion:
    value, low, high = found or (None, None, None)
    return results.Criterion(
        id=title.partition(" ")[0].lower(),
        title=title,
        better=mark[0],
        mark=mark[1],
        unit=mark[2],
        value=value,
        low=low,
        high=high,
        verdict=verdict,
        variant=variant,
        **{"headline": True, "measured_on": f"what {title.lower()} is measured on", **others},
    )


def criteria() -> list[results.Criterion]:
    part = results.CriterionPart(
        case=results.case_id("serialization", "codec.encode", {"corpus": "flights", "batch": 100}, "rate"),
        metric="rate",
        value=1.92e6,
        low=1.88e6,
        high=1.95e6,
        verdict="pass",
        title="encode",
    )
    million: tuple[results.Better, float, str] = ("higher", 1e6, "msg/s")
    ten: tuple[results.Better, float, str] = ("lower", 10e6, "B")
    why = "decode of webhooks is its slowest case"
    ram, files = {"held": "in RAM"}, {"held": "in files"}
    return [
        _criterion(
            "Serialize and deserialize",
            million,
            (1.24e6, 1.21e6, 1.28e6),
            "pass",
            "codec/struct",
            parts=[part],
            explanation=why,
        ),
        _criterion(
            "Serialize and deserialize",
            million,
            (0.93e6, 0.91e6, 0.95e6),
            "fail",
            "codec/cbor2",
            headline=False,
        ),
        _criterion(
            "Memory of 100,000 queued messages",
            ten,
            (2.41e6, 2.2e6, 2.6e6),
            "pass",
            "storage/files",
            labels=files,
            apart="held in files",
            headline=False,
        ),
        _criterion(
            "Memory of 100,000 queued messages",
            ten,
            (7.41e6, 7.38e6, 7.44e6),
            "pass",
            "storage/memory",
            labels=ram,
        ),
        _criterion(
            "Connections, every one alive",
            ("higher", 100_000, "connections"),
            None,
            "not measured",
            explanation="profile quick does not hold 100,000 connections",
        ),
        _criterion(
            "Latency, small messages",
            ("lower", 100, "µs"),
            (98.2, 91.0, 104.4),
            "inconclusive",
            "server/epoll",
            explanation="the interval straddles the mark",
        ),
        _criterion(
            "CPU at 50,000 msg/s",
            ("lower", 5, "%"),
            (6.1, 5.8, 6.4),
            "fail",
            "server/uvloop",
            explanation="missed: linger produced 43 messages a batch",
        ),
    ]


def winners() -> list[results.Winner]:
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


def conformance(labels: list[str]) -> list[results.Conformance]:
    good = [results.Conformance(variant=label, passed=14, failed=0, not_applicable=2) for label in labels]
    twice = "fifo_order: record 5 of 10 came twice <script>alert(1)</script>"
    broken = results.Conformance(
        variant="ring/broken", passed=9, failed=1, not_applicable=0, failures=[twice]
    )
    return [*good, broken]


def unavailable() -> list[results.Unavailable]:
    reasons = {
        "peer/rabbitmq": "needs rabbitmq-server: apt install rabbitmq-server",
        "ring/native-spsc": "needs portask-native: pip install portask-native",
    }
    return [results.Unavailable(variant=label, reason=reason) for label, reason in reasons.items()]


def failure(variant: str, kind: FailureKind, detail: str, **params: results.Scalar) -> results.Failure:
    suite = "rings" if variant.startswith("ring/") else "latency"
    workload = "ring.threads" if suite == "rings" else "network.latency"
    return results.Failure(
        variant=variant, suite=suite, workload=workload, params=params, block=3, detail=detail, kind=kind
    )


def blocks() -> list[results.Block]:
    return [
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
    ]
