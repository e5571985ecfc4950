"""What the conductor and the processes that make the load tell each other: one JSON object a line."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from portask.cli.bench.ledger import Stream
from portask.client.options import Access

Kind: TypeAlias = Literal["pub", "sub", "both", "latency"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes have to do together. Attributes are those of the command's options.

    Attributes:
        url: Where the broker is.
        access: How to get in: arguments of `portask.connect`. A token is one of them: it goes to the processes by
            their stdin, where nobody else sees it.
        kind: The command.
        topic: What to publish to, or the filter to subscribe to.
        run: Stands in every payload; of no meaning for ``sub``.
        size: Bytes a payload.
        text: Whether fillers are records of JSON, instead of random bytes.
        messages: To publish in all; ``None`` without such a limit.
        seconds: To publish for; ``None`` likewise.
        producers: How many there are, over all processes.
        subscribers: Likewise.
        batch: Messages that are given to one ``publish_many``; 1 publishes each for itself.
        linger_ms: How long a message may wait for others.
        in_flight: Most messages of one producer that are unacknowledged, where each is published for itself.
        rate: Messages a second in all; 0 for as many as possible.
        schedule: Of ``latency``: ``constant`` or ``poisson``.
        partitions: That the topic has; of no meaning for ``sub``.
        start: Where ``sub`` begins: ``earliest``, ``latest`` or an offset.
        since: Or from when on, instead.
        group: What the subscribers are members of; empty for none.
        codec: By name.
        compression: Likewise.
    """

    url: str
    access: Access = {}
    kind: Kind
    topic: str
    run: int = 0
    size: int = 128
    text: bool = False
    messages: int | None = None
    seconds: float | None = None
    producers: int = 0
    subscribers: int = 0
    batch: int = 1
    linger_ms: float = 0
    in_flight: int = 1000
    rate: float = 0
    schedule: str = "constant"
    partitions: int = 1
    start: Literal["earliest", "latest"] | int = "latest"
    since: datetime | None = None
    group: str = ""
    codec: str = ""
    compression: str = ""


class Task(msgspec.Struct, frozen=True):
    """The share of one process.

    Attributes:
        load: What is to be done together.
        place: Which of the processes that publish, from 0.
        of: How many processes publish.
        producers: The numbers of those that run here.
        subscribers: Likewise.
    """

    load: Load
    place: int
    of: int
    producers: list[int]
    subscribers: list[int]


class Go(msgspec.Struct, frozen=True, tag=True):
    """To a process that is ready: begins at ``start``, ns of CLOCK_MONOTONIC."""

    start: int


class Halt(msgspec.Struct, frozen=True, tag=True):
    """Publish nothing more."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Receive nothing more, report and end."""


Order: TypeAlias = Go | Halt | Stop


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Every client is connected, every subscription made."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Every tenth of a second, and once all is published.

    Attributes:
        published: Messages that were acknowledged.
        received: By subscriber, messages that came.
        produced: Whether nothing more will be published here.
    """

    published: int
    received: list[int]
    produced: bool


class Series(msgspec.Struct):
    """What was counted when.

    Attributes:
        times: ns of CLOCK_MONOTONIC, ascending.
        values: The count at each of them.
    """

    times: list[int]
    values: list[int]


class ProducerReport(msgspec.Struct, frozen=True):
    """What one producer did: by partition, the messages it made and those of them that were acknowledged."""

    number: int
    made: list[int]
    acked: list[int]


class SubscriberReport(msgspec.Struct, frozen=True):
    """What one subscriber received; see `portask.cli.bench.ledger.Ledger`.

    Attributes:
        batches: (Messages in a delivered batch, how often).
        first: When its first message came, ns; 0 for none.
    """

    number: int
    messages: int
    bytes: int
    altered: int
    foreign: int
    batches: list[tuple[int, int]]
    streams: list[Stream]
    first: int


class Timing(msgspec.Struct):
    """What an open loop found, of messages due within the window.

    Attributes:
        filled: Of the histogram of latencies (ns, `LATENCY_BITS`).
        total: Likewise.
        largest: Likewise.
        arrived: Messages that came before the window's end.
        sends: Messages that were sent.
        late: Those that were sent too late.
        worst: The most by which one was, ns.
    """

    filled: list[tuple[int, int]] = []
    total: int = 0
    largest: int = 0
    arrived: int = 0
    sends: int = 0
    late: int = 0
    worst: int = 0


LATENCY_BITS = 7
"""A latency is known to within 0.8%."""


class Failure(msgspec.Struct, frozen=True):
    """Why a process could not go on: an error's code (see `portask.errors`) and text."""

    code: str
    text: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """The last word of a process.

    Attributes:
        published: Messages acknowledged, over time.
        received: Messages received, over time.
        received_bytes: Their payloads.
        cpu: CPU time of the process, ns, over time.
        waited: Time for which it waited for a core, ns, over time; empty where the kernel does not say.
        batches: Batches that were formed, the messages in them, and their bytes.
        producers: One each.
        subscribers: One each.
        timing: Of ``latency``.
        failure: If it could not go on.
    """

    published: Series
    received: Series
    received_bytes: Series
    cpu: Series
    waited: Series
    batches: tuple[int, int, int]
    producers: list[ProducerReport]
    subscribers: list[SubscriberReport]
    timing: Timing
    failure: Failure | None = None


Word: TypeAlias = Ready | Progress | Report
