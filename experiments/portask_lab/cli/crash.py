"""``portask lab crash``."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

import click
import msgspec

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, paint, show_table
from portask_lab.cli.watching import watching
from portask_lab.crash import Findings


@click.command()
@click.option(
    "--rounds", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How often it is killed."
)
@click.option(
    "--mode",
    type=click.Choice(("os", "synced")),
    default="os",
    show_default=True,
    help="What an acknowledgement means.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that the broker has. Of several, all are killed or only one, by turns.",
)
@click.option("--storage", default="segment-log", show_default=True, help="A durable storage variant.")
@click.option(
    "--seed", type=click.IntRange(0), help="Of the moments and the load; drawn and printed by default."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the log, the broker's own log and the acknowledged ids there.",
)
@json_option
def crash(
    *,
    rounds: int,
    mode: Literal["os", "synced"],
    workers: int,
    storage: str,
    seed: int | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Kill a broker again and again, and count what is lost.

    Four producers, a subscription and a group of three work with a broker that is killed with SIGKILL at random
    moments, also while it starts, and started again on the same folder. Then the log is read back: every message that
    was acknowledged must be there, in order, and must have been delivered. About a second a round.

    With --workers, every other round kills one worker instead, at random: the broker's supervisor has to replace it.

    Exit status 1 when anything was lost, or any other promise broken.
    """
    from portask.admin import logs  # noqa: PLC0415 - imports the client
    from portask_lab.crash import drill  # noqa: PLC0415 - likewise

    logs.configure("error", color=False)  # reading the log back says things, and stdout is for the result
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    with watching(quiet=as_json) as watch:
        found = drill(
            rounds=rounds, workers=workers, mode=mode, storage=storage, seed=seed, keep=keep, watch=watch
        )
    if as_json:
        print_json({**msgspec.to_builtins(found), "passed": found.passed})
    else:
        _show(found)
        if keep is not None:
            click.echo(f"kept: {keep}")
    if not found.passed:
        raise click.exceptions.Exit(1)


def _show(found: Findings) -> None:
    v = found.verdict
    middle, longest = found.recovery
    counted = [("killed", found.rounds, f"{found.early} of them while starting")]
    if found.workers > 1:
        next_one, slowest = found.succession
        counted += [
            (
                "workers killed",
                found.workers_killed,
                f"of these; a successor listened after {next_one:.2f} s, {slowest:.2f} s at most",
            ),
        ]
    counted += [
        ("restarts", found.restarts, f"listening after {middle:.2f} s, {longest:.2f} s at most"),
        ("acked", found.acked, f"of {found.sent:,} sent"),
        ("stored", found.stored, "records in the log"),
        ("delivered", found.delivered, "to a subscription"),
        ("delivered to the group", found.delivered_group, f"members joined {found.joined} times"),
        ("duplicated", v.duplicated, "stored again when they were sent again, without numbers"),
        ("redelivered", v.redelivered_group, "to the group"),
    ]
    promised = [
        ("lost", v.lost, "acknowledged and not in the log"),
        ("misplaced", v.misplaced, "not where the acknowledgement said"),
        ("disordered", v.disordered, "order violations in a partition"),
        ("altered", v.altered, "not as they were published"),
        ("missing", v.missing, "offsets that cannot be read"),
        ("duplicated in spite of numbers", v.duplicated_numbered, "of idempotent producers"),
        ("taken back", v.taken_back, "delivered, and not in the log any more"),
        ("undelivered", v.undelivered, "acknowledged and never delivered"),
        ("undelivered to the group", v.undelivered_group, "likewise"),
    ]
    rows = [((name, ""), (f"{count:,}", ""), (about, "muted")) for name, count, about in counted]
    rows += [
        ((name, ""), (f"{count:,}", "fail" if count else "pass"), (about, "muted"))
        for name, count, about in promised
    ]
    show_table(("MESSAGES", "COUNT", ""), rows, numbers=(1,))
    for reason, count in found.failures.items():
        click.echo(paint(f"{count:,} messages were given up by a client: {reason}", "doubt"))
    for text in (*found.stuck, *v.examples):
        click.echo(paint(f"✗ {text}", "fail"))
    together = f", {found.workers} workers" if found.workers > 1 else ""
    head = f"{found.storage}, durability {found.mode}{together}, seed {found.seed}, {found.seconds:.0f} s"
    if not found.acked:
        click.echo(paint(f"✗ {head}: nothing was acknowledged, so nothing was proven", "fail"))
    elif found.passed:
        click.echo(paint(f"✓ {head}: nothing lost, order held", "pass"))
    else:
        click.echo(paint(f"✗ {head}: a promise was broken", "fail"))
