"""CPU at a fixed rate: what the broker burns in all its threads and processes, and the whole machine beside it.

Loopback work can be charged to the sender: the kernel runs the receiver's half of TCP within the sender's
call. Hence the machine's busy time beside the broker's. The generator sleeps between batches.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from portask.measuring import schedule
from portask.registry import Entry
from portask_lab.loadgen import clients, openloop
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.processes import Child, Machine
from portask_lab.workloads import Measurement, NotForThis, Params
from portask_lab.workloads.network.subjects import Timed, delivered, is_relay, number, product, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_IDLE_SECONDS = 0.4
_BACKLOG_SECONDS = 0.1
"""More than what is due in this time under way at once voids the run: the broker did not keep up."""


class _Reading(NamedTuple):
    at: float
    cpu: float
    machine: Machine


class _Meter:
    """Reads the clocks at both ends of a window."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._readings: list[_Reading] = []

    def read(self) -> None:
        """One end."""
        self._readings.append(_Reading(time.monotonic(), self._child.cpu(), Machine()))

    def idle(self, seconds: float) -> float:
        """% of a core while nothing happens."""
        at, cpu = time.monotonic(), self._child.cpu()
        time.sleep(seconds)
        return (self._child.cpu() - cpu) / (time.monotonic() - at) * 100

    @property
    def cpu(self) -> float:
        """% of a core in the window."""
        first, last = self._readings
        return (last.cpu - first.cpu) / (last.at - first.at) * 100

    @property
    def machine(self) -> float:
        """% of a core that the whole machine was busy in the window, everything included."""
        first, last = self._readings
        return last.machine.since(first.machine) / (last.at - first.at) * 100


class Cpu:
    """By the lean generator: ``rate`` messages a second of ``size`` bytes, ``batch`` a publish.

    They come from ``producers`` connections that take turns, so each has less to put into a batch: with the same batch,
    a message lingers so many times longer.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.rate = number(params, "rate")
        self.size = number(params, "size")
        self.batch = number(params, "batch")
        self.producers = number(params, "producers") if "producers" in params else 1
        self.params = params
        self.seed = seed

    def measure(self, seconds: float) -> Measurement:
        """Some tenths of a second of idling, then one open-loop run that fills the rest of ``seconds``."""
        if self.producers > 1 and is_relay(self.entry):
            raise NotForThis("a relay has one producer: it joins two connections")
        times = schedule.constant(self.rate / self.batch, seconds - _IDLE_SECONDS)
        gap = int(1e9 * self.producers / self.rate)
        sources = [
            Batches(self.size, self.batch, gap=gap, seed=self.seed, publisher=place)
            for place in range(self.producers)
        ]
        with start(self.entry, self.params) as child:
            meter = _Meter(child)
            with Timed(child, self.entry, sources, self.size, len(times)) as link:
                rest = meter.idle(_IDLE_SECONDS)
                outcome = openloop.run(link.streams, link.consumer, times, spin=False, window=meter.read)
        return self._measurement(meter, rest, outcome, delivered(outcome.deliveries))

    def _measurement(
        self, meter: _Meter, idle: float, outcome: openloop.Outcome, batches: str
    ) -> Measurement:
        most = self.rate * _BACKLOG_SECONDS
        invalid = outcome.invalid
        if not invalid and outcome.backlog > most:
            invalid = (
                f"the broker did not keep up: {outcome.backlog:,} messages were under way, {most:,.0f} may be"
            )
        note = (
            f"cpu: windows of {outcome.seconds:.1f} s; {self.producers} "
            f"producer{'s' * (self.producers > 1)}, batches of {self.batch}, from each one every "
            f"{1000 * self.batch * self.producers / self.rate:g} ms, which is the longest a message lingers; "
            f"delivered in batches of {batches}"
        )
        return Measurement(
            metrics={
                "cpu": [meter.cpu],
                "idle": [idle],
                "machine": [meter.machine],
                "p50": [percentile(sorted(outcome.latencies), 0.5) / 1000],
                "backlog": [float(outcome.backlog)],
            },
            notes=[note],
            invalid=invalid,
        )

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""


class ClientCpu(Cpu):
    """By Python clients, which may cut or join the batches as they please."""

    def measure(self, seconds: float) -> Measurement:
        """Some tenths of a second of idling, then one open-loop run that fills the rest of ``seconds``."""
        subject = product(self.entry, self.params)
        times = schedule.constant(self.rate / self.batch, seconds - _IDLE_SECONDS)
        with subject.start() as child:
            meter = _Meter(child)
            rest = meter.idle(_IDLE_SECONDS)
            work = clients.open_loop(
                subject,
                child.port,
                times,
                self.size,
                self.seed,
                batch=self.batch,
                spin=False,
                window=meter.read,
            )
            outcome = clients.run(work, fine_timers=True)
        return self._measurement(meter, rest, outcome, "the client's making")
