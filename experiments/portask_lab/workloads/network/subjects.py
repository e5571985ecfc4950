"""What is measured: a broker with one server variant, a relay, or a peer. Started for one job, ended after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    return broker.start(entry.name, parts=parts(params), limits=broker.FLOW, workers=workers(params))


def product(entry: Entry, params: Params) -> Product:
    """The product behind a client workload's row."""
    if entry in {stick.entry for stick in PEERS}:
        return cast("Product", entry.make())
    return Portask(entry.name, parts(params))


def parts(params: Params) -> dict[str, str]:
    """Family → variant of a broker that is not all reference but for its server: ``codec=struct storage=…``."""
    pairs = (pair.partition("=") for pair in str(params.get("parts") or "").split())
    return {family: name for family, _, name in pairs}


def workers(params: Params) -> int:
    """Processes that the broker is to have."""
    return number(params, "workers") if "workers" in params else 1


def number(params: Params, name: str) -> int:
    """An integer parameter."""
    return int(params[name] or 0)


class Timed:
    """Publishers, and a consumer of all they send, for the open loop. A context manager.

    Args:
        child: Started.
        entry: Its row.
        sources: What each publisher sends.
        size: Bytes a payload.
        expected: Batches that will be sent.
        topic: Of all publishers, each of which has a connection of its own.
        topics: Or that many topics, of which each source has one; then they share one connection.
    """

    def __init__(
        self,
        child: Child,
        entry: Entry,
        sources: Sequence[Batches],
        size: int,
        expected: int,
        *,
        topic: str = TOPIC,
        topics: bool = False,
    ) -> None:
        bare = is_relay(entry)
        self._open: list[Publisher | TimedConsumer] = []
        try:
            # The publishers first: a relay sends from the first connection to the second.
            if topics:
                names = [f"{topic}.{number}" for number in range(len(sources))]
                publishers = [Publisher(child.port, names)] * len(sources)
                self._open.append(publishers[0])
            else:
                publishers = []
                for _ in sources:
                    publishers.append(Publisher(child.port, topic, bare=bare))
                    self._open.append(publishers[-1])
            self.streams = list(zip(publishers, sources, strict=True))
            self.consumer = TimedConsumer(
                child.port,
                f"{topic}.*" if topics else topic,
                sources[0].count,
                size,
                expected,
                publishers=len(sources),
                bare=bare,
            )
            self._open.append(self.consumer)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        for each in self._open:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


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
