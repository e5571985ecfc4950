"""What is measured: a broker with one server variant, a relay, or a peer. Started for one job, ended after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast

from portask.registry import Entry
from portask_lab.loadgen import broker, relay
from portask_lab.loadgen.consumer import TimedConsumer
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.processes import Child
from portask_lab.peers import PEERS, Product
from portask_lab.peers.portask import Portask
from portask_lab.workloads import Params
from portask_lab.workloads.network import RELAYS

TOPIC = "lab"


def is_relay(entry: Entry) -> bool:
    """Whether the row is a relay: nothing is said to it but bytes."""
    return entry in {stick.entry for stick in RELAYS}


def start(entry: Entry, params: Params) -> Child:
    """The server behind a lean workload's row."""
    if is_relay(entry):
        made: relay.Relay = entry.make()
        return made.start()
    return broker.start(entry.name, parts=parts(params), limits=broker.FLOW)


def product(entry: Entry, params: Params) -> Product:
    """The product behind a client workload's row."""
    if entry in {stick.entry for stick in PEERS}:
        return cast("Product", entry.make())
    return Portask(entry.name, parts(params))


def parts(params: Params) -> dict[str, str]:
    """Family → variant of a broker that is not all reference but for its server: ``codec=struct storage=…``."""
    pairs = (pair.partition("=") for pair in str(params.get("parts") or "").split())
    return {family: name for family, _, name in pairs}


def number(params: Params, name: str) -> int:
    """An integer parameter."""
    return int(params[name] or 0)


class Timed:
    """A publisher and a consumer of one topic, for the open loop. A context manager."""

    def __init__(self, child: Child, entry: Entry, batches: Batches, size: int, expected: int) -> None:
        bare = is_relay(entry)
        # The publisher first: a relay sends from the first connection to the second.
        self.publisher = Publisher(child.port, TOPIC, bare=bare)
        self.consumer = TimedConsumer(child.port, TOPIC, batches.count, size, expected, bare=bare)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.publisher.close()
        self.consumer.close()


def delivered(deliveries: Mapping[int, int]) -> str:
    """In words, how many messages the delivered batches had."""
    counts = Counter(deliveries)
    total = sum(counts.values())
    if not total:
        return "unknown"
    if len(counts) == 1:
        return f"{next(iter(counts))} each"
    ordered = sorted(counts.elements()) if total <= 1_000_000 else sorted(counts)
    return f"{ordered[0]} to {ordered[-1]}, median {ordered[len(ordered) // 2]}"
