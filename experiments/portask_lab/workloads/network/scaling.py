"""Scaling: throughput and latency while one thing grows: connections, topics, subscribers, size, or workers.

Everything else stays small: one publisher, one topic, one subscriber, 100 bytes, one worker.

A closed loop is void when the load generator was the limit: each of its processes busy all the time (on a core, or
waiting for one), and no process of the broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from portask.measuring import schedule
from portask.registry import Entry
from portask_lab.loadgen import closedloop, crew, openloop
from portask_lab.loadgen.consumer import CountingConsumer
from portask_lab.loadgen.crowd import Crowd, Report
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches, Ring
from portask_lab.loadgen.processes import Child
from portask_lab.workloads import Measurement, Params, WrongResult
from portask_lab.workloads.network.subjects import Timed, number, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

AXES = ("connections", "topics", "subscribers", "size", "workers")
"""Parameters: one of them is given."""
_RATE = 1_000.0
_BATCH_BYTES = 16 * 1024
_IN_FLIGHT_BYTES = 1 << 20
_TOPIC = "scale"
PAIRS = 12
"""Publishers, topics and subscribers of the closed loop over workers: the same load for any number of them."""


class _Scaling:
    """One of `AXES` is among the parameters; the others have their smallest value."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.params = params
        self.seed = seed
        self.axis = next(axis for axis in AXES if axis in params)
        self.count = number(params, self.axis)
        self.size = self.count if self.axis == "size" else 100
        self.batch = max(1, min(100, _BATCH_BYTES // self.size))

    def measure(self, seconds: float) -> Measurement:
        """One run that fills ``seconds``, warm-up included, while idle connections are there if that is the axis."""
        with start(self.entry, self.params) as child:
            if self.axis != "connections":
                return self._measure(child, seconds)
            with Crowd(child.port, 1 + self.count // 10_000) as crowd:
                _require(crowd.grow(self.count), "failed")
                found = self._measure(child, seconds)
                _require(crowd.round_trip(), "were lost")
                return found

    def _measure(self, child: Child, seconds: float) -> Measurement:
        raise NotImplementedError

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""


def _require(report: Report, what: str) -> None:
    if report.failed:
        raise WrongResult(f"{report.failed} idle connections {what}: {'; '.join(report.reasons)}")


class ScalingLatency(_Scaling):
    """An open loop of 1,000 messages a second, one a publish, taking turns over the topics."""

    def _measure(self, child: Child, seconds: float) -> Measurement:
        outcome = self._run(child, seconds)
        ordered = sorted(outcome.latencies)
        return Measurement(
            metrics={"p50": [percentile(ordered, 0.5) / 1000], "p99": [percentile(ordered, 0.99) / 1000]},
            invalid=outcome.invalid,
        )

    def _run(self, child: Child, seconds: float) -> openloop.Outcome:
        times = schedule.constant(_RATE, seconds)
        streams = {"topics": self.count, "workers": PAIRS}.get(self.axis, 1)
        sources = [
            Batches(self.size, publisher=place, channel=place + 1, seed=self.seed, distinct=1024 // streams)
            for place in range(streams)
        ]
        with ExitStack() as stack:
            if self.axis == "subscribers":  # others are served first: what is timed is the last one
                others = stack.enter_context(
                    _Others(child.port, f"{_TOPIC}.timed", self.count - 1, self.size)
                )
            link = stack.enter_context(
                Timed(
                    child,
                    self.entry,
                    sources,
                    self.size,
                    len(times),
                    topic=f"{_TOPIC}.timed",
                    topics=streams > 1,
                )
            )
            outcome = openloop.run(link.streams, link.consumer, times)
            if self.axis == "subscribers":
                others.check(len(times))
        return outcome


class ScalingRate(_Scaling):
    """A closed loop, 100 messages a publish, fewer of the larger ones."""

    def _measure(self, child: Child, seconds: float) -> Measurement:
        meter = _Meter(child)
        rate, generator = self._run(child, seconds, meter.read)
        broker = meter.busiest()
        return Measurement(
            metrics={
                "rate": [rate],
                "bytes": [rate * self.size / 1e6],
                "broker": [broker * 100],
                "generator": [generator * 100],
            },
            invalid=crew.limit(generator, broker),
        )

    def _run(self, child: Child, seconds: float, window: Callable[[], None]) -> tuple[float, float]:
        """Messages a second at the consumers, and how busy the generator was."""
        if self.axis == "workers":
            return self._by_a_crew(child, seconds, window)
        streams = self.count if self.axis == "topics" else 1
        in_flight = max(4 if streams == 1 else 2, _IN_FLIGHT_BYTES // (self.size * self.batch * streams))
        rings = [
            Ring(
                self.size,
                self.batch,
                place,
                in_flight,
                self.seed,
                channel=place + 1,
                distinct=1024 // streams,
            )
            for place in range(streams)
        ]
        names = [f"{_TOPIC}.flat.{place}" for place in range(streams)]
        publisher = Publisher(child.port, names)
        takers: list[CountingConsumer] = []
        try:
            lengths = [ring.length for ring in rings]
            for _ in range(self.count if self.axis == "subscribers" else 1):
                taker = CountingConsumer(child.port, f"{_TOPIC}.flat.*", self.batch, self.size, lengths)
                takers.append(taker)
            senders = [(publisher, ring) for ring in rings]
            found = closedloop.run(senders, takers, seconds, in_flight, window=window)
        finally:
            publisher.close()
            for taker in takers:
                taker.close()
        return found.rate, found.busy

    def _by_a_crew(self, child: Child, seconds: float, window: Callable[[], None]) -> tuple[float, float]:
        """As many generators as workers: one of them could not load several."""
        processes = min(self.count, PAIRS)
        names = [f"{_TOPIC}.flat.{place}" for place in range(PAIRS)]
        in_flight = _IN_FLIGHT_BYTES // (self.size * self.batch * PAIRS)
        loads = [
            crew.Load(
                child.port,
                names[place::processes],
                self.size,
                self.batch,
                in_flight,
                seconds,
                self.seed + place,
            )
            for place in range(processes)
        ]
        found = crew.run(loads, window)
        return found.rate, found.busy


class _Others:
    """Subscribers that are not timed. Nobody reads them until the end: what they get fits into their sockets."""

    def __init__(self, port: int, topic: str, count: int, size: int) -> None:
        self._topic = topic
        self._takers: list[CountingConsumer] = []
        Publisher(port, topic).close()  # so that there is a topic to subscribe to
        try:
            for _ in range(count):
                self._takers.append(CountingConsumer(port, topic, 1, size, [1 << 32]))
        except BaseException:
            self.__exit__()
            raise

    def check(self, due: int) -> None:
        """Each got everything."""
        deadline = time.monotonic() + 5
        for taker in self._takers:
            while taker.messages < due and time.monotonic() < deadline:
                try:
                    taker.read()
                except BlockingIOError:
                    time.sleep(0.001)
            if taker.messages != due:
                raise WrongResult(f"a subscriber got {taker.messages} of {due} messages")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for taker in self._takers:
            taker.close()


class _Meter:
    """How busy the busiest process of a broker was in a window."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._readings: list[tuple[int, dict[int, int]]] = []

    def read(self) -> None:
        """Called at both ends of the window."""
        self._readings.append((time.monotonic_ns(), self._child.busy()))

    def busiest(self) -> float:
        """Share of the window that its main thread was on a core or waited for one."""
        (began, first), (ended, last) = self._readings
        return max(((last[pid] - first.get(pid, 0)) / (ended - began) for pid in last), default=0.0)
