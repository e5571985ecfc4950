"""``portask groups``: where consumer groups stand, and ``drop`` to forget one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from portask.cli.options import broker_options, connect, json_option
from portask.cli.output import print_json, print_table

if TYPE_CHECKING:
    from portask.wire.control import GroupInfo

_TITLES = (
    "group",
    "members",
    "topic",
    "partition",
    "committed",
    "next",
    "end",
    "lag",
    "pending",
    "redelivered",
    "dead",
    "skipped",
)


@click.group(invoke_without_command=True)
@click.option("--filter", "filter_", default=">", metavar="FILTER", help="Groups whose name matches: team.*")
@broker_options
@json_option
@click.pass_context
def groups(ctx: click.Context, filter_: str, url: str, as_json: bool) -> None:
    """List consumer groups, one line a partition.

    Messages before `committed` are done, those from `next` on were delivered to nobody yet, the next one published
    gets `end`. Of those not done (`lag`), `pending` are delivered and not acknowledged. Redelivered, dead (given up:
    in the dead-letter topic) and skipped (expired, or gone by retention) count since the group was made.

    \b
    portask sub jobs --group workers
    portask groups --json | jq '.[].lag'
    portask groups drop workers
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = url
        return
    with connect(url) as client:
        found = client.groups(filter_)
    if as_json:
        print_json([_object(info) for info in found])
        return
    if not found:
        what = "no groups yet" if filter_ == ">" else f"no group matches {filter_}"
        click.echo(f"{what}; `portask sub demo --group g` makes one", err=True)
        return
    print_table(_TITLES, [row for info in found for row in _rows(info)])


def _object(info: GroupInfo) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(info)
    return plain | {"lag": info.lag, "pending": info.pending}


def _rows(info: GroupInfo) -> list[tuple[str | int, ...]]:
    if not info.partitions:
        return [(info.group, len(info.members), *("-" for _ in _TITLES[2:]))]
    return [
        (
            info.group,
            len(info.members),
            part.topic,
            part.partition,
            part.committed,
            part.next,
            part.end,
            part.lag,
            part.pending,
            part.redelivered,
            part.dead_lettered,
            part.skipped,
        )
        for part in info.partitions
    ]


@groups.command()
@click.argument("name")
@broker_options
@click.pass_context
def drop(ctx: click.Context, name: str, url: str) -> None:
    """Forget the group NAME: where it stands and what is pending. Messages stay.

    A group that has members cannot be dropped: stop them first.
    """
    if ctx.get_parameter_source("url") is not click.core.ParameterSource.COMMANDLINE:
        url = ctx.obj  # it may stand before `drop`
    with connect(url) as client:
        client.drop_group(name)
