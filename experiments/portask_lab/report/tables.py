"""Verdicts, winners and rankings as tables."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.document import Cell, Column, Table, Tone
from portask_lab.results import (
    CONTROL_SUFFIX,
    Case,
    Confirmation,
    Conformance,
    Criterion,
    CriterionPart,
    Judgement,
    Run,
    Summary,
    Winner,
)
from portask_lab.statistics import Ratio

JUDGEMENTS: dict[Judgement, tuple[str, Tone]] = {
    "pass": ("✓ pass", "pass"),
    "fail": ("✗ fail", "fail"),
    "inconclusive": ("? inconclusive", "doubt"),
    "not measured": ("– not measured", "muted"),
}
_TONES: dict[str, Tone] = {
    "faster": "pass",
    "slower": "fail",
    "indistinguishable": "muted",
    "not compared": "muted",
}
VERDICTS = {"faster": "better", "slower": "worse"}
"""The schema's words are about speed; a figure may be bytes."""
COMPARED = ("faster", "indistinguishable", "slower")


def columns(*names: str) -> tuple[Column, ...]:
    """Heads; a trailing ``#`` marks numbers."""
    return tuple(Column(name.removesuffix("#"), name.endswith("#")) for name in names)


def variant(label: str, tone: Tone = "") -> Cell:
    """A variant's label in its colour; the A/A control says what it is."""
    if label.endswith(CONTROL_SUFFIX):
        return Cell(f"{label.removesuffix(CONTROL_SUFFIX)} (again: A/A)", "muted", code=True)
    return Cell(label or "–", tone, code=bool(label), swatch=label)


def mark_text(item: Criterion, scale: numbers.Scale) -> str:
    """The pass mark with its sign: ``< 100 µs``."""
    sign = {"lower": "<", "higher": ">"}.get(item.better, "")
    number = item.mark / scale.divisor
    return f"{sign} {number:,.10g} {scale.unit}".strip()


def _scale(item: Criterion) -> numbers.Scale:
    return numbers.scale_for([item.value, item.low, item.high, item.mark], item.unit)


def headlines(run: Run) -> list[Criterion]:
    """One entry a criterion, in the file's order: the best variant's."""
    return [item for item in run.criteria if item.headline]


def verdicts(run: Run) -> Table:
    """The five lines that everybody reads, and below one of them what is shown apart."""
    rows = []
    for item in headlines(run):
        rows.append(_verdict_row(item, Cell(item.title, "strong")))
        apart = {
            other.apart: other for other in reversed(run.criteria) if other.id == item.id and other.apart
        }
        rows += [
            _verdict_row(other, Cell(f"apart: {text}", "muted"))
            for text, other in reversed(apart.items())
            if other is not item
        ]
    return Table(
        "Success criteria, each judged on its best variant",
        columns("Criterion", "Verdict", "Mark#", "Measured#", "95% interval#", "Variant"),
        tuple(rows),
    )


def _verdict_row(item: Criterion, title: Cell) -> tuple[Cell, ...]:
    text, tone = JUDGEMENTS[item.verdict]
    scale = _scale(item)
    labels = "".join(f", {name} {seen}" for name, seen in item.labels.items())
    return (
        title,
        Cell(text, tone),
        Cell(mark_text(item, scale)),
        Cell(f"{scale.text(item.value)} {scale.unit}{labels}" if item.value is not None else "–"),
        Cell(scale.interval(item.low, item.high) or "–"),
        variant(item.variant),
    )


def criterion_details(run: Run) -> list[Table]:
    """Every variant and every case of each criterion."""
    made = []
    for title in dict.fromkeys(item.title for item in run.criteria):
        own = [item for item in run.criteria if item.title == title]
        rows = [
            _part_row(run, item, part)
            for item in own
            for part in (*item.parts, *(() if item.parts else (None,)))
        ]
        made.append(
            Table(
                f"{title}: {own[0].measured_on}",
                columns("Variant", "Case", "Figure", "Value#", "95% interval#", "Verdict", "Beside it"),
                tuple(rows),
                folded=True,
                group="Every variant and case behind the verdicts",
            )
        )
    return made


def _part_row(run: Run, item: Criterion, part: CriterionPart | None) -> tuple[Cell, ...]:
    if part is None:
        text, tone = JUDGEMENTS[item.verdict]
        return (
            variant(item.variant),
            Cell(item.explanation or "–"),
            Cell(""),
            Cell("–"),
            Cell("–"),
            Cell(text, tone),
            Cell(""),
        )
    text, tone = JUDGEMENTS[part.verdict]
    case = next((case for case in run.cases if case.id == part.case), None)
    where = words.case(case) if case else part.case
    scale = numbers.scale_for([part.value, part.low, part.high, item.mark], item.unit)
    return (
        variant(item.variant),
        Cell(where),
        Cell(words.counted(case) if case else part.metric, "strong"),
        Cell(f"{scale.text(part.value)} {scale.unit}"),
        Cell(scale.interval(part.low, part.high) or "–"),
        Cell(text, tone),
        Cell(", ".join(f"{name} {seen}" for name, seen in item.labels.items())),
    )


def winners(run: Run, leads: Mapping[str, Ratio]) -> Table:
    """What `select` would put into the config."""
    rows = []
    for item in run.winners:
        scale = numbers.scale_for([item.value, item.runner_up_value], item.unit)
        rows.append(
            (
                Cell(item.family, "strong"),
                variant(item.variant),
                Cell(f"{scale.text(item.value)} {scale.unit}" if item.value is not None else "–"),
                variant(item.runner_up),
                Cell(
                    f"{scale.text(item.runner_up_value)} {scale.unit}"
                    if item.runner_up_value is not None
                    else "–"
                ),
                Cell(_lead(item, leads.get(item.family))),
                Cell("; ".join(part for part in (item.objective, item.reason) if part)),
            )
        )
    return Table(
        "The winner of each family, as portask lab select would choose",
        columns(
            "Family",
            "Winner",
            "Figure#",
            "Runner-up",
            "Figure#",
            "Winner ÷ runner-up#",
            "Measured as, and why",
        ),
        tuple(rows),
    )


def confirmed(found: Confirmation) -> Table:
    """The broker made of the winners beside the reference broker."""
    tones: dict[str, Tone] = {"better": "pass", "worse": "fail"}
    rows = []
    for figure in found.figures:
        scale = numbers.scale_for([figure.winners, figure.reference], figure.unit)
        rows.append(
            (
                Cell(figure.words, "strong"),
                Cell(f"{scale.text(figure.winners)} {scale.unit}"),
                Cell(f"{scale.text(figure.reference)} {scale.unit}"),
                Cell(numbers.ratio(figure.ratio, figure.low, figure.high)),
                Cell("–" if figure.floor is None else f"±{numbers.percent(figure.floor)}"),
                Cell(figure.verdict, tones.get(figure.verdict, "muted")),
            )
        )
    return Table(
        "The whole broker made of the winners, beside the reference broker",
        columns("Figure", "Winners#", "Reference#", "Winners ÷ reference#", "Noise floor#", "Verdict"),
        tuple(rows),
    )


def _lead(item: Winner, lead: Ratio | None) -> str:
    if not item.value or not item.runner_up_value:
        return "–"
    # the blocks' own ratio where there is one: its interval belongs to it
    text = (
        numbers.ratio(lead.value, lead.low, lead.high)
        if lead
        else numbers.ratio(item.value / item.runner_up_value)
    )
    return text + (" (tie)" if item.tie else "")


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


def matrix(run: Run, suite: str, *, workloads: Collection[str] = (), folded: bool = False) -> list[Table]:
    """A suite, or some workloads of it, at a glance.

    A table a workload: a row a parameter set and variant, a column a metric, the best of the first metric on top.
    """
    cases = [case for case in run.cases if case.suite == suite]
    if workloads:
        cases = [case for case in cases if case.workload in workloads]
    made = []
    for workload in dict.fromkeys(case.workload for case in cases):
        own = [case for case in cases if case.workload == workload]
        same = words.constants([case.params for case in own])
        common = words.params({key: value for key, value in own[0].params.items() if key in same})
        metrics = {case.metric: case for case in own}
        scales = {
            metric: numbers.scale_for(
                [
                    s.median
                    for s in run.summaries
                    for case in own
                    if s.case == case.id and case.metric == metric
                ],
                first.unit,
            )
            for metric, first in metrics.items()
        }
        heads = [f"{words.counted(case)}, {scales[metric].unit}#" for metric, case in metrics.items()]
        made.append(
            Table(
                f"{suite.capitalize()}: " + ", ".join(filter(None, (own[0].title or workload, common))),
                columns("Case", "Variant", *heads),
                tuple(_matrix_rows(run, own, scales, same)),
                folded=folded,
                group=f"Every figure of suite {suite}" if folded else "",
            )
        )
    return made


def _matrix_rows(
    run: Run, cases: Sequence[Case], scales: Mapping[str, numbers.Scale], same: Collection[str]
) -> Iterator[tuple[Cell, ...]]:
    for params in dict.fromkeys(words.params(case.params, same) for case in cases):
        own = [case for case in cases if words.params(case.params, same) == params]
        found = {(s.variant, s.case): s for s in run.summaries if s.role != "control"}
        labels = {label for label, case in found if any(case == each.id for each in own)}
        first = own[0]

        def place(label: str, first: Case = first, found: Mapping[tuple[str, str], Summary] = found) -> float:
            summary = found.get((label, first.id))
            sign = -1 if first.better == "higher" else 1
            return sign * summary.median if summary else math.inf

        for number, label in enumerate(sorted(labels, key=lambda label: (place(label), label))):
            by_metric = {case.metric: found.get((label, case.id)) for case in own}
            cells = (
                Cell(
                    " ".join(filter(None, (scale.text(s.median), scale.interval(s.low, s.high))))
                    if s
                    else "–"
                )
                for metric, scale in scales.items()
                for s in [by_metric.get(metric)]
            )
            yield Cell("" if number else params or "all", "strong"), variant(label), *cells
