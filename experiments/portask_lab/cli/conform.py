"""``portask lab conform``."""

from __future__ import annotations

from collections import Counter

import click

from portask.cli.output import print_json
from portask.errors import VariantUnavailable
from portask_lab.cli.common import find_variant, json_option, paint

_SIGNS = {"passed": ("✓", "pass"), "failed": ("✗", "fail"), "not applicable": ("–", "muted")}


@click.command()
@click.argument("name")
@json_option
def conform(name: str, as_json: bool) -> None:
    """Check a variant against its family's contract.

    NAME is family/name, or the name alone where only one family has it. Each line is a sentence that was put to the
    proof. Exit status 1 when any failed.
    """
    from portask_lab.conformance import conform as outcomes  # noqa: PLC0415 - the suites import what they check with

    entry = find_variant(name)
    reason = entry.unavailable()
    if reason:
        raise VariantUnavailable(f"{entry.label} {reason}")
    found = []
    for outcome in outcomes(entry, thorough=True):
        found.append(outcome)
        if not as_json:
            sign, tone = _SIGNS[outcome.status]
            line = f"{sign} {outcome.sentence}"
            click.echo(
                paint(f"{line} ({outcome.detail})" if outcome.status == "not applicable" else line, tone)
            )
            if outcome.status == "failed":
                click.echo(f"    {outcome.check}: {outcome.detail}")
    count = Counter(outcome.status for outcome in found)
    passed = bool(count["passed"]) and not count["failed"]
    if as_json:
        checks = [
            {"check": item.check, "sentence": item.sentence, "status": item.status, "detail": item.detail}
            for item in found
        ]
        print_json({"variant": entry.label, "conforms": passed, "checks": checks})
    else:
        verdict = "conforms" if passed else "does not conform"
        figures = (
            f"{count['passed']} passed, {count['failed']} failed, {count['not applicable']} not applicable"
        )
        click.echo(paint(f"{entry.label} {verdict}: {figures}", "pass" if passed else "fail"))
    if not passed:
        raise click.exceptions.Exit(1)
