"""``portask lab check``."""

from __future__ import annotations

from pathlib import Path

import click

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, paint


@click.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check(config: Path, as_json: bool) -> None:
    """Say whether a config file's evidence is of this machine.

    Compares the [receipt] that `portask lab select` wrote with the machine this runs on, and says whether every variant
    named in the file can run here. Exit status 1 when anything differs.
    """
    from portask_lab.receipt import check as compare  # noqa: PLC0415 - reads the lab's results schema

    found = compare(config)
    if as_json:
        print_json({"run": found.run, "matches": found.matches, "differences": found.differences})
    elif found.matches:
        click.echo(paint(f"✓ {config}: run {found.run} was made on a machine like this one", "pass"))
    else:
        for difference in found.differences:
            click.echo(paint(f"✗ {difference}", "fail"))
        click.echo(f"{config} rests on run {found.run} of another machine; measure here: portask lab run")
    if not found.matches:
        raise click.exceptions.Exit(1)
