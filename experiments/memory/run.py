"""What a message makes each variant allocate, by memray: ``make memory``.

Every row is a process of its own (`tracked.py`) that runs one of the lab's workloads under memray. Nothing is timed.
memray attributes allocations; it does not measure resident memory: for that see the lab's suite ``memory``.

    python experiments/memory/run.py --family codec --case batch=100
    python experiments/memory/run.py --variant struct --flamegraphs
    python experiments/memory/run.py --json > memory.json
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import msgspec

from memory.recording import Recorded, Task
from portask.contracts import FAMILIES
from portask_lab import instruments, workloads

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
PATIENCE = 120.0
"""Seconds for one process."""
HEAD = ("variant", "workload", "case", "unit", "allocations/unit", "bytes/unit", "peak B/unit", "peak KiB")


LEGEND = """
allocations, bytes: calls of an allocator, and what they asked for. peak: alive at the worst moment beyond the start;
for each unit that is held at a time (those of one call; all, where they are kept). floor/… is the loop alone."""


class Answer(msgspec.Struct):
    """All of a run, as ``--json`` prints it. ``failures`` are processes that crashed or did wrong work."""

    rows: list[Recorded]
    unavailable: dict[str, str]
    failures: dict[str, str]


def tasks(options: argparse.Namespace) -> list[Task]:
    """One for each workload that can be repeated, each of its cases, and each variant that can be used here."""
    found = []
    for workload in workloads.workloads():
        recordable = workload.name == "network.throughput" or hasattr(workload.prepare, "run")
        if not recordable or options.family not in {None, workload.family}:
            continue
        for case in instruments.cases(workload.name):
            for variant in instruments.variants(workload.family) + instruments.yardsticks(workload.name):
                if options.variant in {None, variant} and options.case in f"{workload.name} {case}":
                    name = re.sub(r"[^\w.]+", "-", f"{workload.name}-{variant}-{case}")
                    capture = str(options.out / f"{name}.bin") if options.flamegraphs else ""
                    found.append(Task(workload.name, variant, case, capture))
    order = {name: place for place, name in enumerate(FAMILIES)}
    return sorted(found, key=lambda task: order[workloads.get(task.workload).family])


def perform(task: Task) -> Recorded | str:
    """The row, or what went wrong."""
    if task.capture:
        Path(task.capture).unlink(missing_ok=True)  # memray refuses to write over a file
    command = [sys.executable, str(HERE / "tracked.py"), msgspec.json.encode(task).decode()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"gave no answer within {PATIENCE:.0f} s"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}"
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Recorded)


def draw(task: Task) -> str:
    """The flame graph of the task's capture, by memray; returns its path, or what went wrong."""
    page = Path(task.capture).with_suffix(".html")
    command = [sys.executable, "-m", "memray", "flamegraph", "--force", "--output", str(page), task.capture]
    done = subprocess.run(command, capture_output=True, check=False)
    return (
        str(page)
        if done.returncode == 0
        else f"no flame graph of {task.capture}: {done.stderr.decode().strip()}"
    )


def table(rows: Iterable[Recorded]) -> str:
    """Aligned columns; a group of rows for each workload and case."""
    lines: list[Sequence[str]] = [HEAD]
    for row in rows:
        label = row.variant if "/" in row.variant else f"{workloads.get(row.workload).family}/{row.variant}"
        if row.reason:
            lines.append((label, row.workload, row.case, "–", "–", "–", "–", "–"))
            continue
        figures = (
            f"{row.allocations:.2f}",
            f"{row.bytes:.1f}",
            f"{row.peak_unit:.1f}",
            f"{row.peak / 1024:.1f}",
        )
        lines.append((label, row.workload, row.case, row.unit, *figures))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if place < 4 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def main() -> int:
    """Prints the table, or JSON; ends with status 1 when a variant crashed or did wrong work."""
    parser = argparse.ArgumentParser(
        description="Allocations and bytes a message of every variant, by memray."
    )
    parser.add_argument("--family", choices=FAMILIES, help="only this family")
    parser.add_argument("--variant", help="only the variants of this name")
    parser.add_argument("--case", default="", help="only workloads and cases that contain this text")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--flamegraphs", action="store_true", help="write memray's flame graphs")
    parser.add_argument("--out", type=Path, default=OUT, help="where to (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes at a time (default: cores)"
    )
    options = parser.parse_args()
    if find_spec("memray") is None:
        print(
            "memray is not installed: pip install memray (there are builds for Linux and macOS)",
            file=sys.stderr,
        )
        return 2
    chosen = tasks(options)
    if not chosen:
        print("no workload, case and variant fits these options; see --help", file=sys.stderr)
        return 2
    if options.flamegraphs:
        options.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(perform, chosen))
        pages = list(pool.map(draw, [task for task in chosen if Path(task.capture or os.devnull).is_file()]))
    answer = Answer([], instruments.unavailable(options.family), {})
    for task, result in zip(chosen, results, strict=True):
        if isinstance(result, Recorded):
            answer.rows.append(result)
        else:
            answer.failures[f"{task.workload} {task.case} {task.variant}"] = result
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())
    else:
        show(answer, pages)
    return 1 if answer.failures else 0


def show(answer: Answer, pages: Sequence[str]) -> None:
    """The table, what is not in it and why, and the flame graphs."""
    print(table(answer.rows))
    print(LEGEND)
    for row in answer.rows:
        if row.reason:
            print(f"– {row.workload} {row.case}: {row.reason}")
    for label, reason in answer.unavailable.items():
        print(f"not measured: {label} {reason}")
    for page in pages:
        print(page)
    for label, failure in answer.failures.items():
        print(f"FAILED: {label}: {failure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
