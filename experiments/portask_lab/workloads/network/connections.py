"""Connections: as many as one broker process may hold; a round trip on each, a while, and a round trip again.

What one process cannot reach is not reached: nothing here is extrapolated.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from portask.registry import Entry
from portask_lab.loadgen.crowd import Crowd, most
from portask_lab.loadgen.latencies import percentile
from portask_lab.workloads import Measurement, Params, WrongResult
from portask_lab.workloads.network.subjects import number, start

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus


class Connections:
    """``connections`` of them from ``processes`` clients, held ``hold`` seconds; 0 for as many as open files allow."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.params = params
        self.wanted = number(params, "connections")
        self.hold = number(params, "hold")
        self.processes = number(params, "processes")
        self.broken = False

    def measure(self, seconds: float) -> Measurement:
        """Connects a tenth and then the rest, so that memory has a slope; counts those that answer after the hold."""
        limit = most()
        count = min(self.wanted, limit) if self.wanted else limit
        with start(self.entry, self.params) as child, Crowd(child.port, self.processes) as crowd:
            first = crowd.grow(count // 10)
            little, slab = child.private(), _kernel()
            second = crowd.grow(count - count // 10)
            memory = (child.private() - little) / max(1, second.alive)
            kernel = (_kernel() - slab) / max(1, second.alive)
            trip = crowd.round_trip()
            time.sleep(self.hold)
            last = crowd.round_trip()
            self.broken = not child.alive
        failed = first.failed + second.failed + trip.failed + last.failed
        reasons = {**first.reasons, **second.reasons, **trip.reasons, **last.reasons}
        about = (
            f"connections: one broker process, whose limit of open files allows {limit:,}; {count:,} were asked for, "
            f"held {self.hold} s; kernel memory is of both ends, they share this machine"
        )
        notes = [about]
        if reasons:
            notes.append(
                f"server/{self.entry.name}: {failed} connections failed: {'; '.join(sorted(reasons))}"
            )
        return Measurement(
            metrics={
                "alive": [float(last.alive)],
                "failed": [float(failed)],
                "connect": [(first.alive + second.alive) / max(first.seconds + second.seconds, 1e-9)],
                "memory": [memory],
                "kernel": [kernel],
                "trip": [percentile(sorted(trip.trips + last.trips), 0.99)],
            },
            notes=notes,
        )

    def verify(self) -> None:
        """The broker is still there; each round trip's answer was looked at."""
        if self.broken:
            raise WrongResult("the broker ended while it held connections")


def _kernel() -> int:
    """Bytes of kernel objects and of TCP buffers."""
    slab = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    tcp = next(
        line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:")
    )
    pages = int(tcp.split()[tcp.split().index("mem") + 1])
    return int(slab.split()[1]) * 1024 + pages * 4096
