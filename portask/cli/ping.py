"""``portask ping``: is it there, and how far away."""

from __future__ import annotations

import statistics
import sys
import time

import click

from portask.cli.options import broker_options, connect, json_option
from portask.cli.output import print_json


@click.command()
@broker_options
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="Round trips to make.")
@click.option(
    "--interval", type=click.FloatRange(0), default=0.2, show_default=True, help="Seconds between them."
)
@json_option
def ping(url: str, count: int, interval: float, as_json: bool) -> None:
    """Measure round trips to a broker, its event loop included.

    The times are those of this client, from the call to its return: a look at the link, not a benchmark.
    """
    taken: list[float] = []
    with connect(url) as client:
        for number in range(count):
            if number:
                time.sleep(interval)
            taken.append(client.ping() * 1000)
            if not as_json:
                click.echo(f"{taken[-1]:.3f} ms")
                sys.stdout.flush()
    summary = {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}
    if as_json:
        print_json({"round_trips_ms": taken, **{f"{name}_ms": value for name, value in summary.items()}})
    elif count > 1:
        click.echo(", ".join(f"{name} {value:.3f} ms" for name, value in summary.items()))
