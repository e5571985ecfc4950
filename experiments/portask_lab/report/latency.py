"""Latency distributions: by percentile as pictures and as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.colours import light
from portask_lab.report.document import Cell, Picture, Table
from portask_lab.report.drawing import decimal_log, grid, legend, picture, sheet, short
from portask_lab.report.tables import columns, variant
from portask_lab.results import Curve, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTILES = (50, 90, 99, 99.9, 99.99, 99.999)
_ROLE_LINES = {"peer": (0, (4, 2)), "floor": (0, (1, 1.5)), "ceiling": (0, (1, 1.5))}


def percentiles(run: Run, colours: dict[str, str], mark: float | None) -> list[Picture]:
    """Latency by percentile, a panel for each way of driving and load; the axis stretches towards the tail."""
    panels: dict[tuple[str, float, str], list[Curve]] = {}
    for curve in sorted(run.curves, key=lambda curve: (curve.rate, curve.schedule)):
        if len(curve.values) > 1 and curve.role != "control":
            panels.setdefault((driving(run, curve), curve.rate, curve.schedule), []).append(curve)
    if not panels:
        return []
    curves = [curve for own in panels.values() for curve in own]
    roles = {c.variant: c.role for c in sorted(curves, key=lambda c: (c.role == "peer", c.role, c.variant))}
    wide = min(2, len(panels))
    with sheet(0.55 + 3.2 * -(-len(panels) // wide)) as figure:
        every = grid(figure, len(panels), wide, sharey=True)
        for axes, ((title, rate, schedule), own) in zip(every, panels.items(), strict=True):
            _percentile_panel(axes, own, colours, mark)
            axes.set_title("\n".join(filter(None, (title, words.load(rate, schedule)))))
        handles = [
            every[0].plot([], [], color=light(colours[label]), linestyle=_ROLE_LINES.get(role, "-"))[0]
            for label, role in roles.items()
        ]
        legend(figure, handles, [short(label) for label in roles], columns=5)
        best = min(
            (c for c in curves if c.role in {"variant", "reference"}), key=lambda c: _at(c, 99), default=None
        )
        tail = (
            f" Lowest p99 of a broker variant: {short(best.variant)}, {_at(best, 99):,.0f} µs."
            if best
            else ""
        )
        return [
            picture(
                figure,
                "latency-percentiles",
                f"Latency by percentile in {len(panels)} panels for "
                f"{', '.join(short(label) for label in roles)}.{tail}",
                "From the intended send time to the receipt (open loop). The percentile axis stretches "
                "towards the tail: from one grid line to the next, a tenth of the messages remains. Dashed lines are "
                "other products, the dotted line is a raw two-hop relay.",
            )
        ]


def _at(curve: Curve, percentile: float) -> float:
    pairs = zip(curve.percentiles, curve.values, strict=True)
    return next((value for at, value in pairs if at >= percentile), curve.values[-1])


def _nines(percentile: float, count: int) -> float:
    """How many nines: 90 → 1, 99 → 2. The maximum is drawn where the count of messages puts it."""
    return -math.log10(max(1 - percentile / 100, 1 / max(count, 2)))


def _percentile_panel(axes: Axes, curves: list[Curve], colours: dict[str, str], mark: float | None) -> None:
    axes.set_yscale("log")
    right = 1.0
    for curve in curves:
        xs = [_nines(at, curve.count) for at in curve.percentiles]
        right = max(right, *xs)
        axes.plot(
            xs,
            curve.values,
            color=light(colours[curve.variant]),
            linestyle=_ROLE_LINES.get(curve.role, "-"),
            zorder=2 if curve.role == "floor" else 3,
        )
    if mark:
        axes.axhline(mark, color=light("muted"), linewidth=0.8)
        axes.annotate(
            f"{mark:g} µs",
            (1, mark),
            (-2, -2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=light("muted"),
        )
    shown = [at for at in _PERCENTILES if _nines(at, 10**9) <= right + 0.05]
    axes.set_xticks([_nines(at, 10**9) for at in shown], [f"{at:g}%" for at in shown])
    axes.set_xlim(0, right * 1.02)
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency, µs")
    decimal_log(axes)
    axes.grid(axis="both")


def distributions(run: Run) -> Table | None:
    """Latency percentiles of every curve, a group a way of driving and load; the void ones without a curve, too."""
    groups: dict[tuple[str, float, str], list[tuple[float, tuple[Cell, ...]]]] = {}
    titles = {case.workload: case.title for case in run.cases}
    for curve in run.curves:
        shown = (numbers.plain(at_percentile(curve, share), 1) for share in (50, 90, 99, 99.9, 100))
        row = (variant(curve.variant), *map(Cell, shown), Cell(f"{curve.count:,}"))
        place = at_percentile(curve, 50) or math.inf
        groups.setdefault((driving(run, curve), curve.rate, curve.schedule), []).append((place, row))
    drawn = {(curve.variant, driving(run, curve), curve.rate, curve.schedule) for curve in run.curves}
    for item in run.voids:
        rate, schedule = item.params.get("rate"), str(item.params.get("schedule", ""))
        if item.suite != "latency" or not isinstance(rate, int | float):
            continue
        load = (titles.get(item.workload, item.workload), float(rate), schedule)
        if (item.variant, *load) not in drawn:
            drawn.add((item.variant, *load))
            row = (variant(item.variant), *[Cell("–")] * 5, Cell("void", "doubt"))
            groups.setdefault(load, []).append((math.inf, row))
    if not groups:
        return None
    rows = []
    for (title, rate, schedule), members in sorted(groups.items(), key=lambda group: group[0][1:]):
        for number, (_, row) in enumerate(sorted(members, key=lambda member: member[0])):
            load_text = ", ".join(filter(None, (title, words.load(rate, schedule))))
            rows.append((Cell("" if number else load_text, "strong"), *row))
    return Table(
        "End-to-end latency, µs from the intended send time to the receipt; a percentile with fewer than ten messages "
        "above it is not printed",
        columns("Load", "Variant", "p50#", "p90#", "p99#", "p99.9#", "Largest#", "Messages#"),
        tuple(rows),
    )


def driving(run: Run, curve: Curve) -> str:
    """How the load of a curve was made, in words: its case's title."""
    return next((case.title for case in run.cases if case.id == curve.case), "")


def at_percentile(curve: Curve, percentile: float) -> float | None:
    """The curve's value there; ``None`` beyond what its messages support (ten must lie above a percentile)."""
    if percentile < 100 and curve.count * (1 - percentile / 100) < 10:
        return None
    return next(
        (v for p, v in zip(curve.percentiles, curve.values, strict=True) if p >= percentile - 1e-9), None
    )
