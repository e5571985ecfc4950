"""The verdict table, as a run ends with it."""

from __future__ import annotations

import click

from portask_lab.cli.common import show_table
from portask_lab.report import tickets, verdicts
from portask_lab.results import Run


def show_verdicts(run: Run) -> None:
    """Prints what overshadows the run, then the criteria, each judged on its best variant; missed ones as missed."""
    if not run.complete:
        click.secho("this run is not complete: do not choose by it", fg="yellow")
    for warning in tickets.warnings(run):
        click.secho(warning, fg="yellow")
    table = verdicts.verdicts(run)
    if not table.rows:
        click.secho("no criterion was judged", fg="yellow")
        return
    heads = [column.name.upper() for column in table.columns]
    numbers = [at for at, column in enumerate(table.columns) if column.number]
    show_table(heads, [[(cell.text, cell.tone) for cell in row] for row in table.rows], numbers)
    click.echo()
    for item in verdicts.headlines(run):
        if item.explanation:
            click.secho(f"{item.title}: {item.explanation}", dim=True)
