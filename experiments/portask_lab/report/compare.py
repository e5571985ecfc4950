"""Pictures that compare variants: how far from the marks, how far from the reference, how far from the peers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.colours import light
from portask_lab.report.document import Picture
from portask_lab.report.drawing import WIDTH, grid, legend, marker, picture, sheet, short
from portask_lab.results import Case, Criterion, Run, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RATIO_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)
_MOST_ROWS = 34
_EDGE = 0.1
"""Share of a picture's width in which a centred label would run out of it."""
_LINE = 0.19
"""Inches of a heading's line among the rows of a forest."""


def marks(run: Run, colours: dict[str, str]) -> Picture | None:
    """Each criterion's figure as a multiple of its mark; right of the line is met."""
    measured = [c for c in run.criteria if c.value and c.mark]
    titles = list(dict.fromkeys(c.title for c in run.criteria))
    if not measured:
        return None
    with sheet(0.62 + 0.44 * len(titles)) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.axvline(1, color=light("ink"), linewidth=1)
        _ratio_axis(
            axes,
            [_toward(c, value) for c in measured for value in (c.value, c.low, c.high) if value],
            tight=True,
        )
        for row, title in enumerate(titles):
            own = [c for c in measured if c.title == title]
            for item in sorted(own, key=lambda c: c.headline):
                _mark(axes, row, item)
            if not own:
                axes.annotate(
                    "not measured",
                    (1, row),
                    (8, 0),
                    textcoords="offset points",
                    va="center",
                    color=light("muted"),
                )
        axes.set_yticks(range(len(titles)), titles)
        axes.tick_params(axis="y", length=0, labelcolor=light("ink"))
        axes.set_ylim(len(titles) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("times the mark, on a log scale; right of the line the criterion is met")
        met = sum(c.headline and c.verdict == "pass" for c in run.criteria)
        return picture(
            figure,
            "criteria",
            f"Dot plot of {len(titles)} criteria as multiples of their marks. {met} of {len(titles)} are "
            "met by the best variant.",
            "The filled dot is the best variant with its 95% interval, the rings are the others.",
        )


def _mark(axes: Axes, row: int, item: Criterion) -> None:
    value, low, high = (_toward(item, v) for v in (item.value, item.low, item.high))
    if value is None:
        return
    if not item.headline:
        axes.plot(
            [value],
            [row],
            "o",
            markersize=4,
            markerfacecolor="none",
            markeredgecolor=light("faint"),
            zorder=2,
        )
        return
    colour = light({"pass": "pass", "fail": "fail"}.get(item.verdict, "doubt"))
    if low and high:
        axes.plot([low, high], [row, row], color=colour, linewidth=2, zorder=3)
    axes.plot([value], [row], "o", markersize=6.5, color=colour, zorder=4)
    left, right = axes.get_xlim()
    place = math.log(value / left) / math.log(right / left)
    axes.annotate(
        short(item.variant),
        (value, row),
        (0, 8),
        textcoords="offset points",
        ha="left" if place < _EDGE else "right" if place > 1 - _EDGE else "center",
        fontsize=8,
        color=light("muted"),
        bbox={"facecolor": light("paper"), "linewidth": 0, "pad": 1},
    )


def _toward(item: Criterion, value: float | None) -> float | None:
    if not value or value < 0:
        return None
    return item.mark / value if item.better == "lower" else value / item.mark


def _ratio_axis(axes: Axes, values: Sequence[float | None], *, tight: bool = False) -> None:
    known = [value for value in values if value]
    low, high = min([*known, 0.9]) / 1.08, max([*known, 1.1]) * 1.08
    axes.set_xlim(low, high)
    inside = [tick for tick in _RATIO_TICKS if low <= tick <= high]
    apart = 0.065 if tight else 0.075
    span = math.log(high / low)
    kept: list[float] = [1]
    for tick in sorted(inside, key=lambda tick: (abs(math.log(tick)), tick)):
        if all(abs(math.log(tick / other)) / span > apart for other in kept):
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:g}×" for tick in kept])
    axes.minorticks_off()
    axes.grid(axis="x")


def ranked(run: Run, case: Case) -> list[Summary]:
    """The case's summaries that were compared with the reference."""
    return [s for s in run.summaries if s.case == case.id and s.role in {"variant", "peer"} and s.ratio]


def forests(run: Run, family: str, colours: dict[str, str]) -> list[Picture]:
    """Ratios to the reference with intervals, one row a case, over the noise band; long ones are split."""
    cases = [
        case for case in run.cases if case.family == family and case.better != "none" and ranked(run, case)
    ]
    chunks: list[list[Case]] = [[]]
    by_work: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        by_work[case.workload, case.metric].append(case)
    for together in by_work.values():
        if chunks[-1] and len(chunks[-1]) + len(together) > _MOST_ROWS:
            chunks.append([])
        chunks[-1] += together
    return [_forest(run, family, chunk, colours, number) for number, chunk in enumerate(chunks) if chunk]


def _forest(run: Run, family: str, cases: list[Case], colours: dict[str, str], number: int) -> Picture:
    variants = list(dict.fromkeys(s.variant for case in cases for s in ranked(run, case)))
    variants.sort(key=lambda label: (label.startswith("peer/"), label))
    floors = {floor.case: floor.floor for floor in run.noise_floors}
    suite_floors = {(floor.suite, floor.metric): floor.floor for floor in run.noise_floors if not floor.case}
    works: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        works[case.workload, case.metric].append(case)
    shared = {work: words.constants([case.params for case in own]) for work, own in works.items()}
    headings = {work: _heading(own[0], shared[work]) for work, own in works.items()}
    lines = sum(map(len, headings.values()))
    step = 0.17 + 0.085 * len(variants)
    with sheet(0.95 + step * len(cases) + _LINE * lines + 0.05 * len(works)) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        ticks: list[float] = []
        names: list[str] = []
        extent: list[float | None] = []
        y, before = 0.0, ("", "")
        same: set[str] = set()
        for case in cases:
            if (case.workload, case.metric) != before:
                before = case.workload, case.metric
                y += _LINE + 0.05
                same = shared[before]
                for text, weight in headings[before]:
                    axes.annotate(
                        text,
                        (0, y - 0.07),
                        xycoords=("axes fraction", "data"),
                        xytext=(2, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=8.5,
                        fontweight=weight,
                        bbox={"facecolor": light("paper"), "linewidth": 0, "pad": 1.5},
                    )
                    y += _LINE
                y -= _LINE
            middle = y + step / 2
            floor = floors.get(case.id, suite_floors.get((case.suite, case.metric), 0.0))
            axes.fill_betweenx(
                [middle - step / 2, middle + step / 2],
                1 / (1 + floor),
                1 + floor,
                color=light("band"),
                linewidth=0,
            )
            found = {s.variant: s for s in ranked(run, case)}
            for place, label in enumerate(variants):
                if label in found:
                    at = middle + (place - (len(variants) - 1) / 2) * 0.085
                    extent += _whisker(axes, at, case, found[label], colours[label])
            ticks.append(middle)
            names.append(words.params(case.params, same) or "all")
            y += step
        axes.axvline(1, color=light("muted"), linewidth=0.8, zorder=1)
        axes.set_yticks(ticks, names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(y + 0.05, 0)
        axes.spines["left"].set_visible(False)
        _ratio_axis(axes, extent)
        axes.set_xlabel("times as good as the reference, log scale (right is better)")
        handles = [
            axes.plot([], [], marker(colours[label]), color=light(colours[label]))[0] for label in variants
        ]
        failed = {item.variant for item in run.conformance if item.failed}
        legend(
            figure,
            handles,
            [short(label) + (" (fails conformance)" if label in failed else "") for label in variants],
        )
        better = sum(s.verdict == "faster" for case in cases for s in ranked(run, case))
        worse = sum(s.verdict == "slower" for case in cases for s in ranked(run, case))
        return picture(
            figure,
            f"ranking-{family}" + (f"-{number + 1}" if number else ""),
            f"Forest plot of the {family} variants against the reference in {len(cases)} cases: "
            f"{better} comparisons better, {worse} worse, the others indistinguishable.",
            "Ratio to the reference with its 95% interval, turned so that right is always better (where less is "
            "better, reference ÷ variant). The grey band is the A/A noise of the case; hollow grey marks are "
            "indistinguishable from the reference, or could not be compared.",
        )


def _heading(case: Case, same: set[str]) -> list[tuple[str, str]]:
    """Lines with their weights: what the rows are, and what they have in common."""
    common = words.params({key: value for key, value in case.params.items() if key in same})
    better = {"higher": "more is better", "lower": "less is better"}.get(case.better, "")
    about = ", ".join(filter(None, (case.unit, better, f"all with {common}" if common else "")))
    return [(f"{case.title or case.workload}: {words.counted(case)}", "bold"), (about, "normal")]


def _whisker(axes: Axes, y: float, case: Case, summary: Summary, colour: str) -> list[float | None]:
    values = [summary.ratio, summary.ratio_low, summary.ratio_high]
    turned = [1 / v if v and case.better == "lower" else v for v in values]
    value, low, high = turned
    if value is None:
        return []
    clear = summary.verdict in {"faster", "slower"}
    shown = light(colour if clear else "faint")
    if low and high:
        axes.plot([low, high], [y, y], color=shown, linewidth=1.3, zorder=2)
    axes.plot(
        [value],
        [y],
        marker(colour),
        color=shown,
        markerfacecolor=shown if clear else light("paper"),
        zorder=3,
    )
    return turned


def bars(run: Run, suite: str, colours: dict[str, str], title: str) -> Picture | None:
    """One panel a case of ``suite``: absolute rates of every variant and peer, the best on top."""
    cases = [
        case
        for case in run.cases
        if case.suite == suite and case.better == "higher" and any(s.case == case.id for s in run.summaries)
    ]
    if not cases:
        return None
    cases = cases[:12]
    rows = {case.id: _sorted(run, case) for case in cases}
    same = words.constants([case.params for case in cases])
    common = words.params({key: value for key, value in cases[0].params.items() if key in same})
    columns = min(2, len(cases))
    lines = [cases[at : at + columns] for at in range(0, len(cases), columns)]
    heights = [max(len(rows[case.id]) for case in line) * 0.2 + 0.78 for line in lines]
    with sheet(sum(heights) + 0.15, WIDTH) as figure:
        panels = grid(figure, len(cases), columns, height_ratios=heights)
        for axes, case in zip(panels, cases, strict=True):
            _bar_panel(axes, case, rows[case.id], colours, same)
        return picture(
            figure,
            suite,
            f"Bar charts of {title.lower()} in {len(cases)} cases; the best of each: "
            + "; ".join(
                f"{words.params(case.params) or case.metric}: {short(rows[case.id][0].variant)}"
                for case in cases
            ),
            "Medians over fresh processes, whiskers are 95% intervals. Muted colours are other products, "
            "measured in the same run. An interval that reaches the edge goes on behind it."
            + (f" All panels: {common}." if common else ""),
        )


def _sorted(run: Run, case: Case) -> list[Summary]:
    own = [s for s in run.summaries if s.case == case.id and s.role != "control"]
    return sorted(own, key=lambda s: s.median, reverse=case.better == "higher")


def _bar_panel(axes: Axes, case: Case, rows: list[Summary], colours: dict[str, str], same: set[str]) -> None:
    scale = numbers.scale_for([s.median for s in rows], case.unit)
    longest = max((s.median for s in rows), default=1.0) / scale.divisor
    # one interval of two processes would make all bars short: it is cut at the panel's edge
    right = min(max((max(s.high or 0, s.median) for s in rows), default=1.0) / scale.divisor, 1.8 * longest)
    for place, summary in enumerate(rows):
        colour = light(colours[summary.variant])
        axes.barh(place, summary.median / scale.divisor, height=0.62, color=colour, linewidth=0)
        end = summary.median / scale.divisor
        if summary.low is not None and summary.high is not None:
            end = max(end, min(summary.high / scale.divisor, right))
            axes.plot([summary.low / scale.divisor, end], [place, place], color=light("ink"), linewidth=1)
        axes.annotate(
            scale.text(summary.median),
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=light("muted"),
        )
    axes.set_yticks(range(len(rows)), [short(s.variant) for s in rows])
    axes.tick_params(axis="y", length=0, labelcolor=light("ink"))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, right * 1.14)
    axes.set_title("\n".join(filter(None, (case.title, words.params(case.params, same)))) or case.workload)
    axes.set_xlabel(f"{words.counted(case)}, {scale.unit}")
    axes.grid(axis="x")
