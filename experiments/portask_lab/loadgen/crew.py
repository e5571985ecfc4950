"""Closed loops in several processes at once, each with topics of its own: one process cannot load several cores.

``python -m portask_lab.loadgen.crew`` is one of them. All begin at the same moment and count in the same window. A
`Crew` knows when it was itself the limit: each of its processes was busy all the time, and the broker was not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from portask.errors import PortaskError
from portask_lab.loadgen import closedloop
from portask_lab.loadgen.consumer import CountingConsumer
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Ring
from portask_lab.loadgen.team import Team, answer
from portask_lab.workloads import WrongResult

SATURATED = 0.9
"""Share of the time from which on a thread counts as busy all the time: some waits are its own, for the next window."""
_AHEAD_NS = 100_000_000
"""How long before they begin all are told when."""


class Load(msgspec.Struct):
    """What one process drives: a publisher and a subscriber on each of its topics.

    Attributes:
        port: Of the broker.
        topics: Its own.
        size: Bytes a payload.
        count: Messages a publish.
        in_flight: Batches under way, a topic.
        seconds: Including the warm-up.
        seed: For the payloads.
    """

    port: int
    topics: list[str]
    size: int
    count: int
    in_flight: int
    seconds: float
    seed: int = 0


class _Start(msgspec.Struct):
    at: int


class _Ready(msgspec.Struct):
    error: str = ""


class _Found(msgspec.Struct):
    rate: float = 0.0
    received: int = 0
    busy: float = 0.0
    error: str = ""
    wrong: bool = False


class Outcome(msgspec.Struct):
    """What a crew found.

    Attributes:
        rate: Messages a second that arrived, all together.
        received: Messages received.
        busy: Of its least busy process: share of the window that it was on a core or waited for one.
    """

    rate: float
    received: int
    busy: float


def run(loads: Sequence[Load], window: Callable[[], None] = lambda: None) -> Outcome:
    """One closed loop in each of as many processes.

    Args:
        loads: One a process; of the same length.
        window: Called when the window begins and when it ends.

    Raises:
        WrongResult: something was lost, repeated, reordered or altered.
        PortaskError: the broker refused something or hung up.
    """
    with Team("portask_lab.loadgen.crew", [()] * len(loads)) as team:
        for ready in team.ask(loads, _Ready):
            if ready.error:
                raise PortaskError(ready.error)
        start = time.monotonic_ns() + _AHEAD_NS
        team.tell([_Start(start)] * len(loads))
        seconds = loads[0].seconds
        _sleep_until(start + int(closedloop.WARM_UP * seconds * 1e9))
        window()
        _sleep_until(start + int(seconds * 1e9))
        window()
        found = team.hear(_Found)
    for each in found:
        if each.error:
            raise (WrongResult if each.wrong else PortaskError)(each.error)
    return Outcome(
        sum(each.rate for each in found),
        sum(each.received for each in found),
        min(each.busy for each in found),
    )


def limit(generator: float, broker: float) -> str:
    """Why a closed loop says nothing about the broker; empty if it does. Both: busy shares, 0 to 1."""
    if generator < SATURATED or broker >= SATURATED:
        return ""
    return (
        f"the load generator was too slow: each of its processes was busy {generator:.0%} of the time, the busiest of "
        f"the broker's {broker:.0%}"
    )


def _sleep_until(at: int) -> None:
    time.sleep(max(0, at - time.monotonic_ns()) / 1e9)


def main() -> None:
    """One process."""
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    senders: list[tuple[Publisher, Ring]] = []
    takers: list[CountingConsumer] = []
    try:
        for topic in load.topics:
            ring = Ring(load.size, load.count, 0, load.in_flight, load.seed)
            senders.append((Publisher(load.port, topic), ring))
            takers.append(CountingConsumer(load.port, topic, load.count, load.size, [ring.length]))
    except PortaskError as error:
        answer(_Ready(str(error)))
        return
    answer(_Ready())
    start = msgspec.json.decode(sys.stdin.readline(), type=_Start)
    try:
        found = closedloop.run(senders, takers, load.seconds, load.in_flight, start=start.at, paired=True)
    except PortaskError as error:
        answer(_Found(error=str(error), wrong=isinstance(error, WrongResult)))
        return
    answer(_Found(found.rate, found.received, found.busy))


if __name__ == "__main__":
    main()
