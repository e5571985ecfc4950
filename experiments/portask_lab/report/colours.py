"""One colour a variant, the same in every picture and table of a report.

The series colours are Okabe and Ito's, which stay apart for colour-blind readers, shifted in lightness for dark
backgrounds. Pictures are drawn with the light values; `adapt` turns every one of them into a CSS variable and puts
both palettes into the picture, which then follows the reader's light or dark setting by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from portask.contracts import FAMILIES
from portask_lab.results import Run

COLOURS = {
    "ink": ("#1c1e21", "#e8eaed"),
    "muted": ("#62666d", "#a3a8b0"),
    "faint": ("#b4b8be", "#5c6169"),
    "rule": ("#dcdfe3", "#33373d"),
    "band": ("#eceef1", "#25292e"),
    "paper": ("#fefefe", "#15171a"),
    "pass": ("#1a7f4b", "#4fc487"),
    "fail": ("#b3261e", "#ff8a80"),
    "doubt": ("#8a6100", "#e3b341"),
    "reference": ("#3b3f45", "#cfd3d9"),
    "s1": ("#0072b2", "#4aa8e0"),
    "s2": ("#d55e00", "#f58a3c"),
    "s3": ("#009e73", "#2fc79b"),
    "s4": ("#c9609a", "#e08dbb"),
    "s5": ("#2f9fd6", "#7fd0f7"),
    "s6": ("#c98a00", "#f0bb45"),
    "s7": ("#7257a8", "#ab93de"),
    "s8": ("#7a5230", "#c79a72"),
    "p1": ("#5a7d9a", "#8fb2cf"),
    "p2": ("#a2635a", "#d1978e"),
    "p3": ("#6d8b4e", "#a3c182"),
    "p4": ("#8d7b9c", "#bdabcc"),
    "p5": ("#3f8581", "#84c2bd"),
    "p6": ("#94763a", "#cbb074"),
    "p7": ("#8f5f86", "#c99dc1"),
    "p8": ("#5a6d8f", "#9aaccd"),
}
"""Name → (light, dark). All light values differ: that is how `adapt` knows them."""

_SERIES = tuple(name for name in COLOURS if re.fullmatch(r"s\d", name))
_PEERS = tuple(name for name in COLOURS if re.fullmatch(r"p\d", name))
_BY_LIGHT = {light: name for name, (light, _) in COLOURS.items()}


def light(name: str) -> str:
    """The colour on a light background, ``#rrggbb``."""
    return COLOURS[name][0]


def assign(run: Run) -> dict[str, str]:
    """Label → name of a colour. References share one dark neutral; within a family no other colour comes twice."""
    labels = sorted(_labels(run))
    references = {summary.variant for summary in run.summaries if summary.role == "reference"}
    chosen: dict[str, str] = {}
    for family in (*FAMILIES, "peer"):
        mine = [label for label in labels if label.startswith(f"{family}/") and "#" not in label]
        palette = _PEERS if family == "peer" else _SERIES
        others = [label for label in mine if label not in references]
        chosen.update({label: palette[place % len(palette)] for place, label in enumerate(others)})
        chosen.update({label: "reference" for label in mine if label in references})
    return {label: chosen.get(label, "muted") for label in labels}


def _labels(run: Run) -> set[str]:
    groups: tuple[Iterable[str], ...] = (
        (item.variant for item in run.summaries),
        (item.variant for item in run.curves),
        (item.variant for item in run.points),
        (item.variant for item in run.memory),
        (item.variant for item in run.traces),
        (item.variant for item in run.conformance),
        (item.variant for item in run.winners if item.variant),
    )
    return {label for group in groups for label in group}


def variables(dark: bool) -> str:
    """CSS custom properties of one palette."""
    return ";".join(f"--{name}:{values[int(dark)]}" for name, values in COLOURS.items())


def adapt(svg: str) -> str:
    """The picture with its colours as variables that follow the reader's light or dark setting."""
    svg = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var(--{_BY_LIGHT[found[0]]})" if found[0] in _BY_LIGHT else found[0],
        svg,
    )
    style = f":root{{{variables(False)}}}@media(prefers-color-scheme:dark){{:root{{{variables(True)}}}}}"
    head, mark, rest = svg.partition("<defs>")
    return f"{head}<style>{style}</style>{mark}{rest}"
