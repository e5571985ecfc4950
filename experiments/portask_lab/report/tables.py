"""What all tables share: heads, and how a variant is named."""

from __future__ import annotations

from portask_lab.report.document import Cell, Column, Tone
from portask_lab.results import CONTROL_SUFFIX


def columns(*names: str) -> tuple[Column, ...]:
    """Heads; a trailing ``#`` marks numbers."""
    return tuple(Column(name.removesuffix("#"), name.endswith("#")) for name in names)


def variant(label: str, tone: Tone = "") -> Cell:
    """A variant's label in its colour; the A/A control says what it is."""
    if label.endswith(CONTROL_SUFFIX):
        return Cell(f"{label.removesuffix(CONTROL_SUFFIX)} (again: A/A)", "muted", code=True)
    return Cell(label or "–", tone, code=bool(label), swatch=label)
