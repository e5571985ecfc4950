"""``portask lab select``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import structs

from portask.cli.output import print_json
from portask_lab.cli.common import LATEST, json_option, paint, reports_option, run_directory, show_table


@click.command()
@click.argument("run", default=LATEST)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The config file; stdout unless given.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@reports_option
@json_option
def select(run: str, output: Path | None, reports: Path, *, force: bool, as_json: bool) -> None:
    """Put a run's winners into a config file, with the evidence.

    RUN is "latest", the id of a run, or a path. The file has a [receipt]: run, machine, corpora, figures, runners-up.
    """
    from portask_lab import results  # noqa: PLC0415 - after the arguments are known to be good
    from portask_lab import select as selection  # noqa: PLC0415

    directory = run_directory(run, reports)
    text = selection.select(directory)
    if output is not None:
        if output.exists() and not force:
            raise click.UsageError(f"{output} exists; --force replaces it")
        _write(output, text)
    loaded = results.load(directory)
    chosen = selection.choose(loaded)
    if as_json:
        winners = [structs.asdict(each) for each in chosen]
        print_json({"run": directory.resolve().name, "winners": winners, "toml": text})
        return
    if output is None:
        click.echo(text, nl=False)
        return
    rows = [
        (
            (each.family, ""),
            (each.variant or "nothing", "" if each.variant else "doubt"),
            (each.reason, "muted"),
        )
        for each in chosen
    ]
    show_table(("FAMILY", "WINNER", "WHY"), rows)
    if not loaded.complete:
        click.echo(paint("that run was incomplete", "doubt"))
    click.echo(f"\n{output}: portask serve --config {output}")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
