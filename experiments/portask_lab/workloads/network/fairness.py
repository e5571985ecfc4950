"""Fairness: what many quiet producers notice of a loud one, or of others who all reconnect at once.

The same quiet load twice on one broker: alone, and beside the disturbance. The generator sleeps between its sends, in
both alike: three processes that spin would leave no core to the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.measuring import schedule
from portask.registry import Entry
from portask_lab.loadgen import openloop
from portask_lab.loadgen.crowd import Crowd
from portask_lab.loadgen.flood import Flood
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.processes import Child
from portask_lab.workloads import Measurement, Params
from portask_lab.workloads.network.subjects import Timed, number, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

LOUD = "a loud producer"
STORM = "reconnects"
_RATE = 1_000.0
_SIZE = 64
_LOUD_SIZE = 100
_CROWD = 2_000
"""Connections that hang up and come back, over and over."""


class Fairness:
    """``quiet`` producers, a connection each, 1,000 messages a second together; ``beside`` says what disturbs them.

    A loud producer puts ``batch`` messages of 100 bytes into a publish.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.params = params
        self.beside = str(params["beside"])
        self.batch = number(params, "batch") if "batch" in params else 1
        self.quiet = number(params, "quiet")
        self.seed = seed

    def measure(self, seconds: float) -> Measurement:
        """Two open-loop runs that fill ``seconds`` together."""
        with start(self.entry, self.params) as child:
            alone = self._run(child, "alone", seconds / 2)
            if self.beside == LOUD:
                with Flood(child.port, _LOUD_SIZE, self.batch) as flood:
                    beside = self._run(child, "beside", seconds / 2)
                    done = flood.stop()
                load, what = done.messages / done.seconds, "messages a second of the loud producer"
            else:
                with Crowd(child.port) as crowd:
                    grown = crowd.grow(_CROWD)
                    crowd.begin_storms(seconds / 2)
                    beside = self._run(child, "beside", seconds / 2)
                    done_storms = crowd.end_storms()
                load, what = done_storms.alive / done_storms.seconds, "reconnects a second"
                if failed := grown.failed + done_storms.failed:
                    what += f", {failed} failed"
        before, after = _p99(alone), _p99(beside)
        return Measurement(
            metrics={"ratio": [after / before], "p99": [after], "alone": [before], "load": [load]},
            notes=[f"fairness: the load beside {self.quiet:,} quiet producers is {what}"],
            invalid=alone.invalid or beside.invalid,
        )

    def _run(self, child: Child, topic: str, seconds: float) -> openloop.Outcome:
        sources = [
            Batches(_SIZE, publisher=place, seed=self.seed, distinct=max(2, 1024 // self.quiet))
            for place in range(self.quiet)
        ]
        times = schedule.constant(_RATE, seconds)
        with Timed(child, self.entry, sources, _SIZE, len(times), topic=topic) as link:
            return openloop.run(link.streams, link.consumer, times, spin=False)

    def verify(self) -> None:
        """Nothing more to do: every message was verified when it arrived."""


def _p99(outcome: openloop.Outcome) -> float:
    return percentile(sorted(outcome.latencies), 0.99) / 1000
