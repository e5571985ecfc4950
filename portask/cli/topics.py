"""``portask topics``: what a broker holds."""

from __future__ import annotations

import click
import msgspec

from portask.cli.options import broker_options, connect, json_option
from portask.cli.output import print_json, print_table

_TITLES = ("topic", "partitions", "partition", "first", "next", "bytes", "subscribers")


@click.command()
@click.argument("filter_", metavar="[FILTER]", default=">")
@broker_options
@json_option
def topics(filter_: str, url: str, as_json: bool) -> None:
    """List the topics that FILTER matches, or all of them, one line a partition.

    Messages from offset `first` on are kept; the next one published gets `next`. Bytes are those stored, "-" where
    the storage cannot tell. What an acknowledged message survives is said on stderr.
    """
    with connect(url) as client:
        found = sorted(client.topics(filter_), key=lambda info: info.topic)
        broker = client.broker
    if as_json:
        print_json([msgspec.to_builtins(info) for info in found])
        return
    if not found:
        what = "no topics yet" if filter_ == ">" else f"no topic matches {filter_}"
        click.echo(f"{what}; `portask pub demo hello` makes one", err=True)
        return
    rows = [
        (
            info.topic,
            len(info.partitions),
            part.partition,
            part.first,
            part.next,
            part.bytes if part.bytes >= 0 else "-",
            part.subscribers,
        )
        for info in found
        for part in info.partitions
    ]
    print_table(_TITLES, rows)
    promise = f" ({broker.promise})" if broker.promise else ""
    click.echo(f"durability: {broker.durability}{promise}", err=True)
