"""``portask sub``: what arrives, as text, JSON or bytes."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from portask.cli.options import access, broker_options, json_option
from portask.cli.output import is_terminal, jsonable, printable
from portask.errors import PortaskError

if TYPE_CHECKING:
    from portask.client.results import Delivered

Start = Literal["earliest", "latest"] | int | datetime
_NAMED: dict[str, Literal["earliest", "latest"]] = {"earliest": "earliest", "latest": "latest"}
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


class Wanted(msgspec.Struct, frozen=True):
    """What to subscribe to, and when to stop: after ``count`` messages, or ``silence`` seconds without any.

    ``group`` holds what `portask.client.Client.subscribe` is told of a group; empty without one.
    """

    filter: str
    start: Start
    partition: int | None
    count: int | None
    silence: float | None
    group: dict[str, Any]


def parse_duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """A length of time: ``30s``, ``500ms``, ``1.5m``.

    Raises:
        BadParameter: it is none; the text lists the forms.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no length of time: use 500ms, 30s, 1.5m, 2h or 1d")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def parse_start(_ctx: click.Context, _param: click.Parameter, text: str) -> Start:
    """The start as the client takes it. Times without a zone are local.

    Raises:
        BadParameter: it is none; the text lists the forms.
    """
    if text in _NAMED:
        return _NAMED[text]
    try:
        if text.isascii() and text.isdigit():
            return int(text)
        ago = _AGO.fullmatch(text)
        if ago:
            return datetime.now().astimezone() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        forms = "earliest, latest, an offset (42), a time (2031-05-17T12:00), or so long ago (-5m; s m h d)"
        raise click.BadParameter(f"{text!r} is none of: {forms}") from None


@click.command()
@click.argument("filter_", metavar="FILTER")
@broker_options
@click.option(
    "--from",
    "start",
    callback=parse_start,
    default="latest",
    show_default=True,
    help="earliest, latest, an offset, a time (2031-05-17T12:00), or so long ago (-5m).",
)
@click.option("--partition", type=click.IntRange(0), help="This partition only.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds without any."
)
@click.option("--group", metavar="NAME", help="Share the messages with the other members of this group.")
@click.option("--ack-wait", callback=parse_duration, help="Of a group: time for a message, e.g. 30s.")
@click.option(
    "--max-deliveries", type=click.IntRange(0), help="Of a group: before a message is a dead letter."
)
@click.option("--dead-letter", metavar="TOPIC", help="Of a group: where those go.  [default: TOPIC.dead]")
@json_option
@click.option("--raw", is_flag=True, help="Print payloads as they are, nothing between them.")
def sub(
    *,
    filter_: str,
    url: str,
    start: Start,
    partition: int | None,
    count: int | None,
    timeout: float | None,
    group: str | None,
    ack_wait: timedelta | None,
    max_deliveries: int | None,
    dead_letter: str | None,
    as_json: bool,
    raw: bool,
) -> None:
    """Print the messages of all topics that FILTER matches, as they arrive.

    A filter is a topic, or has * for one part of the name and > for all the rest: orders.*, orders.>

    One line a message: the payload, on a terminal with topic:partition@offset before it. Fewer messages than
    --count within --timeout is a failure; --timeout alone ends quietly.

    With --group each message goes to one member of the group, and is acknowledged once it is printed; what a member
    does not acknowledge goes to another. --from counts where the group is new. `portask groups` shows where it is.

    \b
    portask sub orders --from earliest --count 1
    portask sub 'logs.>' --from -5m --json | jq .payload
    portask sub jobs --group workers --ack-wait 30s
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json are two forms of output: give one")
    shared = {"ack_wait": ack_wait, "max_deliveries": max_deliveries, "dead_letter": dead_letter}
    if group is None and any(value is not None for value in shared.values()):
        raise click.UsageError(
            "--ack-wait, --max-deliveries and --dead-letter are of a group: give --group too"
        )
    # no more than will be printed is taken from the others
    member = {} if group is None else {"group": group, "auto_ack": False, "credit_messages": count, **shared}
    write = _raw if raw else _json if as_json else _labelled if is_terminal() else _plain
    got = asyncio.run(_receive(url, Wanted(filter_, start, partition, count, timeout, member), write))
    if count is not None and got < count:
        raise PortaskError(
            f"{got} of {count} messages of {filter_!r} came, then none for {timeout:g} s; "
            "--from earliest begins with the oldest that are kept"
        )


async def _receive(url: str, wanted: Wanted, write: Callable[[Sequence[Delivered]], None]) -> int:
    """Writes messages until it is time to stop; returns how many."""
    from portask.client import connect  # noqa: PLC0415 - a usage error need not wait for it

    handler = logging.StreamHandler()  # that the connection was lost, and is back
    handler.setFormatter(logging.Formatter("portask: %(message)s"))
    logging.getLogger("portask").addHandler(handler)
    count = wanted.count
    got = 0
    async with await connect(url, **access(url)) as client:
        subscription = await client.subscribe(
            wanted.filter, start=wanted.start, partition=wanted.partition, **wanted.group
        )
        batches = aiter(subscription.batches())
        while count is None or got < count:
            try:
                async with asyncio.timeout(wanted.silence):
                    batch = await anext(batches)
            except (TimeoutError, StopAsyncIteration):
                break
            messages = batch.delivered()
            if count is not None:
                del messages[count - got :]
            got += len(messages)
            try:
                write(messages)
                sys.stdout.flush()
            except OSError:
                if wanted.group:
                    batch.nack(reason="could not be printed")
                raise
            if wanted.group:
                for message in messages:
                    message.ack()
    return got


def _plain(messages: Sequence[Delivered]) -> None:
    sys.stdout.buffer.write(b"".join(each.payload + b"\n" for each in messages))


def _raw(messages: Sequence[Delivered]) -> None:
    sys.stdout.buffer.write(b"".join(each.payload for each in messages))


def _labelled(messages: Sequence[Delivered]) -> None:
    lines = []
    for each in messages:
        label = click.style(f"{each.topic}:{each.partition}@{each.offset}", dim=True)
        lines.append(f"{label}  {printable(each.payload)}")
    click.echo("\n".join(lines))


def _json(messages: Sequence[Delivered]) -> None:
    # all at once: a write and a flush a line would cost more than the rest
    sys.stdout.buffer.write(b"".join([msgspec.json.encode(_object(each)) + b"\n" for each in messages]))


def _object(each: Delivered) -> dict[str, Any]:
    headers: dict[str, str | None] = {}
    for name, value in (each.headers or {}).items():
        headers |= jsonable(name, value)
    return {
        "topic": each.topic,
        "partition": each.partition,
        "offset": each.offset,
        "timestamp": each.timestamp,
        **({"deliveries": each.deliveries} if each.deliveries else {}),
        **jsonable("key", each.key),
        "headers": headers or None,
        **jsonable("payload", each.payload),
    }
