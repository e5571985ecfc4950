"""A suite at a glance: what every variant reached, a row each, a column a figure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.document import Cell, Table
from portask_lab.report.tables import columns, variant
from portask_lab.results import Case, Run, Summary

_DOUBT = " *"


def matrix(run: Run, suite: str, *, workloads: Collection[str] = (), folded: bool = False) -> list[Table]:
    """A table for each workload of a suite, or for some of them; in each parameter set the best on top.

    Args:
        run: What to tell.
        suite: Which.
        workloads: Names of those that are wanted; all by default.
        folded: On a page, closed until asked for.
    """
    cases = [
        case for case in run.cases if case.suite == suite and (not workloads or case.workload in workloads)
    ]
    by_work = {case.workload: [other for other in cases if other.workload == case.workload] for case in cases}
    group = f"Every figure of suite {suite}" if folded else ""
    return [_table(run, own, group) for own in by_work.values()]


def _table(run: Run, cases: list[Case], group: str) -> Table:
    sets = list({words.params(case.params): case.params for case in cases}.values())
    same = words.constants(sets) if len(sets) > 1 else set(sets[0])
    common = words.params({key: value for key, value in sets[0].items() if key in same})
    metrics = {case.metric: case for case in cases}
    rows: list[tuple[Cell, ...]] = []
    for params in dict.fromkeys(words.params(case.params, same) for case in cases):
        own = {case.metric: case for case in cases if words.params(case.params, same) == params}
        found = _rows(run, own, metrics)
        rows += [(Cell(params if not at else "", "strong"), *row) for at, row in enumerate(found)]
    heads = ["Case", "Variant", *(f"{words.counted(case)}#" for case in metrics.values())]
    if len(sets) == 1:
        heads, rows = heads[1:], [row[1:] for row in rows]
    caption = ", ".join(filter(None, (cases[0].title or cases[0].workload, common)))
    if any(cell.text.endswith(_DOUBT) for row in rows for cell in row):
        caption += f";{_DOUBT} beside a figure: of fewer processes than the others, some failed or were void"
    return Table(caption, columns(*heads), tuple(rows), folded=bool(group), group=group)


def _rows(run: Run, own: dict[str, Case], metrics: Iterable[str]) -> list[tuple[Cell, ...]]:
    """A variant each, the best by the first metric on top; figures of one metric share a scale."""
    ids = {case.id: case.metric for case in own.values()}
    found: dict[str, dict[str, Summary]] = {}
    for summary in run.summaries:
        if summary.case in ids and summary.role != "control":
            found.setdefault(summary.variant, {})[ids[summary.case]] = summary
    scales = {
        metric: numbers.scale_for(
            [each[metric].median for each in found.values() if metric in each], case.unit
        )
        for metric, case in own.items()
    }
    first = next(iter(own.values()))

    def place(label: str) -> tuple[float, str]:
        summary = found[label].get(first.metric)
        sign = -1 if first.better == "higher" else 1
        return (sign * summary.median if summary else math.inf), label

    return [
        (variant(label), *(_cell(found[label].get(metric), scales.get(metric)) for metric in metrics))
        for label in sorted(found, key=place)
    ]


def _cell(summary: Summary | None, scale: numbers.Scale | None) -> Cell:
    if summary is None or scale is None:
        return Cell("–")
    return Cell(scale.full(summary.median, summary.low, summary.high) + (_DOUBT if summary.notes else ""))
