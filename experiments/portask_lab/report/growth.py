"""Figures over something that grows: latency over the rate; throughput and latency over connections, topics, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from portask_lab.report import numbers
from portask_lab.report.colours import light
from portask_lab.report.document import Picture
from portask_lab.report.drawing import decimal_log, grid, legend, marker, picture, sheet, short
from portask_lab.results import Case, Run, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES = {
    "connections": "idle connections beside",
    "topics": "topics",
    "subscribers": "subscribers",
    "size": "bytes a message",
    "workers": "broker processes",
}
"""Parameter of a case → what grows."""
_PANEL = 2.55


class _Panel(NamedTuple):
    title: str
    across: str
    up: str
    unit: str
    lines: dict[str, list[tuple[float, Summary]]]


def latency_over_rate(run: Run, colours: Mapping[str, str], mark: float | None) -> Picture | None:
    """P50 and p99 over the rate, for the constant schedule; rates that are not the same for all are left out."""
    panels = []
    for metric in ("p50", "p99"):
        cases = [
            case
            for case in run.cases
            if (case.suite, case.workload, case.metric) == ("latency", "network.latency", metric)
            and isinstance(case.params.get("rate"), int | float)
            and case.params.get("schedule", "constant") == "constant"
        ]
        lines = _lines(run, cases, "rate")
        if _grows(lines):
            panels.append(_Panel(f"{metric} over the rate", "msg/s", f"{metric}, µs", "µs", lines))
    return _drawn(
        panels,
        colours,
        "latency-rate",
        "Latency over the rate, lean generator, constant schedule: medians over fresh processes, whiskers are 95% "
        "intervals. A rate at which a variant has no point was void for it: see the void measurements.",
        mark,
    )


def scaling(run: Run, colours: Mapping[str, str]) -> Picture | None:
    """Throughput and p99 over each thing that grew, a row each."""
    panels = []
    for axis, words in _AXES.items():
        for workload, metric, up in (
            ("network.scaling", "bytes" if axis == "size" else "rate", "throughput"),
            ("network.scaling_latency", "p99", "p99 at 1,000 msg/s, µs"),
        ):
            cases = [
                case
                for case in run.cases
                if (case.workload, case.metric) == (workload, metric) and axis in case.params
            ]
            lines = _lines(run, cases, axis)
            if _grows(lines):
                panels.append(_Panel(f"over {words}", words, up, cases[0].unit, lines))
    void = sum(item.suite == "scaling" for item in run.voids)
    missing = f" {void} measurements were void and are no points: their reasons are below." if void else ""
    return _drawn(
        panels,
        colours,
        "scaling",
        "Left: throughput, counted at the consumers, in a closed loop of 100 messages a publish. Right: the "
        "slowest hundredth at 1,000 msg/s, in an open loop. Medians over fresh processes, whiskers are 95% intervals."
        + missing,
        None,
    )


def _lines(run: Run, cases: Sequence[Case], axis: str) -> dict[str, list[tuple[float, Summary]]]:
    places = {case.id: float(case.params[axis] or 0) for case in cases}
    found: dict[str, list[tuple[float, Summary]]] = {}
    for summary in run.summaries:
        if summary.case in places and summary.role not in {"control", "peer"}:
            found.setdefault(summary.variant, []).append((places[summary.case], summary))
    return {label: sorted(points, key=lambda point: point[0]) for label, points in sorted(found.items())}


def _grows(lines: Mapping[str, list[tuple[float, Summary]]]) -> bool:
    return len({at for points in lines.values() for at, _ in points}) > 1


def _drawn(
    panels: Sequence[_Panel], colours: Mapping[str, str], name: str, caption: str, mark: float | None
) -> Picture | None:
    if not panels:
        return None
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    with sheet(0.5 + _PANEL * -(-len(panels) // 2)) as figure:
        for axes, panel in zip(grid(figure, len(panels), min(2, len(panels))), panels, strict=True):
            _draw(axes, panel, colours, mark)
        first = figure.axes[0]
        handles = [
            first.plot([], [], f"{marker(colours[label])}-", color=light(colours[label]))[0]
            for label in labels
        ]
        legend(figure, handles, [short(label) for label in labels], columns=5)
        return picture(
            figure,
            name,
            f"Lines of {', '.join(short(label) for label in labels)} in {len(panels)} panels: "
            + "; ".join(f"{panel.up} {panel.title}" for panel in panels)
            + ".",
            caption,
        )


def _draw(axes: Axes, panel: _Panel, colours: Mapping[str, str], mark: float | None) -> None:
    every = [point for points in panel.lines.values() for point in points]
    scale = numbers.scale_for([max(summary.median for _, summary in every)], panel.unit)
    timed = panel.unit == "µs"
    divisor = 1.0 if timed else scale.divisor
    for label, points in panel.lines.items():
        colour = light(colours[label])
        axes.plot(
            [at for at, _ in points],
            [summary.median / divisor for _, summary in points],
            f"{marker(colours[label])}-",
            color=colour,
            markersize=4,
        )
        for at, summary in points:
            if summary.low is not None and summary.high is not None:
                ends = [max(summary.low, summary.median / 3), min(summary.high, summary.median * 3)]
                axes.plot([at, at], [end / divisor for end in ends], color=colour, linewidth=0.8)
    if timed:
        axes.set_yscale("log")
        decimal_log(axes)
    else:
        axes.set_ylim(0)
    axes.set_xscale("log")
    places = sorted({at for at, _ in every})
    axes.set_xticks(places, [f"{at:,.10g}" for at in places])
    axes.set_xticks([], minor=True)
    if mark and timed:
        axes.axhline(mark, color=light("muted"), linewidth=0.8)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.up if timed else f"{panel.up}, {scale.unit}")
    axes.grid(axis="both")
