"""``portask lab selftest``."""

from __future__ import annotations

import math

import click
from msgspec import structs

from portask.cli.output import print_json
from portask_lab.cli.common import json_option, needs, paint, show_table
from portask_lab.cli.watching import watching

_EXPECTED_ALARMS = 0.05


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(5, 3600), default=60.0, show_default=True, help="How long to measure."
)
@click.option(
    "--profile",
    type=click.Choice(("quick", "full")),
    default="quick",
    show_default=True,
    help="Whose block counts.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the orders.")
@json_option
def selftest(*, seconds: float, profile: str, seed: int, as_json: bool) -> None:
    """Plant slowdowns and see whether the lab finds them here.

    Copies of one variant are slowed down by 2, 5 and 10% and measured as in a run. Prints how often each was found, and
    how often identical copies were called different: what a "better" or "worse" of this machine is worth.
    """
    needs("numpy", "rich")
    from portask_lab.selftest import selftest as measure  # noqa: PLC0415 - imports the statistics

    with watching(quiet=as_json) as watch:
        found = measure(
            seconds=seconds,
            profile=profile,
            seed=seed,
            progress=lambda text, share: watch(text, share, seconds * (1 - share)),
        )
    if as_json:
        plain = {name: _known(value) for name, value in structs.asdict(found).items()}
        print_json(plain)
        return
    if not found.groups:
        click.echo(
            paint(f"too few blocks in {seconds:g} s to judge anything: give it more --seconds", "doubt")
        )
        raise click.exceptions.Exit(1)
    rows = [
        ((label, ""), (f"{share:.0%}", ""), (f"{found.effects[label]:.3f}", ""))
        for label, share in found.detected.items()
    ]
    show_table(("PLANTED", "FOUND", "MEASURED TIME"), rows, numbers=(1,))
    alarms = "doubt" if found.false_alarms > _EXPECTED_ALARMS else "pass"
    click.echo(
        paint(f"\nfalse alarms: {found.false_alarms:.0%} of identical copies (up to 5% is expected)", alarms)
    )
    click.echo(
        f"noise floor ±{found.floor:.1%}; {found.groups} groups of {found.blocks} blocks in {found.seconds:.0f} s, "
        f"{found.voided} blocks voided"
    )
    if not found.quiet:
        click.echo(
            paint("the noise rule left no whole group: a run here, now, would compare nothing", "doubt")
        )


def _known(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows no NaN
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    return value
