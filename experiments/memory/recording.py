"""What memray records, and how it is read.

memray records every call of an allocator between two points: also those of C and Rust libraries, and, with
``trace_python_allocators``, the small objects that Python serves from its own arenas. Free lists (tuples, floats,
frames) stay invisible: what they serve is not allocated.

Two things would spoil the figures.

*What happens once.* So the work is done before it is looked at: the first message does not pay for imports and caches.

*memray's own eyes.* To know who allocates it sets a profile function, and with one set CPython makes a frame object
for every call: more allocations than many a ring has. While figures are taken, no profile function may be called.
Taking it away would not do: memray sets it again whenever C calls Python, as uvloop does for each event. So tracing
is suspended (`blindfolded`). That has a price: memray remembers which frames were running when it began, and reads
them later. None of them may end while it is blindfolded, in no thread, else it reads freed memory. Hence it begins
early, when there is one thread and that one's frames will outlive the recording; the variant is prepared, and its
threads start, under its blind eyes; and two marks in the recording (`mark`) say which part of it counts.

Flame graphs need the eyes: they are recorded in another pass.

What remains of the loop around the variant shows in the rows ``floor/…``.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


class Task(msgspec.Struct, frozen=True):
    """What to record. ``capture`` is where memray's own file for the flame graph goes, empty for none."""

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
        peak_unit: The same for each unit that is held at a time: those of one call, those in flight, or all where the
            work keeps them.
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

    @classmethod
    def of(cls, task: Task, capture: Path, unit: str, units: int, held: int) -> Recorded:
        """From a file of memray's.

        Args:
            task: What was recorded.
            capture: The file.
            unit: What is counted.
            units: How many went through.
            held: How many are held at a time.
        """
        calls, size, peak = read(capture)
        return cls(
            task.workload,
            task.variant,
            task.case,
            unit,
            units,
            calls / units,
            size / units,
            peak,
            peak / held,
        )


def tracker(capture: Path | str) -> Any:
    """A context manager that records into ``capture``."""
    from memray import Tracker  # noqa: PLC0415 - `run.py` says what to do when memray is missing

    return Tracker(capture, native_traces=False, trace_python_allocators=True)


@contextlib.contextmanager
def blindfolded() -> Iterator[None]:
    """This thread calls no profile function, whoever sets one. To be entered before `tracker`, left after it."""
    ctypes.pythonapi.PyThreadState_Get.restype = ctypes.c_void_p
    thread = ctypes.c_void_p(ctypes.pythonapi.PyThreadState_Get())
    ctypes.pythonapi.PyThreadState_EnterTracing(thread)
    try:
        yield
    finally:
        ctypes.pythonapi.PyThreadState_LeaveTracing(thread)


def mark() -> None:
    """Leaves a mark in the recording: an allocation of a size that nobody else asks for."""
    bytes(_MARK)


_MARK = 7_654_321
_MARK_HEADER = 64
"""More than the bytes object's own header."""


def read(capture: Path) -> tuple[int, int, int]:
    """Calls of allocators between the two marks, the bytes they asked for, and the most that was alive of them.

    Raises:
        ValueError: there are not two marks.
    """
    from memray import AllocatorType, FileReader  # noqa: PLC0415 - see `tracker`

    freeing = {AllocatorType.PYMALLOC_FREE, AllocatorType.FREE, AllocatorType.MUNMAP}
    marks = calls = size = alive = peak = 0
    sizes: dict[int, int] = {}
    for record in FileReader(capture).get_allocation_records():
        if record.allocator in freeing:
            alive -= sizes.pop(record.address, 0)
        elif _MARK <= record.size < _MARK + _MARK_HEADER:
            marks += 1
        elif marks == 1:
            calls += record.n_allocations
            size += record.size
            alive += record.size - sizes.pop(record.address, 0)
            sizes[record.address] = record.size
            peak = max(peak, alive)
    if marks != 2:
        raise ValueError(f"{capture} has {marks} marks, two were expected")
    return calls, size, peak
