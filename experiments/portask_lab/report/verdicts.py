"""The verdicts on the criteria as tables."""

from __future__ import annotations

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.document import Cell, Table, Tone
from portask_lab.report.tables import columns, variant
from portask_lab.results import Criterion, CriterionPart, Judgement, Run

JUDGEMENTS: dict[Judgement, tuple[str, Tone]] = {
    "pass": ("✓ pass", "pass"),
    "fail": ("✗ fail", "fail"),
    "inconclusive": ("? inconclusive", "doubt"),
    "not measured": ("– not measured", "muted"),
}


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
