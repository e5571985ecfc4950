"""From a suite's measurements to what the results file says: cases, summaries, noise floors, curves, traces.

Only valid blocks count. Where voiding left fewer than two (and more were asked for), nothing is thrown away
and nothing is compared: the figures are shown with a note, every verdict is "not compared", and a criterion
on them is inconclusive.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from statistics import median

import msgspec

from portask_lab import derive, statistics, workloads
from portask_lab.blocks import SuiteData
from portask_lab.results import (
    CONTROL_SUFFIX,
    Block,
    Case,
    Curve,
    Failure,
    MemoryLine,
    NoiseFloor,
    Point,
    RawSample,
    Role,
    Run,
    Summary,
    Trace,
    case_id,
)
from portask_lab.workloads import Metric

Samples = dict[str, dict[int, list[float]]]
"""Variant label → block → values."""


class Table(msgspec.Struct):
    """One case while it is being summed up."""

    case: Case
    roles: dict[str, Role] = {}
    samples: Samples = {}
    labels: dict[str, dict[str, set[str]]] = {}
    timed: bool = True


class Part(msgspec.Struct):
    """One suite's part of a run's results; the lists are those of `Run`, and ``raw`` has a line for every sample."""

    cases: list[Case] = []
    summaries: list[Summary] = []
    noise_floors: list[NoiseFloor] = []
    curves: list[Curve] = []
    traces: list[Trace] = []
    points: list[Point] = []
    memory: list[MemoryLine] = []
    blocks: list[Block] = []
    failures: list[Failure] = []
    notes: list[str] = []
    raw: list[RawSample] = []


_LISTS = [name for name in Part.__struct_fields__ if name != "raw"]


def part(data: SuiteData, seed: int) -> Part:
    """What ``data`` says; voided blocks are in the ledger and among the raw lines."""
    tables, raw = _tables(data)
    valid = [block.index for block in data.blocks if not block.voided]
    blind = bool(data.blocks) and len(valid) < min(2, len(data.blocks))
    use = {block.index for block in data.blocks} if blind else set(valid)
    made = Part(raw=raw)
    for table in tables.values():
        for label, blocks in table.samples.items():
            table.samples[label] = {index: values for index, values in blocks.items() if index in use}
        table.samples = {label: blocks for label, blocks in table.samples.items() if blocks}
    floors = {} if blind else _floors(made, data, tables.values(), seed)
    for table in tables.values():
        if table.samples:
            made.cases.append(table.case)
            made.summaries += _summaries(table, data, floors, seed)
    made.curves += derive.curves(data, use)
    made.traces += derive.traces(data, use)
    made.points += derive.points(data, use, seed)
    made.memory += derive.memory(data, use)
    made.blocks += data.blocks
    made.failures += data.failures
    made.notes += shortage(data, blind=blind)
    made.notes += data.notes
    made.notes += sorted({note for each in data.taken for note in each.measurement.notes})
    return made


def fill(run: Run, notes: Sequence[str], parts: Iterable[Part]) -> None:
    """Has ``run`` hold ``notes`` and these parts, in the place of what it held of them."""
    whole = Part(notes=list(notes))
    for each in parts:
        for name in _LISTS:
            getattr(whole, name).extend(getattr(each, name))
    for name in _LISTS:
        setattr(run, name, getattr(whole, name))


def shortage(data: SuiteData, *, blind: bool) -> list[str]:
    """In a sentence, that a suite has too few valid blocks, and what follows from it; nothing when it has enough."""
    if data.complete and not blind:
        return []
    name, made, voided = data.suite.name, len(data.blocks), len(data.voided())
    if not made:
        return [f"incomplete: {name} was not reached, time was up"]
    text = f"{made} block{'s' * (made > 1)}" + (
        f", {voided} of them voided by the noise rule" if voided else ""
    )
    if not data.complete:
        text = f"{text} when its time was up, {data.wanted} are wanted"
    if blind:
        text += (
            "; nothing is compared, and its figures are those of all blocks: run again on a quieter machine"
        )
    return [f"{'' if data.complete else 'incomplete: '}{name} has {text}"]


def settled(data: SuiteData, width: float) -> bool:
    """Whether every ratio to the reference has an interval narrower than ``width``, relative to it."""
    tables, _ = _tables(data)
    voided = data.voided()
    for table in tables.values():
        reference = next((label for label, role in table.roles.items() if role == "reference"), None)
        if reference is None or table.case.better == "none":
            continue
        kept = {
            label: {index: values for index, values in blocks.items() if index not in voided}
            for label, blocks in table.samples.items()
            if table.roles[label] in {"reference", "control", "variant"}
        }
        for label, blocks in kept.items():
            if label != reference:
                found = statistics.ratio(blocks, kept[reference], 0)
                if found is None or found.width > width:
                    return False
    return bool(tables)


def _tables(data: SuiteData) -> tuple[dict[str, Table], list[RawSample]]:
    tables: dict[str, Table] = {}
    raw: list[RawSample] = []
    voided = data.voided()
    for each in (*data.taken, *derive.taken(data)):
        workload = workloads.get(each.job.workload)
        for name, values in each.measurement.metrics.items():
            metric = workload.metric(name)
            identity = case_id(data.suite.name, workload.name, each.job.params, name)
            table = tables.get(identity)
            if table is None:
                case = _case(identity, data.suite.name, workload, each.job.params, metric)
                table = tables[identity] = Table(case, timed=metric is workload.metrics[0])
            label = each.arm.label
            table.roles[label] = each.arm.role
            table.samples.setdefault(label, {}).setdefault(each.block, []).extend(values)
            for key, seen in each.measurement.labels.items():
                table.labels.setdefault(label, {}).setdefault(key, set()).add(seen)
            raw.append(
                RawSample(
                    case=identity,
                    variant=label,
                    arm=each.arm.key,
                    block=each.block,
                    process=each.process,
                    values=list(values),
                    voided=each.block in voided,
                )
            )
    jobs = dict.fromkeys((job.workload, repr(job.params)) for arm in data.arms for job in arm.jobs)
    places = {name: place for place, name in enumerate(jobs)}
    labels = {label: place for place, label in enumerate(dict.fromkeys(arm.label for arm in data.arms))}
    ordered = sorted(
        tables.items(),
        key=lambda item: places.get((item[1].case.workload, repr(item[1].case.params)), len(places)),
    )
    for _, table in ordered:
        table.samples = dict(sorted(table.samples.items(), key=lambda item: labels.get(item[0], len(labels))))
    return dict(ordered), raw


def _case(
    identity: str,
    suite: str,
    workload: workloads.Workload,
    params: dict[str, str | int | float | bool | None],
    metric: Metric,
) -> Case:
    return Case(
        id=identity,
        suite=suite,
        family=workload.family,
        workload=workload.name,
        params=dict(params),
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        decimals=metric.decimals,
        title=workload.title,
        words=metric.words,
    )


def _reference(table: Table) -> str | None:
    return next(
        (label for label, role in table.roles.items() if role == "reference" and label in table.samples), None
    )


def _floors(
    made: Part, data: SuiteData, tables: Collection[Table], seed: int
) -> dict[tuple[str, str], float]:
    """Fills in the floors; returns those to judge by: (case, "") for a case's, ("", metric) for a suite's."""
    effects: dict[str, list[tuple[str, statistics.Ratio]]] = defaultdict(list)
    for table in tables:
        reference = _reference(table)
        control = f"{reference}{CONTROL_SUFFIX}"
        if reference and control in table.samples:
            name = table.case.id
            found = statistics.ratio(
                table.samples[control], table.samples[reference], statistics.seed_of(seed, name, control)
            )
            if found:
                effects[table.case.metric].append((name, found))
    floors: dict[tuple[str, str], float] = {}
    timed = {table.case.metric for table in tables if table.timed}
    for metric, found_effects in effects.items():
        whole = statistics.suite_floor([effect.value for _, effect in found_effects])
        floors["", metric] = whole
        if metric in timed:  # sizes have a floor of their own, but it is not the suite's
            made.noise_floors.append(
                NoiseFloor(
                    suite=data.suite.name,
                    metric=metric,
                    case="",
                    floor=whole,
                    ratio=None,
                    low=None,
                    high=None,
                )
            )
        for name, effect in found_effects:
            floor = floors[name, ""] = statistics.case_floor(whole, effect.value)
            made.noise_floors.append(
                NoiseFloor(
                    suite=data.suite.name,
                    metric=metric,
                    case=name,
                    floor=floor,
                    ratio=effect.value,
                    low=_finite(effect.low, effect.blocks),
                    high=_finite(effect.high, effect.blocks),
                )
            )
    return floors


def _summaries(
    table: Table, data: SuiteData, floors: dict[tuple[str, str], float], seed: int
) -> list[Summary]:
    case = table.case
    reference = _reference(table)
    made: dict[str, Summary] = {}
    compared: list[tuple[str, statistics.Ratio]] = []
    for label, blocks in table.samples.items():
        role = table.roles[label]
        value = statistics.absolute(blocks, statistics.seed_of(seed, case.id, label))
        medians = [median(samples) for samples in blocks.values()]
        summary = made[label] = Summary(
            case=case.id,
            variant=label,
            role=role,
            median=value.value,
            low=_finite(value.low, len(blocks)),
            high=_finite(value.high, len(blocks)),
            processes=len(blocks),
            samples=sum(map(len, blocks.values())),
            steady=statistics.steady(blocks) if table.timed else None,
            notes=_doubts(data, table, label),
            least=min(medians),
            most=max(medians),
            labels={key: " and ".join(sorted(seen)) for key, seen in table.labels.get(label, {}).items()},
        )
        if reference is None or case.better == "none" or role in {"floor", "ceiling"}:
            continue
        if role == "reference":
            summary.verdict = "reference"
            continue
        name = statistics.seed_of(seed, case.id, label, "ratio")
        effect = statistics.ratio(blocks, table.samples[reference], name)
        if effect is None:
            continue
        summary.ratio = effect.value
        if effect.blocks > 1:
            summary.ratio_low, summary.ratio_high, summary.p = effect.low, effect.high, effect.p
        if role == "control":
            summary.verdict = "A/A"
        elif effect.blocks > 1:
            compared.append((label, effect))
    floor = floors.get((case.id, ""), floors.get(("", case.metric)))
    adjusted = statistics.holm([effect.p for _, effect in compared])
    for (label, effect), p in zip(compared, adjusted, strict=True):
        if floor is not None:
            made[label].verdict = statistics.verdict(effect.value, p, floor, case.better)
    return list(made.values())


def _doubts(data: SuiteData, table: Table, label: str) -> list[str]:
    failed = [
        failure
        for failure in data.failures
        if failure.variant == label
        and failure.workload == table.case.workload
        and failure.params == table.case.params
    ]
    blocks = len(data.blocks)
    void = sum(failure.kind == "void" for failure in failed)
    notes = [f"{len(failed) - void} of {blocks} processes failed; the others are shown"]
    notes += [f"{void} of {blocks} measurements are void; the others are shown"]
    return [note for note, count in zip(notes, (len(failed) - void, void), strict=True) if count]


def _finite(value: float, blocks: int) -> float | None:
    return value if blocks > 1 and math.isfinite(value) else None
