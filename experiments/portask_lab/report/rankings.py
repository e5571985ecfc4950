"""Variants against the reference: how often each was better or worse, and every figure behind it."""

from __future__ import annotations

from collections.abc import Sequence

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.document import Cell, Table, Tone
from portask_lab.report.tables import columns, variant
from portask_lab.results import Case, Conformance, Run, Summary

_TONES: dict[str, Tone] = {
    "faster": "pass",
    "slower": "fail",
    "indistinguishable": "muted",
    "not compared": "muted",
}
VERDICTS = {"faster": "better", "slower": "worse"}
"""The schema's words are about speed; a figure may be bytes."""
COMPARED = ("faster", "indistinguishable", "slower")


def standing(run: Run, family: str) -> Table:
    """How often each variant of a family was better, worse or indistinguishable; those that were not measured, too."""
    cases = {case.id for case in run.cases if case.family == family and case.better != "none"}
    own: dict[str, list[Summary]] = {}
    for summary in run.summaries:
        if summary.case in cases and summary.role in {"variant", "reference", "peer"}:
            own.setdefault(summary.variant, []).append(summary)
    tickets = {item.variant: item for item in run.conformance if item.variant.startswith(f"{family}/")}
    labels = sorted(own.keys() | tickets.keys(), key=lambda name: _place(name, own.get(name, [])))
    return Table(
        f"{family.capitalize()}: comparisons with the reference, after Holm's correction and beyond the "
        "noise floor",
        columns("Variant", "Role", "Conformance", "Cases#", "Better#", "Indistinguishable#", "Worse#"),
        tuple(_standing_row(label, own.get(label, []), tickets.get(label)) for label in labels),
    )


def _place(label: str, summaries: list[Summary]) -> tuple[bool, bool, str]:
    reference = bool(summaries) and summaries[0].role == "reference"
    return not reference, label.startswith("peer/"), label


def _standing_row(label: str, summaries: list[Summary], ticket: Conformance | None) -> tuple[Cell, ...]:
    role = summaries[0].role if summaries else "variant"
    if role == "peer":
        entry = Cell("not ours to check", "muted")
    elif ticket is None:
        entry = Cell("not checked", "doubt")
    elif ticket.failed:
        entry = Cell(f"✗ fails {ticket.failed} of {ticket.passed + ticket.failed} checks", "fail")
    else:
        entry = Cell(f"✓ {ticket.passed} checks", "pass")
    compared = [s for s in summaries if s.verdict in COMPARED]
    counts = (sum(s.verdict == verdict for s in compared) for verdict in COMPARED)
    return (
        variant(label),
        Cell({"peer": "another product", "reference": "reference"}.get(role, "variant"), "muted"),
        entry,
        Cell(str(len(summaries)) if summaries else "not measured"),
        *(Cell(str(count) if compared else "–") for count in counts),
    )


def figures(run: Run, cases: Sequence[Case], group: str) -> list[Table]:
    """Every figure of the cases, one table a workload and metric."""
    made = []
    by_case: dict[str, list[Summary]] = {}
    for summary in run.summaries:
        by_case.setdefault(summary.case, []).append(summary)
    for key in dict.fromkeys((case.suite, case.workload, case.metric) for case in cases):
        own = [case for case in cases if (case.suite, case.workload, case.metric) == key]
        rows = [row for case in own for row in _figure_rows(case, by_case.get(case.id, []))]
        unit = own[0].unit
        better = {"higher": "more is better", "lower": "less is better"}.get(own[0].better, "explains others")
        made.append(
            Table(
                f"{own[0].suite}: {own[0].title or own[0].workload}, {words.counted(own[0])} in {unit} ({better})",
                columns(
                    "Case",
                    "Variant",
                    "Median#",
                    "95% interval#",
                    "÷ reference#",
                    "Verdict",
                    "Processes#",
                    "Notes",
                ),
                tuple(rows),
                folded=True,
                group=group,
            )
        )
    return made


def _figure_rows(case: Case, summaries: list[Summary]) -> list[tuple[Cell, ...]]:
    ordered = sorted(summaries, key=lambda s: s.median, reverse=case.better == "higher")
    scale = numbers.scale_for([s.median for s in ordered], case.unit)
    rows: list[tuple[Cell, ...]] = []
    for place, s in enumerate(ordered):
        notes = list(s.notes)
        if s.steady is False:
            notes.append("no steady state")
        word = {
            "reference": "reference",
            "control": "A/A control",
            "floor": "floor",
            "ceiling": "ceiling",
        }.get(s.role)
        rows.append(
            (
                Cell(words.params(case.params) or "all" if not place else "", "strong"),
                variant(s.variant),
                Cell(f"{scale.text(s.median)} {scale.unit}"),
                Cell(scale.interval(s.low, s.high)),
                Cell(numbers.ratio(s.ratio, s.ratio_low, s.ratio_high) if s.role != "reference" else "1"),
                Cell(
                    word or VERDICTS.get(s.verdict, s.verdict), "muted" if word else _TONES.get(s.verdict, "")
                ),
                Cell(str(s.processes)),
                Cell("; ".join(notes), "doubt"),
            )
        )
    return rows
