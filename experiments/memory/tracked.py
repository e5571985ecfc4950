"""One workload on one variant under memray; a line of JSON on standard output. `run.py` starts a process for each.

memray records every call of an allocator between two points: also those of C and Rust libraries, and, with
``trace_python_allocators``, the small objects that Python serves from its own arenas. Free lists (tuples, floats,
frames) stay invisible: what they serve is not allocated.

Two things would spoil the figures:

* What happens once. So the work is done before it is recorded; imports and caches are not charged to the first message.
* memray's own eyes. To know who allocates it sets a profile function, and with one set CPython makes a frame object for
  every call: more allocations than many a ring has. So the profile function is taken away while figures are recorded
  (`blindfold`); only the flame graphs, recorded in another pass, are drawn with it.

What remains of the loop around the variant shows in the rows ``floor/…``.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec

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


class Task(msgspec.Struct, frozen=True):
    """What to record. ``capture`` is where memray's own file goes, empty for nowhere."""

    workload: str
    variant: str
    case: str
    capture: str = ""


class Recorded(msgspec.Struct):
    """What one process found; ``reason`` instead of figures when the variant does not take part.

    Attributes:
        unit: What the figures are for one of.
        units: How many of them went through while memray looked.
        allocations: Calls of an allocator, a unit.
        bytes: Bytes that they asked for, a unit.
        peak: Bytes alive at the worst moment, beyond those alive at the start.
        peak_unit: The same for each unit that the work holds at a time: those of one call, those in flight, or all
            where it keeps them.
    """

    workload: str
    variant: str
    case: str
    unit: str = ""
    units: int = 0
    allocations: float = 0.0
    bytes: float = 0.0
    peak: int = 0
    peak_unit: float = 0.0
    reason: str = ""


def blindfold() -> None:
    """Takes the profile function away from every thread; memray goes on counting, without call stacks."""
    threading.setprofile(None)
    sys.setprofile(None)
    if sys.version_info >= (3, 12):
        threading.setprofile_all_threads(None)
        return
    api = ctypes.pythonapi  # what setprofile_all_threads does, where it does not exist yet
    api.PyInterpreterState_Get.restype = api.PyInterpreterState_ThreadHead.restype = ctypes.c_void_p
    api.PyThreadState_Next.restype = ctypes.c_void_p
    thread = api.PyInterpreterState_ThreadHead(ctypes.c_void_p(api.PyInterpreterState_Get()))
    while thread:
        api._PyEval_SetProfile(ctypes.c_void_p(thread), None, None)  # noqa: SLF001 - it has no public form in 3.11
        thread = api.PyThreadState_Next(ctypes.c_void_p(thread))


def read(capture: Path) -> tuple[int, int, int]:
    """Calls of allocators, bytes they asked for, and the peak, of a memray file."""
    from memray import AllocatorType, FileReader  # noqa: PLC0415 - `run.py` imports this module without memray

    freeing = {AllocatorType.PYMALLOC_FREE, AllocatorType.FREE, AllocatorType.MUNMAP}
    calls = size = 0
    reader = FileReader(capture)
    for record in reader.get_allocation_records():
        if record.allocator not in freeing:
            calls += record.n_allocations
            size += record.size
    peak = sum(record.size for record in reader.get_high_watermark_allocation_records(merge_threads=True))
    return calls, size, peak


def record(task: Task) -> Recorded:
    """Does the work under memray.

    Raises:
        WrongResult: the variant did something else than it was asked for.
    """
    from memray import Tracker  # noqa: PLC0415 - see `read`

    result = Recorded(task.workload, task.variant, task.case)
    family = workloads.get(task.workload).family
    params = instruments.cases(task.workload)[task.case]
    try:
        with (
            instruments.prepared(task.workload, task.variant, params) as work,
            tempfile.TemporaryDirectory() as folder,
        ):
            each = instruments.perform(work, 1)
            amount = AMOUNT.get(family, AMOUNT_OTHERS)
            scale = _scale(task.workload, params)
            iterations = max(1, round(amount * scale / each))
            instruments.perform(work, iterations)
            if hasattr(work, "before"):
                work.before(iterations)
            gc.collect()
            blindfold()  # so that what it sets up itself is there before memray looks
            capture = Path(folder, "memray.bin")
            with Tracker(capture, native_traces=False, trace_python_allocators=True):
                blindfold()
                done = work.run(iterations)
            calls, size, result.peak = read(capture)
            if task.capture:
                if hasattr(work, "before"):
                    work.before(iterations)
                with Tracker(task.capture, native_traces=False, trace_python_allocators=True):
                    work.run(iterations)
            work.verify()
    except NotForThis as reason:
        result.reason = str(reason)
        return result
    result.unit = UNITS.get(_counted(task.workload), "message")
    result.units = round(done / scale)
    result.allocations, result.bytes = calls / result.units, size / result.units
    held = (
        result.units
        if task.workload in KEEPS
        else min(result.units, IN_FLIGHT.get(family, max(1, round(each / scale))))
    )
    result.peak_unit = result.peak / held
    return result


def _counted(workload: str) -> str:
    """The unit of work, from the unit of the workload's rate (``records/s``) or cost (``ns/buffer``)."""
    metric = workloads.get(workload).metrics[0]
    over, _, under = metric.unit.partition("/")
    return under if metric.inverse else over


def _scale(workload: str, params: Params) -> float:
    """Work that one unit is. Compression counts raw bytes: there it is the size of an encoded message."""
    if _counted(workload) in UNITS:
        return 1.0
    work: Any
    with instruments.prepared(workload.replace("unpack", "pack"), "never", params) as work:
        return sum(map(len, work.areas)) / (len(work.areas) * int(params["batch"] or 1))


def main() -> None:
    """Reads a `Task` from the first argument."""
    print(msgspec.json.encode(record(msgspec.json.decode(sys.argv[1], type=Task))).decode())


if __name__ == "__main__":
    main()
