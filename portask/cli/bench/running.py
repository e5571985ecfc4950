"""One run of a bench: asks the broker, deals out the clients, measures, and says what came of it."""

from __future__ import annotations

import logging
import shlex
import sys

import msgspec

import portask
from portask import registry
from portask.cli.bench.conductor import Conductor, Outcome
from portask.cli.bench.orders import Load, Task
from portask.cli.bench.progress import Line
from portask.cli.bench.summary import Setting, Summary, summarize
from portask.cli.bench.text import show
from portask.cli.output import is_terminal, print_json
from portask.client import Client, connect
from portask.config.fingerprint import fingerprint
from portask.config.settings import DEFAULT_URL
from portask.errors import ConfigError, NotPermitted, PortaskError


async def run(
    load: Load,
    *,
    processes: int,
    partitions: int,
    as_json: bool,
    progress: bool,
    patience: float,
    waits: float | None,
) -> int:
    """Measures and prints; the exit code.

    Args:
        load: What is to be done.
        processes: How many to spread it over.
        partitions: That the topic must have; 0 for as many as it has.
        as_json: Print JSON.
        progress: Show how far it is, where somebody watches.
        patience: See `Conductor`.
        waits: Likewise.

    Raises:
        PortaskError: it could not begin; or it could not be finished, or the result is wrong: then all that was
            measured is printed before.
    """
    logging.getLogger("portask").addHandler(logging.NullHandler())  # what goes wrong is said once, at the end
    async with connect(load.url, reconnect=False, **load.access) as client:
        load = await _prepared(client, load, partitions)
        setting = await _setting(client, load, command_line(load, processes, waits))
        before = await _next_offsets(client, load)
    line = Line(load, wanted=progress)
    line.begin(processes)
    try:
        outcome = await Conductor(load, deal(load, processes), line, patience=patience, waits=waits).run()
    finally:
        line.clear()
    summary = summarize(setting, load, outcome)
    if outcome.failure is not None and not summary.counted:  # there is nothing to show
        raise outcome.failure
    if load.kind == "pub" and outcome.failure is None:
        await _count_again(load, outcome, summary, before)
    if as_json:
        print_json(summary.plain())
    else:
        show(summary)
    if outcome.failure is not None:
        raise outcome.failure
    if summary.problems:
        if not as_json and is_terminal() and sys.stderr.isatty():
            return 1  # the user has just read it
        raise PortaskError("; ".join(summary.problems))
    return 130 if outcome.interrupted else 0


async def _prepared(client: Client, load: Load, partitions: int) -> Load:
    """The load with what only the broker knows: the topic's partitions, and which codec and compression it wants.

    Raises:
        PortaskError: the broker does not make the topic, or it has other partitions; or there is no such codec.
    """
    welcome = client.broker
    load = msgspec.structs.replace(
        load,
        codec=_chosen("codec", load.codec, welcome.codec),
        compression=_chosen("compression", load.compression, welcome.compression),
    )
    if load.kind == "sub":
        return load
    try:
        found = await client.create_topic(load.topic, partitions)
    except NotPermitted as error:
        if partitions:
            raise  # they may be too many
        raise NotPermitted(f"{error}; name one that it has: `portask topics` lists them") from error
    if partitions and found != partitions:
        raise PortaskError(
            f"{load.topic} has {found} partition{'s' if found > 1 else ''}, not {partitions}: name another topic, "
            "or leave --partitions out"
        )
    return msgspec.structs.replace(load, partitions=found)


def _chosen(family: str, given: str, recommended: str) -> str:
    """The variant that clients will use; named, so that no process chooses for itself.

    Raises:
        VariantError: the user named one that is not here.
        ConfigError: the broker did.
    """
    if given:
        registry.get(family, given).load()
        return given
    if recommended:
        try:
            registry.get(family, recommended).load()
        except PortaskError as error:
            raise ConfigError(
                f"the broker recommends the {family} {recommended}, which cannot be used here ({error}); choose one "
                f"with --{family}"
            ) from error
    return recommended or registry.REFERENCE_NAMES[family]


async def _next_offsets(client: Client, load: Load) -> int:
    """The sum of the topic's next offsets."""
    if load.kind != "pub":
        return 0
    return sum(part.next for info in await client.topics(load.topic) for part in info.partitions)


async def _count_again(load: Load, outcome: Outcome, summary: Summary, before: int) -> None:
    """Of ``pub``, which receives nothing: whether the broker has as many more messages as it acknowledged."""
    try:
        async with connect(load.url, reconnect=False, **load.access) as client:
            more = await _next_offsets(client, load) - before
    except PortaskError as error:
        summary.notes.append(f"how many messages the broker has now could not be asked: {error}")
        return
    acked = sum(sum(each.acked) for report in outcome.reports if report for each in report.producers)
    if more < acked:
        summary.problems.append(
            f"the broker acknowledged {acked:,} messages and has {more:,} more than before in {load.topic}"
        )
        summary.ok = False
    elif more > acked:
        summary.notes.append(f"others published {more - acked:,} messages to {load.topic} at the same time")


def deal(load: Load, processes: int) -> list[Task]:
    """The clients by process: producers and subscribers apart, in proportion, if there is more than one process."""
    producers, subscribers = list(range(load.producers)), list(range(load.subscribers))
    if processes == 1 or not producers or not subscribers:
        publishing = processes if producers else 0
        return [
            Task(load, place, publishing, producers[place::processes], subscribers[place::processes])
            for place in range(processes)
        ]
    share = round(processes * len(producers) / (len(producers) + len(subscribers)))
    publishing = min(max(share, 1, processes - len(subscribers)), processes - 1, len(producers))
    receiving = processes - publishing
    return [
        *(Task(load, place, publishing, producers[place::publishing], []) for place in range(publishing)),
        *(Task(load, 0, publishing, [], subscribers[place::receiving]) for place in range(receiving)),
    ]


async def _setting(client: Client, load: Load, command: str) -> Setting:
    described = await client.describe("")
    here = fingerprint()
    return Setting(
        command=command,
        broker=described.broker,
        durability=described.durability,
        server=described.settings.get("server", ""),
        storage=described.settings.get("storage", ""),
        address=client.address,
        client=portask.__version__,
        codec=load.codec,
        compression=load.compression,
        python=str(here["python"]),
        kernel=str(here["kernel"]),
        cores=int(here["cores"]),
        cpu_model=str(here["cpu_model"]),
    )


def command_line(load: Load, processes: int, waits: float | None) -> str:
    """The command that does the same again, defaults spelt out."""
    words: list[tuple[str, object]] = []
    if load.messages is not None:
        words.append(("messages", load.messages))
    if load.seconds is not None:
        words.append(("duration", f"{load.seconds:g}s"))
    if load.kind == "sub":
        words.append(("from", load.since.isoformat() if load.since else load.start))
    else:
        words += [("size", load.size), ("filler", "text" if load.text else "random")]
        if load.kind == "latency":
            words.append(("schedule", load.schedule))
        else:
            words.append(("batch", load.batch))
            if load.batch == 1:
                words.append(("in-flight", load.in_flight))
        if load.linger_ms:
            words.append(("linger", f"{load.linger_ms:g}ms"))
        if load.rate:
            words.append(("rate", f"{load.rate:g}"))
        words.append(("producers", load.producers))
    if load.subscribers:
        words.append(("subscribers", load.subscribers))
    if load.group:
        words.append(("group", load.group))
    if waits is not None:
        words.append(("timeout", f"{waits:g}"))
    words.append(("processes", processes))
    if load.kind != "sub":
        words += [("partitions", load.partitions), ("codec", load.codec), ("compression", load.compression)]
    if load.url != DEFAULT_URL:
        words.append(("url", load.url))
    options = [text for name, value in words for text in (f"--{name}", str(value))]
    return shlex.join(["portask", "bench", load.kind, load.topic, *options])
