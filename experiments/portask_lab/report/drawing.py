"""The sheet that every picture is drawn on: type, rules, margins, and how it becomes SVG.

Text stays text (the reader's own sans-serif, selectable, sharp at any size). Nothing is drawn that carries no
information: no box around a plot, no ticks where grid lines are, no legend where a label fits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from portask_lab.report.colours import adapt, light
from portask_lab.report.document import Picture

if TYPE_CHECKING:  # matplotlib takes most of a second to import: only those who draw pay for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.8
"""Inches: 750 CSS pixels, the text column of the page."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "portask",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8.5,
    "axes.edgecolor": light("faint"),
    "axes.labelcolor": light("muted"),
    "axes.titlecolor": light("ink"),
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": light("ink"),
    "xtick.color": light("faint"),
    "ytick.color": light("faint"),
    "xtick.labelcolor": light("muted"),
    "ytick.labelcolor": light("muted"),
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": light("rule"),
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.5,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "lines.markersize": 4.5,
    "path.simplify": True,
}


@contextmanager
def sheet(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure in this style; everything that is drawn on it belongs inside the ``with``."""
    import matplotlib as mpl  # noqa: PLC0415 - see above
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    with mpl.rc_context():
        parameters: Any = mpl.rcParams  # some versions of matplotlib type every single key
        parameters.update(mpl.rcParamsDefault)  # the user's own matplotlibrc must not bend our pictures
        parameters.update(_STYLE)
        engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.05, hspace=0.06)
        figure = Figure(figsize=(width, height), layout=engine)
        FigureCanvasAgg(figure)
        yield figure


def picture(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """The finished figure as a `Picture`. Call it inside the ``with sheet()``."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("'DejaVu Sans'", _FONT).replace("'DejaVu Sans', sans-serif", _FONT)
    svg = re.sub(r"\n\s*", "\n", svg)
    width, height = figure.get_size_inches()
    return Picture(name, alt, caption, adapt(svg), round(width * 96), round(height * 96))


def marker(colour: str) -> str:
    """The mark that goes with a colour's name: colour is never the only difference between two variants."""
    number = colour[1:]
    return _MARKERS[(int(number) - 1) % len(_MARKERS)] if number.isdigit() else "o"


def grid(figure: Figure, panels: int, columns: int, **options: Any) -> list[Axes]:
    """``panels`` axes in reading order; the rest of the last row stays empty."""
    rows = -(-panels // columns)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return list(axes[:panels])


def decimal_log(axes: Axes) -> None:
    """Plain numbers on the axis that is logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - drawn only here

    axis = axes.xaxis if axes.get_xscale() == "log" else axes.yaxis
    low, high = axis.get_view_interval()
    subs = (1.0,) if high / low > 1e3 else (1.0, 3.0) if high / low > 60 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 0) -> None:
    """One legend above all panels."""
    if not handles:
        return
    columns = columns or min(len(labels), 6)
    # matplotlib fills column by column; people read row by row
    order = [at for column in range(columns) for at in range(column, len(labels), columns)]
    figure.legend(
        [handles[at] for at in order],
        [labels[at] for at in order],
        loc="outside upper left",
        ncols=columns,
        borderaxespad=0.2,
    )


def spread(wanted: Iterable[float], gap: float) -> list[float]:
    """Positions close to ``wanted`` (ascending) but at least ``gap`` apart: labels that do not overlap."""
    placed: list[list[float]] = []
    for position in wanted:
        placed.append([position])
        while len(placed) > 1 and _low(placed[-1], gap) < _high(placed[-2], gap):
            last = placed.pop()
            placed[-1] += last
    return [_low(group, gap) + gap * (at + 0.5) for group in placed for at in range(len(group))]


def _low(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * len(group) / 2


def _high(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * len(group) / 2


def short(label: str) -> str:
    """``name`` of ``family/name``; peers, floors and ceilings keep their kind in words."""
    kind, _, name = label.partition("/")
    return {"floor": f"{name} (floor)", "ceiling": f"{name} (ceiling)"}.get(kind, name or kind)
