"""One workload on one variant under memray; a line of JSON on standard output. `run.py` starts a process for each."""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
from pathlib import Path

import msgspec

from memory import broker
from memory.recording import Recorded, Task, blindfolded, mark, tracker
from portask_lab import instruments, workloads
from portask_lab.workloads import NotForThis, Params

UNITS = {
    "msg": "message",
    "records": "record",
    "record": "record",
    "buffer": "buffer",
    "steps": "step",
    "step": "step",
}
AMOUNT = {"workers": 100, "pool": 1_600}
"""Units of work that are recorded, by family; enough that what happens once in a while is seen."""
AMOUNT_OTHERS = 5_000
KEEPS = frozenset({"storage.append"})
"""Workloads that keep what they are given until the end of the run."""
IN_FLIGHT = {"workers": 64}
"""Units that a family's workloads hold at a time, where it is not what one call handles."""


def record(task: Task) -> Recorded:
    """Does the work under memray.

    Raises:
        WrongResult: the variant did something else than it was asked for.
    """
    family = workloads.get(task.workload).family
    params = instruments.cases(task.workload)[task.case]
    instruments.corpus(str(params.get("corpus") or ""))  # loaded before memray looks
    try:
        if family == "server":
            return broker.record(task, params)
        if task.capture:
            _draw(task, params)
        with tempfile.TemporaryDirectory() as folder:
            return _record(task, params, Path(folder, "memray.bin"))
    except NotForThis as reason:
        return Recorded(task.workload, task.variant, task.case, reason=str(reason))


def _record(task: Task, params: Params, capture: Path) -> Recorded:
    family = workloads.get(task.workload).family
    scale = _scale(task.workload, params)
    with blindfolded(), tracker(capture):
        threading.setprofile(None)  # for the threads that the variant starts
        with instruments.prepared(task.workload, task.variant, params) as work:
            each = instruments.perform(work, 1) / scale
            iterations = max(1, round(AMOUNT.get(family, AMOUNT_OTHERS) / each))
            instruments.perform(work, iterations)
            if hasattr(work, "before"):
                work.before(iterations)
            gc.collect()
            mark()
            units = round(work.run(iterations) / scale)
            mark()
            work.verify()
    held = units if task.workload in KEEPS else IN_FLIGHT.get(family, max(1, round(each)))
    return Recorded.of(task, capture, UNITS.get(_counted(task.workload), "message"), units, min(units, held))


def _draw(task: Task, params: Params) -> None:
    """The recording for the flame graph, with call stacks."""
    with instruments.prepared(task.workload, task.variant, params) as work:
        iterations = instruments.iterations(task.workload, work)
        instruments.perform(work, iterations)
        if hasattr(work, "before"):
            work.before(iterations)
        with tracker(task.capture):
            work.run(iterations)


def _counted(workload: str) -> str:
    """The unit of work, from the unit of the workload's rate (``records/s``) or cost (``ns/buffer``)."""
    metric = workloads.get(workload).metrics[0]
    over, _, under = metric.unit.partition("/")
    return under if metric.inverse else over


def _scale(workload: str, params: Params) -> float:
    """Work that one unit is. Compression counts raw bytes: there it is the size of an encoded message."""
    if _counted(workload) in UNITS:
        return 1.0
    with instruments.prepared(workload.replace("unpack", "pack"), "never", params) as work:
        return sum(map(len, work.areas)) / (len(work.areas) * int(params["batch"] or 1))


def main() -> None:
    """Reads a `Task` from the first argument."""
    print(msgspec.json.encode(record(msgspec.json.decode(sys.argv[1], type=Task))).decode())


if __name__ == "__main__":
    main()
