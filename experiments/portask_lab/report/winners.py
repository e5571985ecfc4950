"""The winners, and the whole broker made of them, as tables."""

from __future__ import annotations

from collections.abc import Mapping

from portask_lab.report import numbers
from portask_lab.report.document import Cell, Items, Table, Tone
from portask_lab.report.tables import columns, variant
from portask_lab.results import Confirmation, Run, Winner
from portask_lab.statistics import Ratio


def winners(run: Run, leads: Mapping[str, Ratio]) -> Table:
    """What `portask_lab.select` would put into the config."""
    rows = []
    for item in run.winners:
        scale = numbers.scale_for([item.value, item.runner_up_value], item.unit)

        def figure(value: float | None, scale: numbers.Scale = scale) -> Cell:
            return Cell("–" if value is None else f"{scale.text(value)} {scale.unit}")

        rows.append(
            (
                Cell(item.family, "strong"),
                variant(item.variant),
                figure(item.value),
                variant(item.runner_up),
                figure(item.runner_up_value),
                Cell(_lead(item, leads.get(item.family))),
            )
        )
    return Table(
        "The winner of each family, as portask lab select would choose",
        columns("Family", "Winner", "Figure#", "Runner-up", "Figure#", "Winner ÷ runner-up#"),
        tuple(rows),
    )


def reasons(run: Run) -> Items:
    """By what each family was compared, and why its winner won."""
    return Items(tuple(f"{item.family}, by {item.objective}: {item.reason}" for item in run.winners))


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
