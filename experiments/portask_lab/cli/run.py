"""``portask lab run``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, needs, reports_option
from portask_lab.cli.verdicts import show_verdicts
from portask_lab.cli.watching import watching

if TYPE_CHECKING:
    from portask_lab.results import Run


@click.command()
@click.option(
    "--profile",
    type=click.Choice(("quick", "full")),
    help="How thoroughly.  [default: quick; full for connections alone]",
)
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; may be repeated.")
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    metavar="FILE",
    help="Your messages: NDJSON, JSON array, CSV or lines; or a built-in corpus. May be repeated.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Only this one and its reference; may be repeated.",
)
@click.option(
    "--criteria", type=click.Path(dir_okay=False, path_type=Path), help="Success criteria of your own."
)
@click.option("--seed", type=click.IntRange(0), help="Repeats the orders and schedules of an earlier run.")
@reports_option
@json_option
def run(
    *,
    profile: str | None,
    suites: tuple[str, ...],
    corpora: tuple[str, ...],
    variants: tuple[str, ...],
    criteria: Path | None,
    seed: int | None,
    reports: Path,
    as_json: bool,
) -> None:
    """Measure the variants on this machine and these messages.

    Profile quick takes about four minutes, full three and three quarter hours, both less for fewer variants. Ends with
    the verdicts and the path of the report. An interrupted run keeps what it has, marked incomplete; exit status 130.
    """
    needs("numpy", "matplotlib", "rich")
    from portask_lab import run as lab  # noqa: PLC0415 - imports the statistics
    from portask_lab.report import PAGE  # noqa: PLC0415
    from portask_lab.results import load  # noqa: PLC0415

    interrupted = False
    with watching(quiet=as_json) as watch:
        try:
            directory = lab.run(
                profile=profile,
                suites=suites or None,
                corpus=corpora or None,
                variants=variants or None,
                criteria=criteria,
                seed=seed,
                out_dir=reports,
                progress=lambda now: watch(now.text, now.done, now.left),
                command=shlex.join(["portask", *sys.argv[1:]]),
            )
        except lab.Interrupted as interruption:
            directory, interrupted = interruption.path, True
    found = load(directory)
    page = directory / PAGE
    if as_json:
        print_json(_summary(found, page))
    else:
        show_verdicts(found)
        click.echo(f"\n{_next_step(found)}\nreport: {page}")
    if interrupted:
        raise click.exceptions.Exit(130)


def _next_step(run: Run) -> str:
    chosen = [winner.variant for winner in run.winners if winner.variant]
    if not chosen:
        return "no winners: the report says why"
    return f"winners: {', '.join(chosen)}\nto use them: portask lab select {run.id} -o portask.toml"


def _summary(run: Run, page: Path) -> dict[str, object]:
    return {
        "run": run.id,
        "complete": run.complete,
        "seconds": run.seconds,
        "report": str(page),
        "results": str(page.with_name("results.json")),
        "criteria": [
            {
                "id": item.id,
                "verdict": item.verdict,
                "value": item.value,
                "low": item.low,
                "high": item.high,
                "mark": item.mark,
                "unit": item.unit,
                "variant": item.variant,
            }
            for item in run.criteria
            if item.headline
        ],
        "winners": {winner.family: winner.variant for winner in run.winners},
        "failures": len(run.faults),
        "void": len(run.voids),
        "notes": run.notes,
    }
