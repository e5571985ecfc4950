"""What commands print: JSON for machines, tables and text for people."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

import click


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def print_json(*values: Any) -> None:
    """JSON, one value a line, all in one write."""
    click.echo("\n".join(json.dumps(value, ensure_ascii=False) for value in values))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Columns as wide as they need to be; numbers to the right, with thousands separated on a terminal."""
    grouped = "," if is_terminal() else ""
    cells = [[f"{cell:{grouped}}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(titles))]
    widths = [max(len(line[i]) for line in (titles, *cells)) for i in range(len(titles))]

    def line(texts: Sequence[str]) -> str:
        padded = zip(texts, widths, numeric, strict=True)
        return "  ".join(
            text.rjust(width) if right else text.ljust(width) for text, width, right in padded
        ).rstrip()

    click.echo(click.style(line(titles), bold=True))
    for row in cells:
        click.echo(line(row))


def jsonable(name: str, data: bytes | str | None) -> dict[str, str | None]:
    """``{name: text}``, or ``{name_base64: …}`` for bytes that are no UTF-8 text."""
    if not isinstance(data, bytes):
        return {name: data}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def printable(data: bytes) -> str:
    """Bytes as one line for a terminal: what could move its cursor, or is no text, is escaped."""
    text = data.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)
