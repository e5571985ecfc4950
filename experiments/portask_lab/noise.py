"""The noise ledger: what else the machine did while a block ran, and the rule that throws a block out.

The rule is fixed before anything is measured and looks at nothing but the ledger, never at a result, and it voids a
whole block, never one arm: otherwise it would be a way to choose results. It asks for two things:

* *steal*, CPU time that the hypervisor gave to other guests;
* *foreign*, CPU time that processes outside the run used, as a share of all cores.

Involuntary context switches, PSI (time in which some task waited for a CPU) and the load average are recorded and
shown, not
judged: they count the run's own threads and processes competing with each other too. What a kernel does not tell is
``None`` in the ledger, and a note says once which part is missing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from portask_lab.results import Noise


class Rule(msgspec.Struct, frozen=True):
    """When a block is void: any figure above its limit.

    Attributes:
        steal: Share of CPU time, 0 to 1.
        foreign: Share of all cores, 0 to 1.
    """

    steal: float = 0.05
    foreign: float = 0.20

    def void(self, noise: Noise, cores: int) -> str:
        """Why the block must not count; empty when it may."""
        if noise.steal is not None and noise.steal > self.steal:
            return f"{noise.steal:.1%} of CPU time was stolen by the hypervisor (limit {self.steal:.0%})"
        if noise.foreign is not None and noise.foreign > self.foreign * cores:
            limit = self.foreign * cores
            return f"other processes used {noise.foreign:.2f} cores (limit {limit:.2f})"
        return ""


class _Reading(msgspec.Struct):
    wall: float
    ticks: tuple[float, float, float] | None
    pressure: float | None
    own: float | None
    involuntary: int | None


class Ledger:
    """Reads the counters when made, and again when closed; the difference is the block's noise.

    Args:
        root: Where ``/proc`` is; tests give another.
    """

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self._before = self._read()

    def close(self) -> Noise:
        """The noise since the ledger was made. Children count once they were waited for."""
        before, after = self._before, self._read()
        seconds = max(after.wall - before.wall, 1e-6)
        noise = Noise(load=_load())
        if before.ticks and after.ticks:
            busy, steal, total = (b - a for a, b in zip(before.ticks, after.ticks, strict=True))
            noise.steal = steal / total if total > 0 else 0.0
            if before.own is not None and after.own is not None:
                # both clocks are coarse: a difference below zero is rounding
                noise.foreign = max(0.0, busy - (after.own - before.own)) / seconds
        if before.pressure is not None and after.pressure is not None:
            noise.pressure = min(1.0, (after.pressure - before.pressure) / 1e6 / seconds)
        if before.involuntary is not None and after.involuntary is not None:
            noise.involuntary = (after.involuntary - before.involuntary) / seconds
        return noise

    def _read(self) -> _Reading:
        own, involuntary = _own()
        return _Reading(time.monotonic(), self._ticks(), self._pressure(), own, involuntary)

    def _ticks(self) -> tuple[float, float, float] | None:
        try:
            first = (self._root / "stat").read_text().split("\n", 1)[0].split()
            values = [int(value) for value in first[1:9]]
        except (OSError, ValueError):
            return None
        if first[0] != "cpu" or len(values) < 8:
            return None
        user, nice, system, _idle, _iowait, _irq, _softirq, steal = values
        hertz = os.sysconf("SC_CLK_TCK")
        return (user + nice + system) / hertz, steal / hertz, sum(values) / hertz

    def _pressure(self) -> float | None:
        try:
            some = (self._root / "pressure" / "cpu").read_text().split("\n", 1)[0]
            return float(some.rpartition("total=")[2])
        except (OSError, ValueError):
            return None


def missing(noise: Noise) -> str:
    """A note on what this kernel does not tell; empty when it tells everything."""
    names = {
        "steal": "/proc/stat",
        "pressure": "/proc/pressure/cpu",
        "involuntary": "getrusage",
        "load": "getloadavg",
    }
    absent = [f"{name} ({source})" for name, source in names.items() if getattr(noise, name) is None]
    return f"the noise ledger lacks {', '.join(absent)}: not available on this system" if absent else ""


def _own() -> tuple[float | None, int | None]:
    try:
        import resource  # noqa: PLC0415 - POSIX only
    except ImportError:
        return None, None
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage), usage[1].ru_nivcsw


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
