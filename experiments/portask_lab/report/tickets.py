"""Entry tickets, faults and void measurements, and what could not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from portask_lab import words
from portask_lab.report.document import Cell, Table
from portask_lab.report.tables import columns, variant
from portask_lab.results import CONTROL_SUFFIX, Failure, FailureKind, Run

KINDS: Mapping[FailureKind, str] = {
    "error": "raised an error",
    "wrong": "gave wrong results",
    "crashed": "crashed",
    "hung": "hung",
    "not reached": "not reached",
    "void": "void",
}


def gist(text: str) -> str:
    """First and last line: what happened, and the error at a traceback's end. The whole text stays in the results."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " … ".join(dict.fromkeys((lines[0], lines[-1]))) if lines else ""


def conformance(run: Run) -> Table:
    """Entry tickets."""
    measured = {summary.variant for summary in run.summaries}
    rows = []
    for item in run.conformance:
        if item.failed:
            # a reference is measured whatever it does: without it there would be no ratio at all
            text = (
                "✗ measured, never selected" if item.variant in measured else "✗ not measured, never selected"
            )
            verdict = Cell(text, "fail")
        elif item.passed:
            verdict = Cell("✓ may be ranked", "pass")
        else:
            verdict = Cell("? nothing was checked", "doubt")
        rows.append(
            (
                variant(item.variant),
                Cell(str(item.passed)),
                Cell(str(item.failed), "fail" if item.failed else ""),
                Cell(str(item.not_applicable)),
                verdict,
            )
        )
    return Table(
        "Conformance: the entry ticket to every comparison",
        columns("Variant", "Passed#", "Failed#", "Not applicable#", "Ticket"),
        tuple(rows),
    )


def violations(run: Run) -> Table:
    """The checks that failed, and why."""
    rows = []
    for item in run.conformance:
        for failure in item.failures:
            check, _, detail = failure.partition(": ")
            rows.append((variant(item.variant), Cell(check), Cell(gist(detail) or "–", "fail")))
    return Table("Checks that failed", columns("Variant", "Check", "What was found"), tuple(rows))


def warnings(run: Run) -> list[str]:
    """What a reader must know of jobs without figures, a sentence a sort; nothing when there are none."""
    made = []
    if run.faults:
        counts = Counter(item.kind for item in run.faults)
        how = ", ".join(f"{count} {KINDS[kind]}" for kind, count in counts.items())
        jobs = "1 measuring job" if len(run.faults) == 1 else f"{len(run.faults)} measuring jobs"
        made.append(f"{jobs} failed ({how}): {_labels(run.faults)}.")
    if run.voids:
        are = "1 measurement is" if len(run.voids) == 1 else f"{len(run.voids)} measurements are"
        made.append(
            f"{are} void, because the load generator was late or the load was not reached, which says nothing "
            f"for or against a variant: {_labels(run.voids)}."
        )
    return made


def _labels(failures: Sequence[Failure]) -> str:
    return ", ".join(
        label.removesuffix(CONTROL_SUFFIX) + (" (again)" if label.endswith(CONTROL_SUFFIX) else "")
        for label in dict.fromkeys(item.variant for item in failures)
    )


def faults(run: Run) -> Table:
    """Crashes, time-outs, errors and wrong results."""
    rows = tuple(
        (*_job(item), Cell(KINDS[item.kind], "fail"), Cell(gist(item.detail), "fail")) for item in run.faults
    )
    return Table(
        "Jobs that failed", columns("Variant", "Suite", "Work", "Block#", "How", "What happened"), rows
    )


def voids(run: Run) -> Table:
    """Measurements that mean nothing, and why."""
    rows = tuple((*_job(item), Cell(gist(item.detail), "doubt")) for item in run.voids)
    return Table(
        "Void measurements: no figure, and nothing is held against the variant",
        columns("Variant", "Suite", "Work", "Block#", "Why"),
        rows,
    )


def _job(item: Failure) -> tuple[Cell, ...]:
    work = ", ".join(part for part in (item.workload, words.params(item.params)) if part)
    return variant(item.variant), Cell(item.suite), Cell(work), Cell(str(item.block))


def unavailable(run: Run) -> Table:
    """What could not run, and what would change that."""
    rows = tuple((variant(item.variant), Cell(item.reason)) for item in run.unavailable)
    return Table("Not measured here", columns("Variant", "Why, and what brings it"), rows)
