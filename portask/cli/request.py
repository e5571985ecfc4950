"""``portask request`` asks and prints the reply; ``portask reply`` answers with what a command makes of a request."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from portask.cli.options import access, broker_options, connect, json_option
from portask.cli.output import is_terminal, jsonable, print_json, printable
from portask.cli.pub import parse_headers
from portask.errors import PortaskError, UnknownTopic

if TYPE_CHECKING:
    from portask.client import Client, Delivered


@click.command()
@click.argument("topic")
@click.argument("payload", required=False)
@broker_options
@click.option("--key", help="Chooses the partition: the same key, the same partition.")
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="A header; may be repeated.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=5,
    show_default=True,
    help="Seconds to wait for the reply.",
)
@json_option
@click.option("--raw", is_flag=True, help="Print the reply as it is, without a line's end.")
def request(
    *,
    topic: str,
    payload: str | None,
    url: str,
    key: str | None,
    headers: tuple[str, ...],
    timeout: float,
    as_json: bool,
    raw: bool,
) -> None:
    """Publish PAYLOAD to TOPIC, and print the first reply; without a payload, all of stdin is one.

    That nobody answers shows only when the time is over.

    \b
    portask request shout hello --timeout 2
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json are two forms of output: give one")
    more: dict[str, Any] = {
        "key": None if key is None else os.fsencode(key),
        "headers": parse_headers(headers) or None,
    }
    data = os.fsencode(payload) if payload is not None else sys.stdin.buffer.read()
    with connect(url) as client:
        reply = client.request(topic, data, timeout=timeout, **more)
    if as_json:
        found: dict[str, str | None] = {}
        for name, value in (reply.headers or {}).items():
            found |= jsonable(name, value)
        print_json({**jsonable("payload", reply.payload), "headers": found or None})
    elif is_terminal() and not raw:
        click.echo(printable(reply.payload))
    else:
        sys.stdout.buffer.write(reply.payload if raw else reply.payload + b"\n")


@click.command()
@click.argument("filter_", metavar="FILTER")
@click.argument("command")
@broker_options
@click.option("--group", metavar="NAME", default="", help="Share the requests with the others of this group.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many requests.")
def reply(*, filter_: str, command: str, url: str, group: str, count: int | None) -> None:
    """Answer requests: COMMAND, a shell's, gets each payload on stdin; what it prints is the reply.

    A command that fails answers nothing; its exit code is said on stderr, and a group gives the request to somebody
    again. Requests are taken one after the other, those that are published from now on.

    \b
    portask reply shout 'tr a-z A-Z'
    portask reply jobs ./work --group workers
    """
    asyncio.run(_serve(url, filter_, command, group, count))


async def _serve(url: str, filter_: str, command: str, group: str, count: int | None) -> None:
    from portask.client import connect as connect_to  # noqa: PLC0415 - a usage error need not wait for it

    handler = logging.StreamHandler()  # that the connection was lost, and is back
    handler.setFormatter(logging.Formatter("portask: %(message)s"))
    logging.getLogger("portask").addHandler(handler)
    member: dict[str, Any] = {"group": group, "auto_ack": False, "credit_messages": 1} if group else {}
    done = 0
    async with connect_to(url, **access(url)) as client, client.subscribe(filter_, **member) as requests:
        click.echo(f"answering {filter_}; Ctrl-C ends", err=True)
        async for asked in requests:
            code, out = await _run(command, asked.payload)
            problem = f"the command ended with {code}" if code else await _answer(client, asked, out)
            if problem:
                click.echo(f"portask: {asked.topic}:{asked.partition}@{asked.offset}: {problem}", err=True)
            if group and code:
                asked.nack(delay=1, reason=problem)
            elif group:
                asked.ack()
            done += 1
            if done == count:
                return


async def _run(command: str, payload: bytes) -> tuple[int | None, bytes]:
    """The exit code and what was printed."""
    pipe = asyncio.subprocess.PIPE
    # the user's own command line, as in xargs or watch
    process = await asyncio.create_subprocess_shell(command, stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(payload)
    return process.returncode, out


async def _answer(client: Client, asked: Delivered, payload: bytes) -> str:
    """Replies; returns why it could not be done."""
    try:
        await client.respond(asked, payload)
    except UnknownTopic:
        return "who asked has gone"
    except (ValueError, PortaskError) as error:
        return str(error).removeprefix(f"{asked.topic}:{asked.partition}@{asked.offset} ")
    return ""
