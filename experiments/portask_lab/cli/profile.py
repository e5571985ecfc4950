"""``portask lab profile``."""

from __future__ import annotations

from pathlib import Path

import click

from portask.cli.output import print_json
from portask_lab.cli.common import find_variant, json_option, reports_option


@click.command()
@click.argument("variant")
@click.option(
    "--workload", help="Which of the family's workloads, e.g. codec.decode; the first unless given."
)
@click.option("--corpus", help="A built-in corpus or a file; the workload's own first one unless given.")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 600), default=5.0, show_default=True, help="How long to work."
)
@click.option(
    "--rate", type=click.IntRange(1, 1000), default=200, show_default=True, help="Samples a second."
)
@click.option("--native", is_flag=True, help="Show frames of C and Rust, too.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The SVG file.")
@reports_option
@json_option
def profile(
    *,
    variant: str,
    workload: str | None,
    corpus: str | None,
    seconds: float,
    rate: int,
    native: bool,
    output: Path | None,
    reports: Path,
    as_json: bool,
) -> None:
    """Draw a flame graph of a variant at work.

    VARIANT is family/name, or the name alone where only one family has it. py-spy starts the work as its child and
    samples it, brokers and generators included. Nothing is timed meanwhile.
    """
    from portask_lab import profiler  # noqa: PLC0415 - loads every workload

    entry = find_variant(variant)
    work = profiler.choose(entry, workload, corpus)
    path = output or reports / "profiles" / f"{entry.family}-{entry.name}-{work.workload}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not as_json:
        click.echo(f"profiling {entry.label}: {work.describe()}, {seconds:g} s", err=True)
    samples = profiler.record(entry, work, path, seconds=seconds, rate=rate, native=native)
    if as_json:
        print_json({"variant": entry.label, "workload": work.workload, "samples": samples, "svg": str(path)})
    else:
        click.echo(f"{samples:,} samples: {path}")
