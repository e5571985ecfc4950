"""``portask bench``: the command line."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from portask.cli.bench.payloads import MOST_PRODUCERS, SMALLEST, new_run
from portask.cli.options import access, broker_options, json_option
from portask.cli.sub import Start, parse_duration, parse_start

if TYPE_CHECKING:
    from portask.cli.bench.orders import Kind, Load

_MESSAGES = 1_000_000
_LATENCY_SECONDS = 10.0
_PATIENCE = 5.0

Function = TypeVar("Function", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """Measure a broker under load.

    Clients of this program publish and receive, each over a connection of its own, as applications in Python would:
    the figures are those of broker and clients together. What is received is compared, byte by byte, with what was
    sent; anything lost, repeated, reordered or altered makes the exit code 1. The first fifth of the time is warm-up.

    Without a TOPIC a new one is used, bench.<random>. What is published stays there as the broker's retention says.

    \b
    portask bench both
    portask bench latency --rate 2000 --duration 20s
    portask bench both orders.test --producers 4 --processes 3 --size 1024 --json
    """


def _size(_ctx: click.Context, _param: click.Parameter, size: int) -> int:
    if size < SMALLEST:
        raise click.BadParameter(
            f"{size} bytes have no room for a message's number and time: use {SMALLEST} or more"
        )
    return size


def _options(*names: str) -> Callable[[Function], Function]:
    """The shared options of these names, in the order of the table."""
    table: dict[str, Callable[..., Any]] = {
        "messages": click.option(
            "--messages", type=click.IntRange(1), help="How many, over all producers.  [default: 1000000]"
        ),
        "duration": click.option(
            "--duration",
            metavar="TIME",
            callback=parse_duration,
            help="For how long instead, e.g. 30s, 1.5m.",
        ),
        "size": click.option(
            "--size",
            type=int,
            callback=_size,
            default=128,
            show_default=True,
            help=f"Bytes of each message, {SMALLEST} or more.",
        ),
        "filler": click.option(
            "--filler",
            type=click.Choice(["random", "text"]),
            default="random",
            show_default=True,
            help="What fills messages: random bytes, which no compression makes smaller, or records of JSON.",
        ),
        "batch": click.option(
            "--batch",
            type=click.IntRange(1),
            default=1000,
            show_default=True,
            help="Messages of one publish_many, whose acks are waited for; 1 publishes one at a time.",
        ),
        "in_flight": click.option(
            "--in-flight",
            type=click.IntRange(1),
            default=1000,
            show_default=True,
            help="With --batch 1: messages of a producer that may wait for their acks.",
        ),
        "linger": click.option(
            "--linger",
            metavar="TIME",
            callback=parse_duration,
            help="How long a message may wait for others, e.g. 5ms.",
        ),
        "rate": click.option(
            "--rate",
            type=click.FloatRange(0, min_open=True),
            help="Messages a second over all producers, instead of as many as possible.",
        ),
        "producers": click.option(
            "--producers",
            type=click.IntRange(1, MOST_PRODUCERS),
            default=1,
            show_default=True,
            help="Clients that publish.",
        ),
        "subscribers": click.option(
            "--subscribers",
            type=click.IntRange(1, 10_000),
            default=1,
            show_default=True,
            help="Clients that receive; each gets everything, unless they are in a group.",
        ),
        "processes": click.option(
            "--processes",
            type=click.IntRange(1, 256),
            help="Processes that the clients run in; one is one core at most.",
        ),
        "partitions": click.option(
            "--partitions",
            type=click.IntRange(1, 65_536),
            help="Of the topic, if it is new.  [default: the broker's]",
        ),
        "group": click.option("--group", metavar="NAME", help="Subscribers are members of this group."),
        "codec": click.option(
            "--codec", metavar="NAME", help="Of batches.  [default: what the broker recommends]"
        ),
        "compression": click.option("--compression", metavar="NAME", help="Likewise."),
        "url": broker_options,
        "json": json_option,
        "no_progress": click.option("--no-progress", is_flag=True, help="Show nothing until the end."),
    }
    chosen = [option for name, option in table.items() if name in {*names, "url", "json", "no_progress"}]

    def decorate(function: Function) -> Function:
        for option in reversed(chosen):
            function = option(function)
        return function

    return decorate


_PUBLISHING = ("messages", "duration", "size", "filler", "batch", "in_flight", "linger", "rate", "producers")
_MADE = ("processes", "partitions", "codec", "compression")


@bench.command(short_help="Publish; the rate is counted at the acks.")
@click.argument("topic", required=False)
@_options(*_PUBLISHING, *_MADE)
def pub(**given: Any) -> int:
    """Publish to TOPIC; the rate is counted at the acks.

    \b
    portask bench pub --messages 5000000 --size 64 --batch 10000
    portask bench pub --batch 1 --linger 5ms --producers 4 --processes 2
    """
    return _run("pub", given, processes=1)


@bench.command(short_help="Receive what `bench pub` publishes.")
@click.argument("topic", metavar="FILTER")
@click.option(
    "--messages", type=click.IntRange(1), help="Stop after so many: each subscriber's, or the group's."
)
@click.option(
    "--duration", metavar="TIME", callback=parse_duration, help="Stop so long after the first, e.g. 30s."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="Stop after so many seconds without any.  [default: 5 once the first came]",
)
@click.option(
    "--from",
    "start",
    callback=parse_start,
    default="latest",
    show_default=True,
    help="earliest, latest, an offset, a time (2031-05-17T12:00), or so long ago (-5m).",
)
@_options("subscribers", "processes", "group")
def sub(**given: Any) -> int:
    """Receive what `bench pub` publishes to the topics that FILTER matches, from the first message to the last.

    Start it before `bench pub` in another shell, or read what is there with --from earliest.

    \b
    portask bench sub bench.x --from earliest
    portask bench sub 'bench.>' --subscribers 4 --processes 2 --duration 30s
    """
    return _run("sub", given, processes=1)


@bench.command(short_help="Publish and receive at once.")
@click.argument("topic", required=False)
@_options(*_PUBLISHING, "subscribers", "group", *_MADE)
def both(**given: Any) -> int:
    """Publish to TOPIC and receive it at once; the rate that counts is the subscribers'.

    Producers and subscribers run in processes of their own, two unless --processes says otherwise; --processes 1
    puts them together.

    \b
    portask bench both --size 1024 --subscribers 3
    portask bench both --group g --subscribers 4 --partitions 4 --processes 4
    """
    return _run("both", given, processes=2)


@bench.command(short_help="Measure latency at a given rate.")
@click.argument("topic", required=False)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "poisson"]),
    default="constant",
    show_default=True,
    help="Sends at even distances, or at random as of many independent senders.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=1000,
    show_default=True,
    help="Messages a second over all producers.",
)
@click.option(
    "--duration",
    metavar="TIME",
    callback=parse_duration,
    help="For how long, e.g. 30s, 1.5m.  [default: 10s]",
)
@click.option("--messages", type=click.IntRange(1), help="How many instead, over all producers.")
@_options("size", "filler", "linger", "producers", "subscribers", *_MADE)
def latency(**given: Any) -> int:
    """Measure how long messages take from producer to subscriber, at a rate that the broker cannot slow down.

    Each message is sent at its time on a fixed schedule, 1,000 a second unless --rate says otherwise, and its latency
    counts from that time, whenever it was really sent. The run is invalid, and the exit code 1, if less than 99% of
    the rate arrived, or more than 1% of the sends began over 10 ms late. Takes a core of its own: it spins between
    sends.

    \b
    portask bench latency --rate 5000 --duration 30s --schedule poisson
    """
    return _run("latency", given, processes=1)


def _run(kind: Kind, given: dict[str, Any], processes: int) -> int:
    """Checks what can be checked without a broker, then measures."""
    ctx = click.get_current_context()
    if given["messages"] is not None and given["duration"] is not None:
        raise click.UsageError("--messages and --duration both say when to end: give one")
    clients = given.get("producers", 0) + given.get("subscribers", 0)
    wanted = given["processes"] or min(processes, clients)
    if wanted > clients:
        raise click.UsageError(
            f"--processes {wanted} is more than there are clients to spread, {clients}: raise --producers or "
            "--subscribers too"
        )
    if given.get("batch", 1) > 1:
        for name in ("linger", "in_flight"):
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for messages that are published one at a time: add --batch 1"
                )
    topic = given["topic"] or f"bench.{secrets.token_hex(4)}"
    from portask.cli.bench.running import run  # noqa: PLC0415 - help and wrong usage do without

    return asyncio.run(
        run(
            _load(kind, topic, given),
            processes=wanted,
            partitions=given.get("partitions") or 0,
            as_json=given["as_json"],
            progress=not given["no_progress"],
            patience=given.get("timeout") or _PATIENCE,
            waits=given.get("timeout"),
        )
    )


def _load(kind: Kind, topic: str, given: dict[str, Any]) -> Load:
    from portask.cli.bench.orders import Load  # noqa: PLC0415 - see _run

    messages = given["messages"]
    seconds = given["duration"].total_seconds() if given["duration"] is not None else None
    rate = given.get("rate") or 0.0
    if kind == "latency":
        seconds = messages / rate if messages is not None else seconds or _LATENCY_SECONDS
        messages = None
    elif kind != "sub" and messages is None and seconds is None:
        messages = _MESSAGES
    start: Start = given.get("start", "latest")
    linger: timedelta | None = given.get("linger")
    return Load(
        url=given["url"],
        access=access(given["url"]),
        kind=kind,
        topic=topic,
        run=new_run(text=given.get("filler") == "text"),
        size=given.get("size", 0),
        text=given.get("filler") == "text",
        messages=messages,
        seconds=seconds,
        producers=given.get("producers", 0),
        subscribers=given.get("subscribers", 0),
        batch=given.get("batch", 1),
        linger_ms=linger.total_seconds() * 1000 if linger is not None else 0.0,
        in_flight=given.get("in_flight", 1),
        rate=rate,
        schedule=given.get("schedule", ""),
        start="latest" if isinstance(start, datetime) else start,
        since=start if isinstance(start, datetime) else None,
        group=given.get("group") or "",
        codec=given.get("codec") or "",
        compression=given.get("compression") or "",
    )
