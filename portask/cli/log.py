"""``portask log``: looks at the log in a folder, and repairs it, while no broker has it open."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from portask.cli.options import json_option
from portask.cli.output import print_json, print_table

if TYPE_CHECKING:
    from portask.storage.inspecting import PartitionReport, Report

_TITLES = ("topic", "partition", "segments", "first", "next", "bytes", "oldest", "newest", "lost")

folder_argument = click.argument("folder", type=click.Path(file_okay=False))


@click.group()
def log() -> None:
    """Look at the log in a folder, and repair it.

    The folder is the `path` of the storage segment-log. A broker that has it open must be stopped first.
    """


@log.command()
@folder_argument
@click.option("--segments", is_flag=True, help="List every segment file, too.")
@json_option
def inspect(folder: str, segments: bool, as_json: bool) -> None:
    """Print what the log in FOLDER holds, one line a partition.

    Messages from offset `first` on are kept; the next one published gets `next`. `lost` counts the offsets in between
    that are quarantined, because their bytes are damaged or missing. Index files are believed; `verify` is not so
    easy-going.
    """
    from portask.storage import inspecting  # noqa: PLC0415 - help and wrong usage do without

    with inspecting.locked(folder) as path:
        report = inspecting.inspect(path)
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    _print_partitions(report)
    if segments:
        _print_segments(report)
    _print_findings(report)


@log.command()
@folder_argument
@json_option
def verify(folder: str, as_json: bool) -> int:
    """Read every batch of the log in FOLDER, and compare checksums, offsets and index files.

    The exit code is 1 when something is wrong that is not known yet: damaged or missing records, a torn end, an index
    file that says something else than the log. What a repair or a broker has quarantined before is listed, and no
    failure.
    """
    from portask.storage import inspecting  # noqa: PLC0415 - help and wrong usage do without

    with inspecting.locked(folder) as path:
        report = inspecting.inspect(path, verify=True)
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_findings(report)
        count = len(report.problems)
        verdict = (
            "whole"
            if not count
            else f"{count} problem{'s' * (count > 1)}; `portask log repair` lists the cure"
        )
        click.echo(f"{report.verified_bytes:,} bytes in {len(report.partitions):,} partitions: {verdict}")
    return 1 if report.problems else 0


@log.command()
@folder_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def repair(folder: str, dry_run: bool, as_json: bool) -> None:
    """Make the log in FOLDER whole: cut torn ends, note damage as quarantined, rebuild index files.

    No valid record is touched; damaged bytes stay in their files, and readers skip them. A broker does the same when it
    starts, but it believes index files and does not read what they vouch for.
    """
    from portask.storage import inspecting  # noqa: PLC0415 - help and wrong usage do without

    with inspecting.locked(folder) as path:
        report = inspecting.repair(path, dry_run=dry_run)
    if as_json:
        print_json(msgspec.to_builtins(report) | {"dry_run": dry_run})
        return
    _print_findings(report)
    count = len(report.problems)
    if not count:
        click.echo("nothing to repair")
    else:
        click.echo(f"{count} problem{'s' * (count > 1)} {'would be ' if dry_run else ''}repaired")


def _print_partitions(report: Report) -> None:
    if not report.partitions:
        click.echo(f"{report.folder} holds no records", err=True)
        return
    print_table(
        _TITLES,
        [
            (
                part.topic,
                part.partition,
                len(part.segments),
                part.first,
                part.next,
                part.bytes,
                _time(part.oldest_time),
                _time(part.newest_time),
                _lost(part),
            )
            for part in report.partitions
        ],
    )
    if report.groups:
        click.echo(f"consumer groups: {', '.join(report.groups)}")


def _print_segments(report: Report) -> None:
    click.echo()
    print_table(
        ("segment", "first", "next", "bytes", "newest", "index"),
        [
            (
                segment.path,
                segment.first,
                segment.next,
                segment.bytes,
                _time(segment.newest_time),
                "yes" if segment.indexed else "no",
            )
            for part in report.partitions
            for segment in part.segments
        ],
    )


def _print_findings(report: Report) -> None:
    for finding in report.findings:
        kind = click.style(finding.kind, fg="yellow" if finding.kind == "known hole" else "red")
        click.echo(f"{kind}: {finding.segment}: {finding.text}")


def _lost(part: PartitionReport) -> int:
    return sum(max(0, hole.next - max(hole.first, part.first)) for hole in part.quarantined)


def _time(when: int) -> str:
    if not when:
        return "-"
    return datetime.fromtimestamp(when / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
