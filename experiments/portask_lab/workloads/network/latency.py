"""End-to-end latency: open loop, from the intended send time to the arrival at the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.measuring import schedule
from portask.registry import Entry
from portask_lab.loadgen import clients, closedloop, openloop
from portask_lab.loadgen.consumer import CountingConsumer
from portask_lab.loadgen.latencies import histogram, percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches, Ring
from portask_lab.loadgen.processes import Child
from portask_lab.workloads import Measurement, NotForThis, Params
from portask_lab.workloads.network.subjects import TOPIC, Timed, is_relay, number, product, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_SPIN_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_PROBE_IN_FLIGHT = 1000


class _Latency:
    """Reads the parameters: ``rate`` (messages a second, or ``"80% of the most"``), ``size`` (bytes), ``schedule``."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.size = number(params, "size")
        self.schedule = str(params["schedule"])
        self.rate = params["rate"]
        self.params = params
        self.seed = seed

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""

    def _measurement(self, outcome: openloop.Outcome, note: str) -> Measurement:
        ordered = sorted(outcome.latencies)
        late = sorted(outcome.lateness)
        shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        metrics = {name: [percentile(ordered, share) / 1000] for name, share in shares.items()}
        metrics |= {"achieved": [outcome.achieved], "late": [percentile(late, 0.99) / 1000]}
        rate = float(self.rate) if isinstance(self.rate, int | float) else outcome.rate
        curve = histogram(ordered, "p99", rate, self.schedule)
        return Measurement(
            metrics=metrics, latencies=[curve], notes=[note] if note else [], invalid=outcome.invalid
        )


class Latency(_Latency):
    """One message a publish, by the lean generator."""

    def measure(self, seconds: float) -> Measurement:
        """One open-loop run of so many seconds, warm-up included."""
        if self.entry.name == "relay-spin" and seconds < _SPIN_SECONDS:
            raise NotForThis(
                "two spinning processes leave no core to the rest of the machine: only long runs bear that"
            )
        note = ""
        rate = self.rate
        if isinstance(rate, str):
            share = float(rate.partition("%")[0]) / 100
            most = self._most()
            rate = share * most
            name = self.entry.name
            note = f"server/{name}: {rate:,.0f} msg/s are {share:.0%} of the most, {most:,.0f}, published one at a time"
        times = schedule.make(self.schedule, float(rate or 0), seconds, self.seed)
        batches = Batches(self.size, seed=self.seed)
        with (
            start(self.entry, self.params) as child,
            Timed(child, self.entry, [batches], self.size, len(times)) as link,
        ):
            outcome = openloop.run(link.streams, link.consumer, times)
        return self._measurement(outcome, note)

    def _most(self) -> float:
        """Messages a second, published one at a time, of generator and broker together, on brokers of their own.

        A closed loop says what the broker takes of frames that were made before; an open loop at that rate, what comes
        through of those that are stamped one by one.
        """
        if is_relay(self.entry):
            raise NotForThis("a relay acknowledges nothing, so a closed loop of it has no end")
        with start(self.entry, self.params) as child:
            flat_out = saturate(child, self.size, 1, _PROBE_IN_FLIGHT, _PROBE_SECONDS, self.seed).rate
        times = schedule.constant(flat_out, _PROBE_SECONDS)
        batches = Batches(self.size, seed=self.seed)
        with (
            start(self.entry, self.params) as child,
            Timed(child, self.entry, [batches], self.size, len(times)) as link,
        ):
            return min(flat_out, openloop.run(link.streams, link.consumer, times).achieved)


class ClientLatency(_Latency):
    """One message a publish, by Python clients."""

    def measure(self, seconds: float) -> Measurement:
        """One open-loop run of so many seconds, warm-up included."""
        subject = product(self.entry, self.params)
        times = schedule.make(self.schedule, float(self.rate or 0), seconds, self.seed)
        with subject.start() as child:
            outcome = clients.run(clients.open_loop(subject, child.port, times, self.size, self.seed))
        return self._measurement(outcome, subject.note)


def saturate(  # noqa: PLR0917 - each is needed and named where it is called
    child: Child,
    size: int,
    count: int,
    in_flight: int,
    seconds: float,
    seed: int,
    publishers: int = 1,
    subscribers: int = 1,
) -> closedloop.Throughput:
    """One closed-loop run against a broker."""
    rings = [Ring(size, count, place, in_flight, seed) for place in range(publishers)]
    senders: list[tuple[Publisher, Ring]] = []
    takers: list[CountingConsumer] = []
    try:
        for ring in rings:
            senders.append((Publisher(child.port, TOPIC), ring))  # noqa: PERF401 - what was opened is closed, also when the next fails
        lengths = [ring.length for ring in rings]
        for _ in range(subscribers):
            takers.append(CountingConsumer(child.port, TOPIC, count, size, lengths))  # noqa: PERF401 - what was opened is closed, also when the next fails
        return closedloop.run(senders, takers, seconds, in_flight)
    finally:
        for sender, _ in senders:
            sender.close()
        for taker in takers:
            taker.close()
