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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from portask import registry
from portask.errors import ConfigError, UnknownVariant
from portask.registry import REFERENCE_NAMES, Entry
from portask_lab import blocks, machine, noise, results, select, summaries, workloads
from portask_lab import criteria as written
from portask_lab import suites as catalogue
from portask_lab.corpora import CONTROLS, REAL, Corpus
from portask_lab.corpora.load import load
from portask_lab.results import Conformance, Run, Unavailable
from portask_lab.suites import Job, Profile, Suite
from portask_lab.worker import Spec

CONFORMANCE_SECONDS = 15.0
"""What checking every variant is expected to take, for the time that is left."""
CONFORMANCE_TIMEOUT = 90.0
"""Seconds after which a variant's suite counts as hung."""
REPORT_SECONDS = 10.0
LATEST = "latest"


class Progress(msgspec.Struct, frozen=True):
    """What goes on.

    Attributes:
        text: In words, e.g. ``rings: block 3, ring/deque``.
        done: Share of the expected time, 0 to 1.
        left: Expected seconds left.
    """

    text: str
    done: float
    left: float


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; what it had is in ``path``, marked incomplete."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; what was measured is in {path}")
        self.path = path


Watch = Callable[[Progress], None]


def run(
    *,
    profile: str = "quick",
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
        profile: ``quick`` or ``full``.
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
    plan = _Plan(profile, suites, corpus, variants=variants, criteria=criteria, seed=seed)
    directory = _directory(Path(out_dir), plan.profile.name)
    watch = progress or (lambda _: None)
    meter = _Meter(watch, plan.suites, plan.profile)
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
        _measure(plan, record, directory, meter, started)
        record.complete = not any(
            block_note for block_note in record.notes if block_note.startswith("incomplete:")
        )
    except KeyboardInterrupt:
        interrupted = True
        record.notes.append("incomplete: the run was interrupted; suites that are missing were not reached")
    meter.stage("verdicts and report", 0.0)
    _conclude(record, plan)
    record.seconds = time.monotonic() - started
    results.save(record, directory)
    _point_latest(directory, record)
    _report(directory)
    if interrupted:
        raise Interrupted(directory)
    meter.finish()
    return directory


class _Plan:
    """What was asked for, resolved and checked."""

    def __init__(
        self,
        profile: str,
        suites: Sequence[str] | None,
        corpus: Sequence[str | Path] | str | Path | None,
        *,
        variants: Sequence[str] | None,
        criteria: Path | str | None,
        seed: int | None,
    ) -> None:
        if profile not in catalogue.PROFILES:
            raise ConfigError(
                f"there is no profile {profile!r}; the profiles are {', '.join(catalogue.PROFILES)}"
            )
        self.profile: Profile = catalogue.PROFILES[profile]
        self.suites: list[Suite] = catalogue.choose(suites)
        self.rules = written.load(criteria)
        self.seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        chosen = [corpus] if isinstance(corpus, str | Path) else list(corpus or REAL)
        limit = self.profile.messages
        real = [load(each, limit, self.seed) for each in chosen]
        self.real = [each.name for each in real]
        if len(set(self.real)) < len(self.real):
            raise ConfigError(f"two corpora have the same name ({', '.join(self.real)}); rename a file")
        controls = [load(name, limit, self.seed) for name in CONTROLS if name not in self.real]
        self.jobs: dict[str, list[Job]] = {
            suite.name: catalogue.jobs(suite, self.profile, self.real) for suite in self.suites
        }
        every = [job for jobs in self.jobs.values() for job in jobs]
        self.entries = [entry for family in catalogue.families(every) for entry in registry.entries(family)]
        if variants is not None:
            self.entries = _filtered(self.entries, variants)
        taking_part = {entry.family for entry in self.entries}
        self.suites = [
            suite for suite in self.suites if taking_part & set(catalogue.families(self.jobs[suite.name]))
        ]
        every = [job for suite in self.suites for job in self.jobs[suite.name]]
        used = {job.params.get("corpus") for job in every}
        self.corpora: list[Corpus] = [each for each in (*real, *controls) if each.name in used]
        self.workloads = [workloads.get(name) for name in dict.fromkeys(job.workload for job in every)]

    def available(self) -> list[Entry]:
        """The variants that can run here."""
        return [entry for entry in self.entries if not entry.unavailable()]

    def unavailable(self) -> list[Unavailable]:
        """Variants, yardsticks and entry points that cannot, and why."""
        found = [
            Unavailable(variant=entry.label, reason=why)
            for entry in self.entries
            if (why := entry.unavailable())
        ]
        sticks = dict.fromkeys(stick for workload in self.workloads for stick in workload.yardsticks)
        found += [
            Unavailable(variant=each.label, reason=why)
            for each in sticks
            if (why := each.entry.unavailable())
        ]
        found += [Unavailable(variant=each.entry_point, reason=each.reason) for each in registry.problems()]
        return found


def _filtered(entries: Sequence[Entry], wanted: Sequence[str]) -> list[Entry]:
    known = {name for entry in registry.entries() for name in (entry.label, entry.name)}
    for name in wanted:
        if name not in known:
            labels = ", ".join(entry.label for entry in registry.entries())
            raise UnknownVariant(f"there is no variant {name!r}; there are: {labels}")
    families = {entry.family for entry in registry.entries() if {entry.label, entry.name} & set(wanted)}
    return [
        entry
        for entry in entries
        if entry.family in families
        and ({entry.label, entry.name} & set(wanted) or REFERENCE_NAMES[entry.family] == entry.name)
    ]


def _measure(plan: _Plan, record: Run, directory: Path, meter: _Meter, started: float) -> None:
    meter.stage("conformance", CONFORMANCE_SECONDS)
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
        for suite in plan.suites:
            with _kept(record, suite, plan, directory) as data:
                meter.stage(suite.name, suite.budget(plan.profile))
                blocks.run_suite(
                    suite,
                    plan.profile,
                    blocks.arms(plan.jobs[suite.name], entries),
                    files,
                    plan.seed,
                    data=data,
                    settled=lambda found: summaries.settled(found, plan.profile.width),
                    progress=meter.within,
                    origin=started,
                )


@contextmanager
def _kept(record: Run, suite: Suite, plan: _Plan, directory: Path) -> Iterator[blocks.SuiteData]:
    """A suite's data, added to the results whether the suite ends or is interrupted."""
    data = blocks.SuiteData(suite)
    try:
        yield data
    except KeyboardInterrupt:
        # arms of the block that was cut off have no partners to be compared with
        whole = {block.index for block in data.blocks}
        data.taken = [each for each in data.taken if each.block in whole]
        data.notes.append(f"incomplete: {suite.name} was interrupted after {len(whole)} blocks")
        raise
    finally:
        if not data.complete:
            data.notes.append(f"incomplete: {suite.name} has fewer valid blocks than it asks for")
        raw = summaries.add(record, data, plan.seed)
        results.append_raw(directory / results.RAW, raw)
        results.save(record, directory)


def _conformance(entries: Sequence[Entry], meter: _Meter) -> list[Conformance]:
    """Every variant's suite, each in a process of its own, as many at a time as there are cores."""
    found: list[Conformance] = []
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
    return found


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


def _conclude(record: Run, plan: _Plan) -> None:
    record.criteria = written.judge(record, plan.rules)
    record.winners = select.choose(record)
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


class _Meter:
    """Turns budgets into shares and seconds left."""

    def __init__(self, watch: Watch, chosen: Sequence[Suite], profile: Profile) -> None:
        self._watch = watch
        self._after = CONFORMANCE_SECONDS + sum(suite.budget(profile) for suite in chosen) + REPORT_SECONDS
        self._total = self._after
        self._stage = 0.0
        self._tail = REPORT_SECONDS

    def stage(self, text: str, budget: float) -> None:
        """The next stage begins and may take ``budget`` seconds."""
        self._after = max(self._after - budget, self._tail if budget else 0.0)
        self._stage = budget
        self.within(text, 0.0)

    def within(self, text: str, share: float) -> None:
        """How far the stage is."""
        left = self._after + self._stage * (1 - share)
        self._watch(Progress(text, min(1.0, 1 - left / self._total), left))

    def finish(self) -> None:
        """All done."""
        self._watch(Progress("done", 1.0, 0.0))
