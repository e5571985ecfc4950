"""A whole run, and how it is read and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from portask.errors import PortaskError
from portask_lab.results.conclusions import (
    Confirmation,
    Criterion,
    Winner,
)
from portask_lab.results.outcomes import (
    Block,
    Case,
    Conformance,
    CorpusInfo,
    Failure,
    Machine,
    NoiseFloor,
    Summary,
    Unavailable,
)
from portask_lab.results.pictures import Curve, MemoryLine, Point, Trace

SCHEMA = 1
RESULTS = "results.json"
RAW = "raw.ndjson"
CONFIRMATION = "confirmation"
"""Folder in a run's directory with the results of the confirmation (`portask_lab.confirm`), a run of its own."""


class ResultsError(PortaskError):
    """A results file that cannot be read: missing, damaged, or of another schema version."""

    code = "results"


class Run(msgspec.Struct, kw_only=True):
    """One run of the lab: the whole of ``results.json``.

    Attributes:
        schema: `SCHEMA`.
        id: Name of the run directory, e.g. ``20260501-142233-quick``.
        started: ISO 8601, UTC.
        seconds: Wall time, 0 while it runs.
        profile: ``quick`` or ``full``.
        seed: Everything random derives from it: orders, schedules, generated corpora, bootstrap.
        command: What was typed.
        suites: Suites that were run, in order.
        complete: False when interrupted, or when a time budget cut it short of its minimum blocks; ``notes``
            say which.
        machine: Where.
        corpora: With what.
        cases: What was compared.
        summaries: What came out, one a case and variant.
        noise_floors: One a case, and one a suite with ``case == ""``.
        criteria: Verdicts; filter by ``headline`` for the table.
        winners: One a family that was measured.
        conformance: One a variant.
        unavailable: Variants, peers and entry points that could not run.
        failures: Jobs without a figure: crashes, time-outs and wrong results, and, apart from these by their kind, void
            measurements.
        blocks: The ledger.
        curves: Latency percentile curves.
        traces: Load traces.
        points: Pareto points.
        memory: Memory lines.
        notes: What a reader must know, in sentences.
        confirmation: In the results of a confirmation (`portask_lab.confirm`), what came of it.
    """

    schema: int = SCHEMA
    id: str
    started: str
    seconds: float
    profile: str
    seed: int
    command: str
    suites: list[str]
    complete: bool
    machine: Machine
    corpora: list[CorpusInfo] = []
    cases: list[Case] = []
    summaries: list[Summary] = []
    noise_floors: list[NoiseFloor] = []
    criteria: list[Criterion] = []
    winners: list[Winner] = []
    conformance: list[Conformance] = []
    unavailable: list[Unavailable] = []
    failures: list[Failure] = []
    blocks: list[Block] = []
    curves: list[Curve] = []
    traces: list[Trace] = []
    points: list[Point] = []
    memory: list[MemoryLine] = []
    notes: list[str] = []
    confirmation: Confirmation | None = None

    @property
    def faults(self) -> list[Failure]:
        """Failures of variants: crashed, hung, raised, or wrong."""
        return [each for each in self.failures if each.kind != "void"]

    @property
    def voids(self) -> list[Failure]:
        """Measurements that mean nothing: the generator was late, or the load was not reached."""
        return [each for each in self.failures if each.kind == "void"]


class RawSample(msgspec.Struct, kw_only=True):
    """One line of ``raw.ndjson``: every sample that one process gave for one case, in order, after warm-up.

    Attributes:
        case: `Case.id`.
        variant: Label, with `CONTROL_SUFFIX` for the control.
        arm: The arm's key within its block; equals ``variant`` unless a variant runs in several arms.
        block: Block index within the suite.
        process: OS process id, so that two lines of one process can be told.
        values: In the case's unit.
        voided: True when the block was voided; summaries leave these out.
    """

    case: str
    variant: str
    arm: str
    block: int
    process: int
    values: list[float]
    voided: bool = False


def save(run: Run, directory: Path) -> Path:
    """Writes ``results.json`` into ``directory``, whole or not at all; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RESULTS
    partial = path.with_suffix(".json.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    partial.replace(path)
    return path


def load(path: Path | str) -> Run:
    """Reads a run from its directory or from its ``results.json``.

    Raises:
        ResultsError: missing, damaged, or written under another schema version.
    """
    file = Path(path)
    if file.is_dir():
        file = file / RESULTS
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ResultsError(
            f"{file}: {error.strerror or error}; give a run's directory, or make one: portask lab run"
        ) from error
    try:
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.DecodeError as error:
        raise ResultsError(
            f"{file} is no results file of the lab ({error}); it may be cut short: run the lab again"
        ) from error
    if head.schema != SCHEMA:
        age, fix = ("newer", "update Portask") if head.schema > SCHEMA else ("older", "run the lab again")
        raise ResultsError(f"{file} has schema {head.schema}, {age} than this lab's {SCHEMA}; {fix}")
    try:
        return msgspec.json.decode(text, type=Run)
    except msgspec.DecodeError as error:
        raise ResultsError(f"{file} does not fit schema {SCHEMA}: {error}; run the lab again") from error


class _Head(msgspec.Struct):
    schema: int


def append_raw(path: Path, samples: Iterable[RawSample]) -> None:
    """Adds lines to ``raw.ndjson``."""
    encoder = msgspec.json.Encoder()
    with path.open("ab") as file:
        for sample in samples:
            file.write(encoder.encode(sample) + b"\n")


def read_raw(path: Path | str) -> Iterator[RawSample]:
    """The lines of ``raw.ndjson`` (or of the one in a run directory), one at a time.

    Raises:
        ResultsError: missing, or a line that is no sample; says which.
    """
    file = Path(path)
    if file.is_dir():
        file = file / RAW
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield msgspec.json.decode(line, type=RawSample)
                except msgspec.DecodeError as error:
                    raise ResultsError(f"{file} line {number} is no sample: {error}") from error
    except OSError as error:
        raise ResultsError(f"{file}: {error.strerror or error}") from error


def case_id(suite: str, workload: str, params: dict[str, Any], metric: str) -> str:
    """The id of a case: stable over runs, so that runs can be compared."""
    text = ",".join(f"{key}={value}" for key, value in params.items() if value is not None)
    return "/".join(part for part in (suite, workload, text, metric) if part)
