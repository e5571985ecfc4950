"""``portask lab select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec import structs

from portask.cli.output import print_json
from portask.errors import ConfigError
from portask_lab.cli.common import (
    LATEST,
    json_option,
    needs,
    paint,
    reports_option,
    run_directory,
    show_table,
)
from portask_lab.cli.watching import watching

if TYPE_CHECKING:
    from portask_lab.results import Confirmation, Run, Winner

_TONES = {"confirmed": "pass", "not confirmed": "fail"}


@click.command()
@click.argument("run", default=LATEST)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The config file; stdout unless given.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Measure the whole broker made of the winners beside the reference broker.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(10, 86_400),
    default=60.0,
    show_default=True,
    help="How long confirming may take.",
)
@click.option("--require-confirmed", is_flag=True, help="Write nothing, and fail, when it is not confirmed.")
@reports_option
@json_option
def select(
    *,
    run: str,
    output: Path | None,
    force: bool,
    confirm: bool,
    seconds: float,
    require_confirmed: bool,
    reports: Path,
    as_json: bool,
) -> None:
    """Put a run's winners into a config file, with the evidence.

    RUN is "latest", the id of a run, or a path. Before the file is written, the whole broker made of the winners runs
    beside the reference broker, in fresh rounds that had no say in the choice. The file is written whatever comes out,
    with the outcome in its [receipt]; --require-confirmed refuses instead, with exit status 1.
    """
    needs("numpy", "rich")
    from portask_lab import confirm as confirming  # noqa: PLC0415 - after the arguments are known to be good
    from portask_lab import receipt, results  # noqa: PLC0415
    from portask_lab.leads import Leads  # noqa: PLC0415
    from portask_lab.select import choose  # noqa: PLC0415

    if require_confirmed and not confirm:
        raise click.UsageError("--require-confirmed and --no-confirm exclude each other")
    directory = run_directory(run, reports)
    if output is not None and output.exists() and not force:
        raise click.UsageError(f"{output} exists; --force replaces it")
    loaded = results.load(directory)
    winners = choose(loaded, Leads(loaded, directory))
    if not any(winner.variant for winner in winners):
        why = "; ".join(f"{winner.family}: {winner.reason}" for winner in winners) or "it measured no variant"
        raise ConfigError(f"run {loaded.id} has no winner to select ({why}); run the lab again")
    found = confirming.skipped()
    if confirm:
        with watching(quiet=as_json) as watch:
            found = confirming.confirm(loaded, winners, directory, seconds=seconds, progress=watch)
    if require_confirmed and found.outcome == "not confirmed":
        raise ConfigError(f"nothing was written: {found.outcome}. {found.reason}")
    text = receipt.render(loaded, winners, found)
    if output is not None:
        _write(output, text)
    if as_json:
        facts = {"run": loaded.id, "winners": [structs.asdict(each) for each in winners]}
        print_json({**facts, "confirmation": msgspec.to_builtins(found), "toml": text})
    elif output is None:
        click.echo(text, nl=False)
    else:
        _show(loaded, winners, found)
        click.echo(f"\n{output}: portask serve --config {output}")


def _show(run: Run, winners: list[Winner], found: Confirmation) -> None:
    rows = [
        (
            (each.family, ""),
            (each.variant or "nothing", "" if each.variant else "doubt"),
            (each.reason, "muted"),
        )
        for each in winners
    ]
    show_table(("FAMILY", "WINNER", "WHY"), rows)
    if not run.complete:
        click.echo(paint("that run was incomplete", "doubt"))
    rounds = f" ({found.rounds} fresh rounds, {found.voided} of them voided)" if found.rounds else ""
    click.echo(f"\n{paint(found.outcome, _TONES.get(found.outcome, 'doubt'))}{rounds}: {found.reason}")
    for note in found.notes:
        click.echo(paint(note, "muted"))
    if found.figures:
        from portask_lab.report import winners as shown  # noqa: PLC0415 - draws nothing, but is the report's

        table = shown.confirmed(found)
        heads = [column.name.upper() for column in table.columns]
        numbers = [at for at, column in enumerate(table.columns) if column.number]
        click.echo()
        show_table(heads, [[(cell.text, cell.tone) for cell in row] for row in table.rows], numbers)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
