"""Pictures of shapes: trade-offs, distributions, slopes and what a strategy did over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from portask_lab.report.colours import light
from portask_lab.report.document import Picture
from portask_lab.report.drawing import grid, legend, marker, picture, sheet, short, spread
from portask_lab.results import Curve, MemoryLine, Point, Run, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTILES = (50, 90, 99, 99.9, 99.99, 99.999)
MARK_BYTES = 10_000_000
_ROLE_LINES = {"peer": (0, (4, 2)), "floor": (0, (1, 1.5)), "ceiling": (0, (1, 1.5))}


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
    _decimal_log(axes)
    axes.grid(axis="both")


def _decimal_log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - drawn only here

    axis = axes.xaxis if axes.get_xscale() == "log" else axes.yaxis
    low, high = axis.get_view_interval()
    subs = (1.0,) if high / low > 1e3 else (1.0, 3.0) if high / low > 60 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def percentiles(run: Run, colours: dict[str, str], mark: float | None) -> list[Picture]:
    """Latency by percentile, a panel per load; the axis stretches towards the tail."""
    curves = [curve for curve in run.curves if curve.valid and len(curve.values) > 1]
    loads = sorted({(curve.rate, curve.schedule) for curve in curves})
    if not loads:
        return []
    labels = list(
        dict.fromkeys(
            curve.variant for curve in sorted(curves, key=lambda c: (c.role == "peer", c.role, c.variant))
        )
    )
    columns = min(2, len(loads))
    with sheet(0.55 + 3.1 * -(-len(loads) // columns)) as figure:
        panels = grid(figure, len(loads), columns, sharey=True)
        for axes, load in zip(panels, loads, strict=True):
            own = [curve for curve in curves if (curve.rate, curve.schedule) == load]
            _percentile_panel(axes, load, own, colours, mark)
        handles = []
        for label in labels:
            role = next(curve.role for curve in curves if curve.variant == label)
            handles.append(
                panels[0].plot([], [], color=light(colours[label]), linestyle=_ROLE_LINES.get(role, "-"))[0]
            )
        legend(figure, handles, [short(label) for label in labels], columns=5)
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
                f"Latency by percentile at {len(loads)} loads for "
                f"{', '.join(short(label) for label in labels)}.{tail}",
                "From the intended send time to the receipt (open loop). The percentile axis stretches "
                "towards the tail: "
                "from one grid line to the next, a tenth of the messages remains. Dashed lines are other "
                "products, the dotted line is a raw two-hop relay.",
            )
        ]


def _at(curve: Curve, percentile: float) -> float:
    pairs = zip(curve.percentiles, curve.values, strict=True)
    return next((value for at, value in pairs if at >= percentile), curve.values[-1])


def _nines(percentile: float, count: int) -> float:
    """How many nines: 90 → 1, 99 → 2. The maximum is drawn where the count of messages puts it."""
    return -math.log10(max(1 - percentile / 100, 1 / max(count, 2)))


def _percentile_panel(
    axes: Axes, load: tuple[float, str], curves: list[Curve], colours: dict[str, str], mark: float | None
) -> None:
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
    rate, schedule = load
    axes.set_title(
        f"{rate:,.0f} msg/s{', ' + schedule if schedule else ''}" if rate else schedule or "unpaced"
    )
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency, µs")
    _decimal_log(axes)
    axes.grid(axis="both")


def memory(run: Run, colours: dict[str, str]) -> Picture | None:
    """Private bytes over queued messages, a panel per payload size, with the 10 MB mark."""
    lines = [line for line in run.memory if len(line.messages) > 1]
    payloads = sorted({line.payload for line in lines})
    if not payloads:
        return None
    columns = min(2, len(payloads))
    with sheet(0.4 + 3.0 * -(-len(payloads) // columns)) as figure:
        panels = grid(figure, len(payloads), columns)
        for axes, payload in zip(panels, payloads, strict=True):
            _memory_panel(axes, [line for line in lines if line.payload == payload], colours)
            axes.set_title(f"payloads of {payload} bytes")
        steepest = max(lines, key=lambda line: line.slope)
        return picture(
            figure,
            "memory-slopes",
            "Lines of private memory over queued messages for "
            f"{', '.join(_kept_in(line) for line in lines)}; "
            f"steepest: {_kept_in(steepest)} with {steepest.slope:,.1f} bytes a message.",
            "Growth of private memory (Private_Clean + Private_Dirty) since before the first message; "
            "each dot is a median over "
            "fresh processes, the slope beside the name is bytes a message. The cross marks 100,000 "
            "messages in 10 MB.",
        )


def _memory_panel(axes: Axes, lines: list[MemoryLine], colours: dict[str, str]) -> None:
    right = max(max(line.messages) for line in lines) / 1e3
    top = max([*(max(line.growth) / 1e6 for line in lines), MARK_BYTES / 1e6])
    ordered = sorted(lines, key=lambda line: line.growth[-1])
    heights = spread([line.growth[-1] / 1e6 for line in ordered], top * 0.065)
    for line, height in zip(ordered, heights, strict=True):
        colour = light(colours[line.variant])
        xs, ys = [n / 1e3 for n in line.messages], [b / 1e6 for b in line.growth]
        axes.plot(xs, ys, "o-" if line.durability in {"", "memory"} else "o--", color=colour, markersize=4)
        axes.annotate(
            f"{_kept_in(line)}, {line.slope:,.1f} B/msg",
            (xs[-1], height),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )
    axes.axhline(MARK_BYTES / 1e6, color=light("muted"), linewidth=0.8)
    axes.plot([100], [MARK_BYTES / 1e6], "+", color=light("ink"), markersize=9, markeredgewidth=1.3)
    axes.annotate(
        "10 MB",
        (0, MARK_BYTES / 1e6),
        (3, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
        color=light("muted"),
    )
    axes.set_xlim(0, right * 1.02)
    axes.set_ylim(0, top * 1.1)
    axes.set_xlabel("queued messages, thousands")
    axes.set_ylabel("growth of private memory, MB")
    axes.grid(axis="both")


def _kept_in(line: MemoryLine) -> str:
    """The variant, and its durability where that is not ``memory``."""
    name = short(line.variant)
    return name if line.durability in {"", "memory"} else f"{name} ({line.durability})"


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
