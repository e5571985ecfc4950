"""What long work shows meanwhile: a bar with the time left on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Show = Callable[[str, float, float], None]
"""``show(text, done, left)``: what goes on, the share that is over, and the seconds left."""


@contextmanager
def watching(*, quiet: bool) -> Iterator[Show]:
    """Shows progress on stderr while the block runs; nothing when ``quiet``."""
    if quiet or not sys.stderr.isatty():
        yield _silent if quiet else _lines()
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (
        BarColumn(bar_width=28, complete_style="default", finished_style="default"),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[left]:>6} left  {task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("starting", total=1.0, left="")

        def show(text: str, done: float, left: float) -> None:
            bars.update(bar, completed=done, description=text, left=clock(left))

        yield show


def clock(seconds: float) -> str:
    """``3:12``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes}:{rest:02d}"


def _silent(text: str, done: float, left: float) -> None:
    """For machines."""


def _lines() -> Show:
    stage = ""
    start = time.monotonic()

    def show(text: str, done: float, left: float) -> None:
        nonlocal stage
        now = text.partition(":")[0]
        if now != stage and done < 1:
            stage = now
            click.echo(f"{clock(time.monotonic() - start)} {stage}, about {clock(left)} left", err=True)

    return show
