"""Memory of queued messages: lines over the queue length, and what they come to at 100,000."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask_lab.report.colours import light
from portask_lab.report.document import Cell, Picture, Table
from portask_lab.report.drawing import grid, picture, sheet, short, spread
from portask_lab.report.tables import columns, variant
from portask_lab.results import MemoryLine, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARK_BYTES = 10_000_000
_MARK_MESSAGES = 100_000


def slopes(run: Run, colours: dict[str, str]) -> Picture | None:
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
            "fresh processes, the slope below the name is bytes a message. Dashed: the messages lie in files, "
            "which the kernel caches and which are nobody's private memory. The cross marks 100,000 messages in 10 MB.",
        )


def _memory_panel(axes: Axes, lines: list[MemoryLine], colours: dict[str, str]) -> None:
    right = max(max(line.messages) for line in lines) / 1e3
    top = max([*(max(line.growth) / 1e6 for line in lines), _MARK_BYTES / 1e6])
    ordered = sorted(lines, key=lambda line: line.growth[-1])
    heights = spread([line.growth[-1] / 1e6 for line in ordered], top * 0.13)
    for line, height in zip(ordered, heights, strict=True):
        colour = light(colours[line.variant])
        xs, ys = [n / 1e3 for n in line.messages], [b / 1e6 for b in line.growth]
        axes.plot(xs, ys, "o--" if line.held.startswith("in files") else "o-", color=colour, markersize=4)
        axes.annotate(
            f"{_kept_in(line)}\n{line.slope:,.1f} B/msg",
            (xs[-1], height),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )
    axes.axhline(_MARK_BYTES / 1e6, color=light("muted"), linewidth=0.8)
    axes.plot([100], [_MARK_BYTES / 1e6], "+", color=light("ink"), markersize=9, markeredgewidth=1.3)
    axes.annotate(
        "10 MB",
        (0, _MARK_BYTES / 1e6),
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
    """The variant, its durability where that is not ``memory``, and where the messages lie."""
    mode = "" if line.durability in {"", "memory"} else line.durability
    beside = ", ".join(filter(None, (mode, line.held)))
    return f"{short(line.variant)} ({beside})" if beside else short(line.variant)


def table(run: Run) -> Table | None:
    """Slope, growth, total and peak of every memory line."""
    if not run.memory:
        return None
    rows = []
    for line in sorted(run.memory, key=lambda line: (line.payload, line.slope)):
        place = next(
            (at for at, n in enumerate(line.messages) if n >= _MARK_MESSAGES), len(line.messages) - 1
        )
        rows.append(
            (
                variant(line.variant),
                Cell(line.durability or "–"),
                Cell(line.held or "unknown"),
                Cell(f"{line.payload} B"),
                Cell(f"{line.slope:,.1f}"),
                Cell("–" if line.held.startswith("in files") else f"{line.slope - line.payload:,.1f}"),
                Cell(f"{line.messages[place]:,}"),
                *(Cell(f"{series[place] / 1e6:,.2f}") for series in (line.growth, line.private, line.peak)),
            )
        )
    return Table(
        "Memory of queued messages: slope in bytes a message; growth, whole process and peak in MB",
        columns(
            "Variant",
            "Durability",
            "Messages held",
            "Payload#",
            "Slope#",
            "Over payload#",
            "At messages#",
            "Growth#",
            "Private#",
            "Peak RSS#",
        ),
        tuple(rows),
    )
