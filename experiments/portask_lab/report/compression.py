"""Compression: the trade-off of size against speed, and what a strategy chose over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from portask_lab import words
from portask_lab.report import numbers
from portask_lab.report.colours import light
from portask_lab.report.document import Cell, Picture, Table, Tone
from portask_lab.report.drawing import decimal_log, grid, legend, marker, picture, sheet, short
from portask_lab.report.tables import columns, variant
from portask_lab.results import Point, Run, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pareto(run: Run, colours: dict[str, str]) -> Picture | None:
    """Compression ratio against speed, a panel per corpus, with the front and the ceiling."""
    points = [point for point in run.points if point.plot == "compression" and point.x > 0]
    known = [corpus.name for corpus in run.corpora]
    corpora = sorted(
        {_corpus(point) for point in points},
        key=lambda name: (name not in known, known.index(name) if name in known else 0, name),
    )
    if not corpora:
        return None
    variants = sorted({point.variant for point in points if point.role not in {"ceiling", "floor"}})
    columns = min(2, len(corpora))
    with sheet(0.5 + 2.75 * -(-len(corpora) // columns)) as figure:
        panels = grid(figure, len(corpora), columns)
        for axes, corpus in zip(panels, corpora, strict=True):
            _pareto_panel(axes, corpus, [point for point in points if _corpus(point) == corpus], colours)
        handles = [
            panels[0].plot([], [], marker(colours[label]), color=light(colours[label]))[0]
            for label in variants
        ]
        legend(figure, handles, [short(label) for label in variants], columns=7)
        fronts = sorted({short(point.variant) for point in points if point.front})
        return picture(
            figure,
            "compression-pareto",
            f"Scatter plots of compression ratio against speed on {', '.join(corpora)}. "
            f"On the Pareto fronts: {', '.join(fronts) or 'none'}.",
            "Up is smaller, right is faster. Larger marks are larger batches; filled marks lie on the Pareto "
            "front of their batch size (the stepped lines): nothing else is better in both. The dotted line is a "
            "plain copy of the same bytes: who touches every byte cannot pass it. Marks on the right edge left the "
            "batch as it was, which costs next to nothing. Bars are 95% intervals.",
        )


def _corpus(point: Point) -> str:
    return str(point.params.get("corpus", ""))


def _batch(point: Point) -> float:
    for key in ("batch", "batch_bytes", "size", "bytes"):
        value = point.params.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return 0.0


def _pareto_panel(axes: Axes, corpus: str, points: list[Point], colours: dict[str, str]) -> None:
    axes.set_xscale("log")
    ceilings = sorted({point.x for point in points if point.role == "ceiling"})
    rest = [point for point in points if point.role not in {"ceiling", "floor"}]
    sizes = sorted({_batch(point) for point in points})
    # one that does nothing would stretch the axis until all that work look alike
    right = 1.6 * (max(ceilings) if ceilings else max(point.x for point in rest))
    left = min([*(point.x for point in rest), right / 20]) / 1.6
    top = max([*(point.y for point in rest), 1.5])
    for x in ceilings:
        axes.axvline(x, color=light("muted"), linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    if ceilings:
        axes.annotate(
            "plain copy",
            (ceilings[-1], 0.5),
            (-3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="center",
            rotation=90,
            fontsize=8,
            color=light("muted"),
        )
    for point in rest:
        colour, x = light(colours[point.variant]), min(point.x, right)
        if point.x_low is not None and point.x_high is not None and x < right:
            axes.plot(
                [max(point.x_low, left), min(point.x_high, right)],
                [point.y, point.y],
                color=colour,
                linewidth=1,
                zorder=2,
            )
        axes.plot(
            [x],
            [point.y],
            marker(colours[point.variant]),
            markersize=4.5 + 2 * sizes.index(_batch(point)),
            color=colour,
            markerfacecolor=colour if point.front else light("paper"),
            markeredgewidth=1.1,
            zorder=3,
            clip_on=False,
        )
    for size in sizes:
        front = sorted((min(p.x, right), p.y) for p in rest if p.front and _batch(p) == size)
        axes.step(
            [x for x, _ in front],
            [y for _, y in front],
            where="pre",
            color=light("faint"),
            linewidth=1,
            zorder=1,
        )
    axes.set_xlim(left, right)
    axes.set_ylim(min([0.9, *(point.y for point in rest)]) - 0.04 * top, top * 1.07)
    axes.set_title(corpus)
    axes.set_xlabel("compressing, MB/s of raw bytes")
    axes.set_ylabel("ratio, raw ÷ packed")
    decimal_log(axes)
    axes.grid(axis="both")


def table(run: Run) -> Table | None:
    """Compression points: ratio and both speeds."""
    points = [point for point in run.points if point.plot == "compression"]
    if not points:
        return None
    scale = numbers.Scale(1.0, "MB/s", 0)
    rows = []
    for point in sorted(
        points, key=lambda p: (str(p.params.get("corpus", "")), words.params(p.params), -p.x)
    ):
        front: tuple[str, Tone] = ("● front", "pass") if point.front else ("", "")
        rows.append(
            (
                Cell(words.params(point.params)),
                variant(point.variant),
                Cell(f"{point.y:.2f}×"),
                Cell(scale.text(point.x)),
                Cell(scale.interval(point.x_low, point.x_high) or "–"),
                Cell(scale.text(point.z)),
                Cell(*front),
            )
        )
    return Table(
        "Compression: ratio (raw ÷ packed) against speed, MB/s of raw bytes",
        columns(
            "Corpus and batch", "Variant", "Ratio#", "Compress#", "95% interval#", "Decompress#", "Pareto"
        ),
        tuple(rows),
        folded=True,
    )


def traces(run: Run, colours: dict[str, str]) -> list[Picture]:
    """Load, chosen level and achieved ratio, batch after batch; one picture a strategy."""
    return [_trace(trace, colours, number) for number, trace in enumerate(run.traces) if len(trace.time) > 1]


def _trace(trace: Trace, colours: dict[str, str], number: int) -> Picture:
    batches = range(len(trace.time))
    levels = sorted(set(trace.level), key=lambda level: (level != 0, level))
    starts = [at for at in batches if not at or trace.phase[at - 1] != trace.phase[at]]
    colour = light(colours[trace.variant])
    with sheet(3.3 + 0.16 * len(levels)) as figure:
        panels = figure.subplots(3, 1, sharex=True, height_ratios=(1, 0.5 + 0.22 * len(levels), 1))
        top, middle, bottom = panels
        load = [100 * value for value in trace.load]
        top.fill_between(batches, load, step="post", color=light("rule"), linewidth=0)
        top.step(batches, load, where="post", color=light("muted"), linewidth=1)
        top.set_ylim(0, 105)
        top.set_ylabel("load, %")
        # zstd's fast levels are negative: a row for each, in the order of effort, says it better than their numbers
        middle.step(batches, [levels.index(level) for level in trace.level], where="post", color=colour)
        middle.set_yticks(range(len(levels)), ["none" if level == 0 else f"{level:g}" for level in levels])
        middle.set_ylim(-0.4, len(levels) - 0.6)
        middle.set_ylabel("level chosen")
        gained = [
            raw / packed if packed else math.nan for raw, packed in zip(trace.raw, trace.packed, strict=True)
        ]
        bottom.step(batches, gained, where="post", color=colour)
        bottom.set_ylim(bottom=0)
        bottom.set_ylabel("raw ÷ packed")
        bottom.set_xlabel("batch")
        bottom.set_xlim(0, len(trace.time) - 1)
        for axes in panels:
            axes.grid(axis="y")
            for at in starts[1:]:
                axes.axvline(at, color=light("faint"), linewidth=0.7)
        for at in starts:
            top.annotate(
                trace.phase[at],
                (at, 1),
                (3, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=8,
                color=light("muted"),
            )
        figure.align_ylabels(list(panels))
        return picture(
            figure,
            "load-trace" + (f"-{number + 1}" if number else ""),
            f"Three aligned step plots over {len(trace.time)} batches for {trace.variant}: load, compression level "
            f"chosen ({len(levels)} different ones), and ratio achieved, through the phases "
            f"{', '.join(trace.phase[at] for at in starts)}.",
            f"What {trace.variant} chose, batch after batch, while the load changed. Levels are in the order of "
            "effort; with none a batch stays as it was.",
        )
