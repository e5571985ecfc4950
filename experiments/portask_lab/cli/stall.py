"""``portask lab stall``."""

from __future__ import annotations

import click
import msgspec

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, paint, show_table
from portask_lab.cli.watching import watching
from portask_lab.stall import FACTOR, Findings

_MIB = 1 << 20


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(1), default=600.0, show_default=True, help="How long it does not read."
)
@click.option(
    "--calm", type=click.FloatRange(1), default=10.0, show_default=True, help="Seconds before and after."
)
@click.option(
    "--rate",
    type=click.IntRange(1_000),
    default=50_000,
    show_default=True,
    help="Messages a second, of 100 bytes.",
)
@click.option("--server", default="epoll", show_default=True, help="A server variant.")
@click.option(
    "--kept", type=click.IntRange(1), default=64, show_default=True, help="Retention of the topic, MiB."
)
@click.option(
    "--watermark", type=click.IntRange(8), default=256, show_default=True, help="Of the broker's memory, MiB."
)
@json_option
def stall(
    *, seconds: float, calm: float, rate: int, server: str, kept: int, watermark: int, as_json: bool
) -> None:
    """Let a subscriber stop reading for a while, and see what it costs.

    Messages come all the time, and another subscriber reads them. The broker's memory must stay under its watermark,
    the other one must not notice, and the one that stopped must get all that retention kept when it goes on.

    Exit status 1 when a promise was broken, 2 when the load generator was late, so that nothing was proven.
    """
    from portask_lab.stall import drill  # noqa: PLC0415 - starts processes

    with watching(quiet=as_json) as watch:
        found = drill(
            server=server,
            rate=rate,
            calm=calm,
            stall=seconds,
            kept=kept * _MIB,
            watermark=watermark * _MIB,
            watch=watch,
        )
    faults = found.faults()
    if as_json:
        print_json({**msgspec.to_builtins(found), "faults": faults})
    else:
        _show(found, faults)
    if found.void:
        raise click.exceptions.Exit(2)
    if faults:
        raise click.exceptions.Exit(1)


def _show(found: Findings, faults: list[str]) -> None:
    slow = found.slow
    rows = [
        ("published", f"{found.published:,}", f"{found.rate:,} a second"),
        ("received", f"{slow.received:,}", f"by the subscriber that did not read for {found.stall:g} s"),
        (
            "skipped",
            f"{slow.skipped:,}",
            f"overtaken by retention, {found.kept / _MIB:g} MiB, and it was told",
        ),
        (
            "memory",
            f"{found.growth / 1e6:,.1f} MB",
            f"most that the broker grew; watermark {found.watermark / 1e6:,.0f}",
        ),
        ("p99 before", f"{found.before:,.0f} µs", "of the other subscriber"),
        ("p99 meanwhile", f"{found.during:,.0f} µs", f"at most {FACTOR:g} times as much is allowed"),
    ]
    show_table(("", "", ""), [((a, ""), (b, ""), (c, "muted")) for a, b, c in rows], numbers=(1,))
    for fault in faults:
        click.echo(paint(f"✗ {fault}", "fail"))
    if found.void:
        click.echo(paint(f"– nothing was proven: {found.void}", "doubt"))
    elif not faults:
        click.echo(paint(f"✓ {found.server}: within memory, nothing lost, nobody else noticed", "pass"))
