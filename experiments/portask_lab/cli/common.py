"""What the lab's commands share: naming variants and runs, and tables on a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from portask import registry
from portask.cli.output import is_terminal
from portask.contracts import FAMILIES
from portask.errors import PortaskError, UnknownVariant, VariantUnavailable
from portask.registry import Entry

LATEST = "latest"
_COLOURS = {"pass": "green", "fail": "red", "doubt": "yellow"}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def needs(*modules: str) -> None:
    """Says the pip line when a library of the lab is missing.

    Raises:
        VariantUnavailable: it is.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise VariantUnavailable(f"this needs {', '.join(missing)}: pip install 'portask[lab]'")


def reports_option(command: _Command) -> _Command:
    """``--reports``: where runs are kept."""
    return click.option(
        "--reports",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("reports"),
        show_default=True,
        envvar="PORTASK_REPORTS",
        help="Folder in which runs are kept.",
    )(command)


def json_option(command: _Command) -> _Command:
    """``--json``: for machines."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def run_directory(name: str, reports: Path) -> Path:
    """The directory of a run: ``latest``, the id of one in ``reports``, or a path.

    Raises:
        PortaskError: there is none; the text lists the newest ones.
    """
    for candidate in (reports / name, Path(name)):
        if (candidate / "results.json").is_file():
            return candidate
        if candidate.is_file() and candidate.name == "results.json":
            return candidate.parent
    known = sorted((path.parent.name for path in reports.glob("*/results.json")), reverse=True)
    known = [run for run in known if run != LATEST]
    there = f"there are: {', '.join(known[:5])}" if known else "there is none yet: portask lab run"
    raise PortaskError(f"no run {name!r} in {reports}/; {there}")


def find_variant(name: str) -> Entry:
    """The variant called ``family/name``, or ``name`` where only one family has it.

    Raises:
        UnknownVariant: there is none, or more than one.
    """
    family, slash, rest = name.partition("/")
    if slash:
        if family not in FAMILIES:
            raise UnknownVariant(f"there is no family {family!r}; the families are {', '.join(FAMILIES)}")
        return registry.get(family, rest)
    found = [entry for entry in registry.entries() if entry.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownVariant(f"{name!r} is ambiguous; say which: {', '.join(entry.label for entry in found)}")
    import difflib  # noqa: PLC0415 - for typing errors only

    close = difflib.get_close_matches(name, {entry.name for entry in registry.entries()}, 3, 0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UnknownVariant(f"there is no variant {name!r}; {hint}portask lab variants lists them all")


def paint(text: str, tone: str) -> str:
    """Text in the colour of what it means; click takes colours off when nobody sees them."""
    if tone == "muted":
        return click.style(text, dim=True)
    return click.style(text, fg=_COLOURS[tone]) if tone in _COLOURS else text


def show_table(
    heads: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], numbers: Sequence[int] = ()
) -> None:
    """Prints aligned columns of (text, tone); the last one is wrapped to the terminal's width."""
    texts = [[text for text, _ in row] for row in rows]
    widths = [max(len(line[at]) for line in (heads, *texts)) for at in range(len(heads))]
    left = sum(widths[:-1]) + 2 * (len(widths) - 1)
    # a line that a program reads must stay a line
    room = max(shutil.get_terminal_size().columns - left, 24) if is_terminal() else 10_000

    def fit(text: str, at: int) -> str:
        return text.rjust(widths[at]) if at in numbers else text.ljust(widths[at])

    click.echo(click.style("  ".join(fit(head, at) for at, head in enumerate(heads)).rstrip(), bold=True))
    for row in rows:
        lines = textwrap.wrap(row[-1][0], room, break_on_hyphens=False) or [""]
        cells = [paint(fit(text, at), tone) for at, (text, tone) in enumerate(row[:-1])]
        click.echo("  ".join([*cells, paint(lines[0], row[-1][1])]).rstrip())
        for line in lines[1:]:
            click.echo(" " * left + paint(line, row[-1][1]))
