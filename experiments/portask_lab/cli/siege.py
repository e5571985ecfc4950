"""``portask lab siege``."""

from __future__ import annotations

import click
import msgspec

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, needs, paint, show_table
from portask_lab.cli.watching import watching
from portask_lab.siege import PATIENCE, Findings, Round


@click.command()
@click.option("--server", default="epoll", show_default=True, help="A server variant.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that share the work.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="How long each assault lasts.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.05),
    default=PATIENCE,
    show_default=True,
    help="Seconds within which the bystander's PINGs are to be answered.",
)
@json_option
def siege(*, server: str, workers: int, seconds: float, patience: float, as_json: bool) -> None:
    """Attack a broker in every way that needs no secret, and see what it costs, and whom.

    A broker with tokens and limits, and one with TLS where the server can, suffer clients that never say HELLO, that
    say it a byte at a time, batches that unfold into gigabytes, subscriptions without end, wrong tokens, garbage and
    frames that are too large. Meanwhile a bystander's PINGs must be answered, memory must stay within what the settings
    allow and come back, nothing may die or get lost, and the log must tell of each offender once, with a reason.

    Exit status 1 when a promise was broken.
    """
    from portask_lab.siege import drill  # noqa: PLC0415 - starts processes

    needs("trustme", "zstandard", "lz4")
    with watching(quiet=as_json) as watch:
        found = drill(server=server, workers=workers, seconds=seconds, patience=patience, watch=watch)
    faults = found.faults()
    if as_json:
        print_json({**msgspec.to_builtins(found), "faults": faults})
    else:
        _show(found, faults)
    if faults:
        raise click.exceptions.Exit(1)


def _show(found: Findings, faults: list[str]) -> None:
    heads = (
        "assault",
        "attempts",
        "a second",
        "worst ping",
        "memory",
        "allowed",
        "left",
        "log lines",
        "faults",
    )
    rows = [_row(each, found.patience) for each in found.rounds]
    show_table(heads, rows, numbers=range(1, len(heads) - 1))
    for fault in faults:
        click.echo(paint(f"✗ {fault}", "fail"))
    if not faults:
        name = found.server if found.workers == 1 else f"{found.server}, {found.workers} workers"
        click.echo(paint(f"✓ {name}: answered, within memory, nothing lost, everybody told", "pass"))


def _row(each: Round, patience: float) -> list[tuple[str, str]]:
    faults = len(each.faults(patience))
    return [
        (each.assault, ""),
        (f"{each.attempts:,}", ""),
        (f"{each.attempts / each.seconds:,.0f}", ""),
        (f"{each.worst * 1000:,.0f} ms", ""),
        (f"{each.growth / 1e6:,.1f} MB", ""),
        (f"{each.bound / 1e6:,.0f} MB", "muted"),
        (f"{each.rest / 1e6:,.1f} MB", ""),
        (f"{each.lines:,}", ""),
        (str(faults) if faults else "none", "fail" if faults else "pass"),
    ]
