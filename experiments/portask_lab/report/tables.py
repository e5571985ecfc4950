"""Verdicts, winners and rankings as tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from portask_lab.report import numbers
from portask_lab.report.document import Cell, Column, Table, Tone
from portask_lab.results import (
    CONTROL_SUFFIX,
    Case,
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
    """The five lines that everybody reads."""
    rows = []
    for item in headlines(run):
        text, tone = JUDGEMENTS[item.verdict]
        scale = _scale(item)
        rows.append(
            (
                Cell(item.title, "strong"),
                Cell(text, tone),
                Cell(mark_text(item, scale)),
                Cell(f"{scale.text(item.value)} {scale.unit}" if item.value is not None else "–"),
                Cell(scale.interval(item.low, item.high) or "–"),
                variant(item.variant),
            )
        )
    return Table(
        "Success criteria, each judged on its best variant",
        columns("Criterion", "Verdict", "Mark#", "Measured#", "95% interval#", "Variant"),
        tuple(rows),
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
                columns("Variant", "Case", "Figure", "Value#", "95% interval#", "Verdict"),
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
        )
    text, tone = JUDGEMENTS[part.verdict]
    case = next((case for case in run.cases if case.id == part.case), None)
    where = case_text(case) if case else part.case
    scale = numbers.scale_for([part.value, part.low, part.high, item.mark], item.unit)
    return (
        variant(item.variant),
        Cell(where),
        Cell(part.title or part.metric),
        Cell(f"{scale.text(part.value)} {scale.unit}"),
        Cell(scale.interval(part.low, part.high)),
        Cell(text, tone),
    )


def case_text(case: Case) -> str:
    """A case in words."""
    return ", ".join(part for part in (case.title or case.workload, numbers.params(case.params)) if part)


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
                f"{own[0].suite}: {own[0].title or own[0].workload}, {own[0].metric} in {unit} ({better})",
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
                Cell(numbers.params(case.params) or "all" if not place else "", "strong"),
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


def matrix(run: Run, suite: str, *, workloads: Collection[str] = (), folded: bool = False) -> Table | None:
    """A suite, or some workloads of it, at a glance: a row a case, metric and variant, the best first."""
    cases = [case for case in run.cases if case.suite == suite]
    if workloads:
        cases = [case for case in cases if case.workload in workloads]
    if not cases:
        return None
    rows = []
    for case in cases:
        own = sorted(
            (s for s in run.summaries if s.case == case.id and s.role != "control"),
            key=lambda s: s.median,
            reverse=case.better == "higher",
        )
        scale = numbers.scale_for([s.median for s in own], case.unit)
        for place, s in enumerate(own):
            rows.append(
                (
                    Cell(f"{case_text(case)}: {case.metric}" if not place else "", "strong"),
                    variant(s.variant),
                    Cell(f"{scale.text(s.median)} {scale.unit}"),
                    Cell(scale.interval(s.low, s.high)),
                    Cell("; ".join(s.notes), "muted"),
                )
            )
    return Table(
        f"{suite.capitalize()}: {'figures' if workloads else 'every figure'}",
        columns("Figure", "Variant", "Median#", "95% interval#", "Notes"),
        tuple(rows),
        folded=folded,
    )
