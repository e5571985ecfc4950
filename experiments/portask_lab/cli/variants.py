"""``portask lab variants``."""

from __future__ import annotations

import click

from portask import registry
from portask.cli.output import print_json
from portask.contracts import FAMILIES
from portask.registry import REFERENCE_NAMES
from portask_lab.cli.common import json_option, show_table


@click.command()
@click.option("--family", type=click.Choice(FAMILIES), help="Only this family.")
@json_option
def variants(family: str | None, as_json: bool) -> None:
    """List every variant, whether it can run here, and why not.

    A star marks the reference of each family. Packages add variants through the entry-point group
    portask.variants; those that could not be read are listed below the table.
    """
    entries = [(entry, entry.unavailable()) for entry in registry.entries(family)]
    if as_json:
        print_json(
            {
                "variants": [
                    {
                        "family": entry.family,
                        "name": entry.name,
                        "reference": REFERENCE_NAMES[entry.family] == entry.name,
                        "available": reason is None,
                        "reason": reason,
                        "summary": entry.summary,
                        "capabilities": sorted(entry.capabilities),
                        "target": entry.target,
                    }
                    for entry, reason in entries
                ],
                "broken": [
                    {"entry_point": problem.entry_point, "reason": problem.reason}
                    for problem in registry.problems()
                ],
            }
        )
        return
    rows = []
    before = ""
    for entry, reason in entries:
        star = "*" if REFERENCE_NAMES[entry.family] == entry.name else " "
        rows.append(
            (
                (entry.family if entry.family != before else "", "strong"),
                (f"{star} {entry.name}", ""),
                ("no", "fail") if reason else ("yes", "pass"),
                (f"{entry.summary} — {reason}" if reason else entry.summary, "doubt" if reason else ""),
            )
        )
        before = entry.family
    show_table(("FAMILY", "  VARIANT", "RUNS HERE", "WHAT"), rows)
    usable = sum(reason is None for _, reason in entries)
    families = len({entry.family for entry, _ in entries})
    click.echo(f"\n{len(entries)} variants in {families} families, {usable} can run here; * is the reference")
    for problem in registry.problems():
        click.secho(f"broken entry point {problem.entry_point}: {problem.reason}", fg="red")
