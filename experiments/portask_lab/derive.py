"""Figures that come of several jobs: trade-off points, and the memory line through several queue lengths."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from portask_lab import statistics
from portask_lab.blocks import SuiteData, Taken
from portask_lab.results import MemoryLine, Point, Role, Scalar, case_id
from portask_lab.suites import Job
from portask_lab.workloads import Measurement

PACK, UNPACK = "compression.pack", "compression.unpack"
QUEUED = "storage.queued"
QUEUE = 100_000
"""Messages that the memory criterion speaks of."""


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


def _messages(each: Taken) -> int:
    return int(each.job.params.get("messages") or 0)


def _durability(each: Taken) -> str:
    return str(each.job.params.get("durability") or "")


def _first(each: Taken, name: str) -> float:
    return each.measurement.metrics[name][0]
