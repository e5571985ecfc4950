"""One run of the lab: conformance, suites in blocks, summaries, verdicts, winners, report.

Everything that can be wrong with what was asked for is found before anything is measured. Results are saved after
each suite, so that a run that is interrupted or killed leaves a valid file that says it is incomplete.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from portask.errors import ConfigError
from portask.registry import REFERENCE_NAMES, Entry
from portask_lab import blocks, machine, noise, results, select, summaries
from portask_lab import criteria as written
from portask_lab.leads import Leads
from portask_lab.meter import Meter, Progress, Watch
from portask_lab.plan import Plan
from portask_lab.results import Conformance, Run
from portask_lab.suites import Suite
from portask_lab.worker import Spec

__all__ = ["Interrupted", "Progress", "run"]

CONFORMANCE_TIMEOUT = 90.0
"""Seconds after which a variant's suite counts as hung."""
LATEST = "latest"


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; what it had is in ``path``, marked incomplete."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; what was measured is in {path}")
        self.path = path


def run(
    *,
    profile: str | None = None,
    suites: Sequence[str] | None = None,
    corpus: Sequence[str | Path] | str | Path | None = None,
    variants: Sequence[str] | None = None,
    criteria: Path | str | None = None,
    seed: int | None = None,
    out_dir: Path | str = "reports",
    progress: Watch | None = None,
    command: str | None = None,
) -> Path:
    """Runs the lab and writes ``out_dir/<run id>/``; returns that directory.

    Args:
        profile: ``quick`` or ``full``; quick by default, unless `portask_lab.suites.usual` says otherwise.
        suites: Names of the suites to run; all by default.
        corpus: What takes the place of the real corpora: names or paths.
        variants: Labels (``codec/struct``) or names to measure; all by default. References always take part.
        criteria: A file of criteria instead of the built-in ones.
        seed: Of everything random; drawn and recorded by default.
        out_dir: Where run directories are.
        progress: Told often what goes on.
        command: What was typed; ``sys.argv`` by default.

    Raises:
        ConfigError: a profile, suite, corpus or criteria file that is wrong.
        UnknownVariant: a variant that does not exist.
        Interrupted: Ctrl-C; everything so far was saved.
    """
    plan = Plan(profile, suites, corpus, variants=variants, criteria=criteria, seed=seed)
    directory = _directory(Path(out_dir), plan.profile.name)
    watch = progress or (lambda _: None)
    meter = Meter(watch, plan.budgets)
    record = Run(
        id=directory.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        profile=plan.profile.name,
        seed=plan.seed,
        command=command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        suites=[suite.name for suite in plan.suites],
        complete=False,
        machine=machine.fingerprint(),
        corpora=[each.info() for each in plan.corpora],
    )
    record.notes += [note for info in record.corpora for note in info.notes]
    record.unavailable = plan.unavailable()
    results.save(record, directory)
    interrupted = False
    started = time.monotonic()
    try:
        record.complete = _measure(plan, record, directory, meter, started)
    except KeyboardInterrupt:
        interrupted = True
        record.notes.append("incomplete: the run was interrupted; suites that are missing were not reached")
    meter.reporting("verdicts and report")
    _conclude(record, plan, directory)
    record.seconds = time.monotonic() - started
    results.save(record, directory)
    _point_latest(directory, record)
    _report(directory)
    if interrupted:
        raise Interrupted(directory)
    meter.finish()
    return directory


def _measure(plan: Plan, record: Run, directory: Path, meter: Meter, started: float) -> bool:
    """Conformance, then the suites; whether each of these has the blocks that it wants."""
    meter.stage("conformance")
    record.conformance = _conformance(plan.available(), meter)
    failed = {each.variant for each in record.conformance if each.failed}
    entries: list[Entry] = []
    for entry in plan.available():
        if entry.label not in failed:
            entries.append(entry)
        elif REFERENCE_NAMES[entry.family] == entry.name:
            entries.append(entry)
            record.notes.append(
                f"{entry.label}, the reference, fails conformance: ratios to it are shown, and it is not selected"
            )
    with tempfile.TemporaryDirectory(prefix="portask-lab-") as folder:
        files: dict[str, str] = {}
        for number, corpus in enumerate(plan.corpora):
            path = Path(folder) / f"{number}.corpus"
            corpus.write(path)
            files[corpus.name] = str(path)
        kept = _Kept(record, plan, directory)

        def measure(suite: Suite, seconds: float) -> bool:
            with kept.suite(suite) as data:
                blocks.run_suite(
                    suite,
                    plan.profile,
                    blocks.arms(plan.jobs[suite.name], entries),
                    files,
                    plan.seed,
                    seconds=seconds,
                    data=data,
                    settled=lambda found: summaries.settled(found, plan.profile.width),
                    progress=meter.within,
                    origin=started,
                )
            return data.complete

        short = [suite for suite in plan.suites if not measure(suite, meter.suite(suite))]
        # no suite uses its time to the end: what they left together may be enough for a block that one lacks
        lacking = [suite for suite in short if not measure(suite, meter.again(suite))]
        return not lacking


class _Kept:
    """What the suites brought, in the results after each of them."""

    def __init__(self, record: Run, plan: Plan, directory: Path) -> None:
        self._record = record
        self._plan = plan
        self._directory = directory
        self._before = list(record.notes)
        self._data: dict[str, blocks.SuiteData] = {}
        self._parts: dict[str, summaries.Part] = {}

    @contextmanager
    def suite(self, suite: Suite) -> Iterator[blocks.SuiteData]:
        """A suite's data, kept whether the suite ends or is interrupted; what an earlier turn brought is in it."""
        data = self._data.setdefault(suite.name, blocks.SuiteData(suite))
        first = len(data.blocks)
        try:
            yield data
        except KeyboardInterrupt:
            # arms of the block that was cut off have no partners to be compared with
            whole = {block.index for block in data.blocks}
            data.taken = [each for each in data.taken if each.block in whole]
            data.notes.append(f"incomplete: {suite.name} was interrupted after {len(whole)} blocks")
            raise
        finally:
            if suite.name not in self._parts or len(data.blocks) > first:
                part = self._parts[suite.name] = summaries.part(data, self._plan.seed)
                summaries.fill(self._record, self._before, self._parts.values())
                raw = (sample for sample in part.raw if sample.block >= first)
                results.append_raw(self._directory / results.RAW, raw)
                results.save(self._record, self._directory)


def _conformance(entries: Sequence[Entry], meter: Meter) -> list[Conformance]:
    """Every variant's suite, each in a process of its own, as many at a time as there are cores."""
    found: list[Conformance] = []
    entries = entries[::-1]  # storages and servers take longest: whoever begins with them ends sooner
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        answers = pool.map(lambda entry: blocks.ask(Spec(entry, conform=True), CONFORMANCE_TIMEOUT), entries)
        try:
            for number, (entry, answer) in enumerate(zip(entries, answers, strict=True)):
                meter.within(f"conformance: {entry.label}", (number + 1) / len(entries))
                found.append(_outcome(entry, answer))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            blocks.kill_running()
            raise
    return found[::-1]


def _outcome(entry: Entry, answer: blocks.Answer) -> Conformance:
    checks = [line.check for line in answer.lines if line.check]
    failures = [f"{name}: {detail}" for name, status, detail in checks if status == "failed"]
    if answer.problem:
        failures.append(f"the suite itself: {answer.problem}")
    elif not checks:
        failures.append("the suite itself: it is empty, nothing was proven")
    return Conformance(
        variant=entry.label,
        passed=sum(status == "passed" for _, status, _ in checks),
        failed=len(failures),
        not_applicable=sum(status == "not applicable" for _, status, _ in checks),
        failures=failures,
    )


def _conclude(record: Run, plan: Plan, directory: Path) -> None:
    record.criteria = written.judge(record, plan.rules)
    record.winners = select.choose(record, Leads(record, directory))
    if record.blocks:
        missing = noise.missing(record.blocks[0].noise)
        record.notes += [missing] if missing else []
    record.notes = list(dict.fromkeys(record.notes))


def _directory(parent: Path, profile: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        directory = parent / (f"{stamp}-{profile}" + (f"-{attempt + 1}" if attempt else ""))
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            if parent.exists() and not parent.is_dir():
                raise ConfigError(f"{parent} is a file; give a directory for reports") from None
            continue
        except OSError as error:
            raise ConfigError(
                f"{parent} cannot be written: {error.strerror}; give another directory"
            ) from error
        return directory
    raise ConfigError(f"{parent} already has 100 runs of this second")


def _point_latest(directory: Path, record: Run) -> None:
    link = directory.parent / LATEST
    if link.exists() and not link.is_symlink():
        record.notes.append(f"{link} is no link of the lab's and was left alone")
        results.save(record, directory)
        return
    fresh = directory.parent / f".{LATEST}-{os.getpid()}"
    fresh.symlink_to(directory.name, target_is_directory=True)
    fresh.replace(link)


def _report(directory: Path) -> None:
    from portask_lab import report  # noqa: PLC0415 - drawing needs matplotlib, measuring does not

    report.write(directory)
