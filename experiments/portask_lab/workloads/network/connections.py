"""Connections: a round trip on each, a while, and a round trip again; then all hang up and come back at once.

What the processes cannot reach is not reached: nothing here is extrapolated. One process holds as many sockets as its
limit of open files allows, on both ends; ``workers`` and ``processes`` say how many there are of each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from portask.registry import Entry
from portask_lab.loadgen.crowd import Crowd, Report, most
from portask_lab.loadgen.latencies import percentile
from portask_lab.workloads import Measurement, Params, WrongResult
from portask_lab.workloads.network.subjects import number, start, workers

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_UNEVEN = 0.95
"""The kernel shares connections among workers by a hash: so much of their limits together can be counted on."""


class Connections:
    """``connections`` of them from ``processes`` clients, held ``hold`` seconds; 0 for as many as open files allow.

    At most 256 are being set up at once in each client process.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.params = params
        self.wanted = number(params, "connections")
        self.hold = number(params, "hold")
        self.processes = number(params, "processes")
        self.broken = False

    def measure(self, seconds: float) -> Measurement:
        """Connects a tenth and then the rest, so that memory has a slope; counts those that answer after the hold."""
        count_workers = workers(self.params)
        each = most()
        limit = min(
            each * self.processes, each if count_workers == 1 else int(each * count_workers * _UNEVEN)
        )
        count = min(self.wanted, limit) if self.wanted else limit
        with start(self.entry, self.params) as child, Crowd(child.port, self.processes) as crowd:
            before = child.processes()
            first = crowd.grow(count // 10)
            little, slab = child.private(), _kernel()
            second = crowd.grow(count - count // 10)
            memory = (child.private() - little) / max(1, second.alive)
            kernel = (_kernel() - slab) / max(1, second.alive)
            trip = crowd.round_trip()
            time.sleep(self.hold)
            last = crowd.round_trip()
            storm = crowd.storm()
            after = crowd.round_trip()
            self.broken = not child.alive or child.processes() != before
        steps = {
            "ramp": first,
            "rest of the ramp": second,
            "first round trip": trip,
            "round trip after the hold": last,
        }
        steps |= {"storm": storm, "round trip after the storm": after}
        return Measurement(
            metrics={
                "alive": [float(last.alive)],
                "failed": [float(sum(step.failed for step in steps.values()))],
                "connect": [(first.alive + second.alive) / max(first.seconds + second.seconds, 1e-9)],
                "memory": [memory],
                "kernel": [kernel],
                "trip": [percentile(sorted(trip.trips + last.trips), 0.99)],
                "storm": [storm.alive / max(storm.seconds, 1e-9)],
            },
            notes=[self._about(count_workers, each, count), *self._failures(steps)],
        )

    def _about(self, count_workers: int, each: int, count: int) -> str:
        which = (
            "one broker process" if count_workers == 1 else f"{count_workers} broker processes at one port"
        )
        return (
            f"connections: {which}, each with a limit of open files that allows {each:,}; {count:,} were asked for by "
            f"{self.processes} client process{'es' * (self.processes > 1)}, held {self.hold} s; kernel memory is of "
            f"both ends, they share this machine"
        )

    def _failures(self, steps: dict[str, Report]) -> list[str]:
        return [
            f"server/{self.entry.name}: {step.failed:,} connections failed in the {name}: "
            + "; ".join(f"{reason} ({times:,})" for reason, times in sorted(step.reasons.items()))
            for name, step in steps.items()
            if step.failed
        ]

    def verify(self) -> None:
        """The broker is still there, each of its processes; each round trip's answer was looked at."""
        if self.broken:
            raise WrongResult("the broker, or a process of it, ended while it held connections")


def _kernel() -> int:
    """Bytes of kernel objects and of TCP buffers."""
    slab = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    tcp = next(
        line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:")
    )
    pages = int(tcp.split()[tcp.split().index("mem") + 1])
    return int(slab.split()[1]) * 1024 + pages * 4096
