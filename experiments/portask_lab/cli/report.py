"""``portask lab report``."""

from __future__ import annotations

from pathlib import Path

import click

from portask.cli.output import print_json
from portask_lab.cli.common import LATEST, json_option, needs, reports_option, run_directory
from portask_lab.cli.verdicts import show_verdicts


@click.command()
@click.argument("run", default=LATEST)
@reports_option
@json_option
def report(run: str, reports: Path, as_json: bool) -> None:
    """Write a run's report again from its results.

    RUN is "latest", the id of a run, or a path. Writes report.md, index.html and figures/ beside results.json.
    """
    needs("matplotlib")
    from portask_lab.report import TEXT, write  # noqa: PLC0415 - after needs
    from portask_lab.results import load  # noqa: PLC0415

    directory = run_directory(run, reports)
    page = write(directory)
    if as_json:
        print_json(
            {"page": str(page), "text": str(page.with_name(TEXT)), "results": str(directory / "results.json")}
        )
        return
    show_verdicts(load(directory))
    click.echo(f"report: {page}")
