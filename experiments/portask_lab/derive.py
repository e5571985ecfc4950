"""What comes of several jobs or processes: trade-off points, memory lines, latency curves, load traces."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import msgspec

from portask_lab import statistics, workloads
from portask_lab.blocks import SuiteData, Taken
from portask_lab.results import Curve, MemoryLine, Point, Role, Scalar, Trace, case_id
from portask_lab.suites import Job
from portask_lab.workloads import Latencies, Measurement

PACK, UNPACK = "compression.pack", "compression.unpack"
QUEUED = "storage.queued"
QUEUE = 100_000
"""Messages that the memory criterion speaks of."""


PERCENTILES = [
    *(0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0),
    *(96.0, 97.0, 98.0, 98.5, 99.0, 99.3, 99.5, 99.7, 99.8, 99.9, 99.95, 99.97, 99.99, 99.995, 99.999, 100.0),
]
"""Where curves are drawn."""


def taken(data: SuiteData) -> list[Taken]:
    """Measurements that follow from others: the slope of memory over queue length.

    One a block, variant and durability.
    """
    lines: dict[tuple[str, int, str], list[Taken]] = defaultdict(list)
    for each in data.taken:
        if each.job.workload == QUEUED:
            lines[each.arm.label, each.block, _durability(each)].append(each)
    made: list[Taken] = []
    for (_, block, _), members in lines.items():
        if len(members) < 2:
            continue
        slope = statistics.slope(
            [_messages(each) for each in members], [_first(each, "growth") for each in members]
        )
        first = members[0]
        params: dict[str, Scalar] = {
            name: value for name, value in first.job.params.items() if name != "messages"
        }
        job = Job(QUEUED, params, first.job.seconds, first.job.samples, first.job.group, first.job.controlled)
        metrics = {"slope": [slope * 1e6], "queue": [slope * QUEUE]}
        measurement = Measurement(metrics, labels=first.measurement.labels)
        made.append(Taken(first.arm, job, block, first.process, measurement))
    return made


def memory(data: SuiteData, use: set[int]) -> list[MemoryLine]:
    """One line a variant and durability: medians over blocks at every queue length."""
    found: dict[tuple[str, str], dict[int, list[Taken]]] = defaultdict(lambda: defaultdict(list))
    for each in data.taken:
        if each.job.workload == QUEUED and each.block in use and each.arm.role in {"reference", "variant"}:
            found[each.arm.label, _durability(each)][_messages(each)].append(each)
    lines: list[MemoryLine] = []
    for (label, durability), by_count in found.items():
        counts = sorted(by_count)
        params = {
            name: value for name, value in by_count[counts[0]][0].job.params.items() if name != "messages"
        }

        def bytes_of(
            name: str, by_count: dict[int, list[Taken]] = by_count, counts: list[int] = counts
        ) -> list[float]:
            return [median(_first(each, name) for each in by_count[count]) * 1e6 for count in counts]

        growth = bytes_of("growth")
        lines.append(
            MemoryLine(
                case=case_id(data.suite.name, QUEUED, params, "slope"),
                variant=label,
                messages=counts,
                private=bytes_of("private"),
                growth=growth,
                peak=bytes_of("peak"),
                slope=statistics.slope(counts, growth) if len(counts) > 1 else 0.0,
                payload=int(params.get("payload") or 0),
                durability=durability,
                held=by_count[counts[-1]][0].measurement.labels.get("held", ""),
            )
        )
    return lines


def points(data: SuiteData, use: set[int], seed: int) -> list[Point]:
    """Compression ratio against speed, one a variant, corpus and batch size."""
    rates: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    back: dict[tuple[str, str], list[float]] = defaultdict(list)
    about: dict[tuple[str, str], tuple[Role, dict[str, Scalar]]] = {}
    for each in data.taken:
        if each.block not in use or each.arm.role == "control" or each.job.workload not in {PACK, UNPACK}:
            continue
        key = (each.arm.label, repr(sorted(each.job.params.items())))
        about[key] = (each.arm.role, dict(each.job.params))
        metrics = each.measurement.metrics
        if each.job.workload == UNPACK:
            back[key] += metrics["rate"]
        else:
            rates[key][each.block] += metrics["rate"]
            ratios[key] += metrics.get("ratio", [1.0])
    made: list[Point] = []
    for key, blocks in rates.items():
        role, params = about[key]
        rate = statistics.absolute(blocks, statistics.seed_of(seed, *key))
        known = len(blocks) > 1
        made.append(
            Point(
                plot="compression",
                variant=key[0],
                role=role,
                params=params,
                x=rate.value,
                y=median(ratios[key]),
                x_low=rate.low if known else None,
                x_high=rate.high if known else None,
                z=median(back[key]) if back[key] else None,
            )
        )
    for point in made:
        rivals = [
            each
            for each in made
            if each.params == point.params and each.role != "ceiling" and each is not point
        ]
        beaten = any(
            each.x >= point.x and each.y >= point.y and (each.x, each.y) != (point.x, point.y)
            for each in rivals
        )
        point.front = point.role != "ceiling" and not beaten
    return made


def percentiles(bounds: Sequence[float], counts: Sequence[int], wanted: Sequence[float]) -> list[float]:
    """The percentiles of a histogram: the smallest bound that at least so many percent do not exceed."""
    total = sum(counts)
    found: list[float] = []
    position, below = 0, counts[0]
    for percent in wanted:
        rank = max(1, math.ceil(total * percent / 100))
        while below < rank:
            position += 1
            below += counts[position]
        found.append(bounds[position])
    return found


def curves(data: SuiteData, use: set[int]) -> list[Curve]:
    """One latency curve a case, variant and load: the histograms of all processes added up."""
    merged: dict[tuple[str, str, float, str], tuple[Role, Latencies]] = {}
    for each in data.taken:
        if each.block not in use:
            continue
        for latencies in each.measurement.latencies:
            identity = case_id(data.suite.name, each.job.workload, each.job.params, latencies.metric)
            key = (identity, each.arm.label, latencies.rate, latencies.schedule)
            if key not in merged:
                merged[key] = (
                    each.arm.role,
                    msgspec.structs.replace(latencies, counts=list(latencies.counts)),
                )
                continue
            sofar = merged[key][1]
            if sofar.bounds != latencies.bounds:
                raise ValueError(f"{each.job.workload} changed its histogram's bounds between processes")
            sofar.counts = [a + b for a, b in zip(sofar.counts, latencies.counts, strict=True)]
    return [
        Curve(
            case=identity,
            variant=label,
            role=role,
            rate=rate,
            schedule=schedule,
            percentiles=PERCENTILES,
            values=percentiles(found.bounds, found.counts, PERCENTILES),
            count=sum(found.counts),
        )
        for (identity, label, rate, schedule), (role, found) in merged.items()
        if sum(found.counts)
    ]


def traces(data: SuiteData, use: set[int]) -> list[Trace]:
    """The first valid block's trace of each variant: a trace is shown, not averaged."""
    found: dict[tuple[str, str], Trace] = {}
    for each in sorted(data.taken, key=lambda each: each.block):
        trace = each.measurement.trace
        if trace is None or each.block not in use or each.arm.role == "control":
            continue
        main = workloads.get(each.job.workload).metrics[0].name
        identity = case_id(data.suite.name, each.job.workload, each.job.params, main)
        if (identity, each.arm.label) not in found:
            fields = msgspec.structs.asdict(trace)
            found[identity, each.arm.label] = Trace(case=identity, variant=each.arm.label, **fields)
    return list(found.values())


def _messages(each: Taken) -> int:
    return int(each.job.params.get("messages") or 0)


def _durability(each: Taken) -> str:
    return str(each.job.params.get("durability") or "")


def _first(each: Taken, name: str) -> float:
    return each.measurement.metrics[name][0]
