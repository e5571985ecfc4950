"""Randomized complete blocks: how a suite is measured.

A block runs every arm once, in a fresh random order, each arm in a process of its own. So the machine's drift
meets all arms alike, and what one arm leaves behind (heap, caches of the interpreter, threads) ends with its
process. The reference is an arm twice: the second, under the name ``…#again``, is the A/A control.

A process that crashes, hangs or gives wrong results is that variant's failure, kept with the tail of what it
said; the run goes on. What hung is not run again in its suite, so that waiting for it costs once. A noise
ledger is kept for each block, and its rule voids a block as a whole; voided blocks are measured again while
the time lasts. A suite ends when it has its least number of valid blocks and every ratio is known narrowly
enough, or, whatever it has, before a block that would overrun its time: always between two blocks, since half
of one compares nothing. A suite with fewer valid blocks than it wants is incomplete.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from portask.registry import REFERENCE_NAMES, Entry
from portask_lab import workloads
from portask_lab.noise import Ledger, Rule
from portask_lab.results import CONTROL_SUFFIX, Block, Failure, FailureKind, Role
from portask_lab.suites import Job, Profile, Suite
from portask_lab.worker import Line, Spec
from portask_lab.workloads import Measurement

GRACE = 20.0
"""Seconds that a process may take beyond twice its jobs' measuring time."""
TAIL = 2_000
"""Characters of standard error that are kept of a failed process."""


class Arm(msgspec.Struct, frozen=True):
    """One row of a block: a variant, the control or a yardstick, and the jobs that one process does for it."""

    label: str
    role: Role
    entry: Entry
    jobs: tuple[Job, ...]
    group: str

    @property
    def key(self) -> str:
        """Unique within a block: a variant with several groups of jobs is several arms."""
        return f"{self.label} {self.group}"


class Taken(msgspec.Struct, frozen=True):
    """One job's measurement by one process."""

    arm: Arm
    job: Job
    block: int
    process: int
    measurement: Measurement


class SuiteData(msgspec.Struct):
    """All that a suite brought: the measurements of every block, voided ones too, and the ledger.

    Attributes:
        suite: Whose.
        arms: Those of a block, in the order in which a report lists them.
        taken: Measurements.
        blocks: The ledger.
        failures: Jobs without a figure.
        notes: What a reader must know.
        wanted: The least number of valid blocks.
        complete: Whether there are as many.
        hung: Keys of arms that are not run again.
    """

    suite: Suite
    arms: list[Arm] = []
    taken: list[Taken] = []
    blocks: list[Block] = []
    failures: list[Failure] = []
    notes: list[str] = []
    wanted: int = 0
    complete: bool = True
    hung: set[str] = set()

    def voided(self) -> set[int]:
        """Indices of the blocks that do not count."""
        return {block.index for block in self.blocks if block.voided}


class Answer(msgspec.Struct):
    """What became of one process.

    Attributes:
        lines: What it said.
        problem: Why it did not end as it should; empty when it did.
        hung: It was killed when its time was up.
    """

    lines: list[Line]
    problem: str = ""
    hung: bool = False


Progress = Callable[[str, float], None]
"""``progress(text, share)``: what goes on, and the share of the suite's time that is over (0 to 1)."""
Settled = Callable[[SuiteData], bool]
"""Whether every ratio of the suite is known narrowly enough."""


def arms(jobs: Sequence[Job], entries: Sequence[Entry]) -> list[Arm]:
    """The arms of a block: for every group of jobs its family's variants, the control, and the yardsticks.

    Args:
        jobs: Of one suite.
        entries: The variants that take part: available, conforming, and asked for.
    """
    made: list[Arm] = []
    for group in dict.fromkeys(job.group for job in jobs):
        mine = [job for job in jobs if job.group == group]
        family = workloads.get(mine[0].workload).family
        for entry in entries:
            if entry.family != family:
                continue
            able = tuple(job for job in mine if _applies(job, entry))
            reference = REFERENCE_NAMES[family] == entry.name
            made.append(Arm(entry.label, "reference" if reference else "variant", entry, able, group))
            if reference:
                again = tuple(job for job in able if job.controlled)
                made.append(Arm(entry.label + CONTROL_SUFFIX, "control", entry, again, group))
        if not any(arm.group == group and arm.jobs for arm in made):
            continue  # yardsticks beside nothing measure nothing
        for stick in dict.fromkeys(stick for job in mine for stick in workloads.get(job.workload).yardsticks):
            theirs = tuple(job for job in mine if stick in workloads.get(job.workload).yardsticks)
            if not stick.entry.unavailable():
                made.append(Arm(stick.label, stick.role, stick.entry, theirs, group))
    return [arm for arm in made if arm.jobs]


def _applies(job: Job, entry: Entry) -> bool:
    needed = {workloads.get(job.workload).applies, job.applies} - {""}
    return needed <= entry.capabilities


def run_suite(
    suite: Suite,
    profile: Profile,
    every: Sequence[Arm],
    corpora: dict[str, str],
    seed: int,
    *,
    seconds: float | None = None,
    data: SuiteData | None = None,
    settled: Settled = lambda _: False,
    progress: Progress = lambda _text, _share: None,
    rule: Rule | None = None,
    origin: float | None = None,
    slowdowns: dict[str, float] | None = None,
) -> SuiteData:
    """Measures a suite block after block.

    Args:
        suite: Which.
        profile: How thoroughly.
        every: Its arms.
        corpora: Name → file, for the processes.
        seed: Orders of arms and jobs derive from it.
        seconds: Wall time that it may take; its budget by default, and nothing is begun without any. Only a first
            block that takes longer by itself overruns it.
        data: Where to put what is found, so that an interrupted run keeps what it has; a suite goes on behind the
            blocks that it has already.
        settled: The stopping rule; asked after each block.
        progress: Told what goes on.
        rule: When a block is void.
        origin: ``time.monotonic()`` at which the run began.
        slowdowns: Arm label → planted slowdown; for the self-test.
    """
    data = SuiteData(suite) if data is None else data
    data.arms = list(every)
    rule = rule or Rule()
    start = time.monotonic()
    origin = start if origin is None else origin
    seconds = suite.budget(profile) if seconds is None else seconds
    data.wanted = suite.blocks(profile) if every else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    longest = max((block.seconds for block in data.blocks), default=0.0)
    while every:
        index, valid = len(data.blocks), len(data.blocks) - len(data.voided())
        time_is_up = seconds <= 0 or (index and time.monotonic() - start + longest > seconds)
        if time_is_up or index >= profile.most or (valid >= data.wanted and settled(data)):
            break
        random_order = random.Random(f"{seed}/{suite.name}/{index}")
        left = [arm for arm in every if arm.key not in data.hung]
        order = random_order.sample(left, len(left))
        ledger, began = Ledger(), time.monotonic()
        speeds: list[int] = []
        for arm in order:
            spent = time.monotonic() - start
            progress(f"{suite.name}: block {index + 1}, {arm.label}", min(1.0, spent / max(seconds, 1e-9)))
            jobs = random_order.sample(list(arm.jobs), len(arm.jobs))
            slowdown = (slowdowns or {}).get(arm.label, 0.0)
            spec = Spec(arm.entry, jobs, {n: p for n, p in corpora.items() if _uses(jobs, n)}, seed, slowdown)
            answer = ask(spec, GRACE + 2 * sum(job.seconds for job in jobs))
            speeds += [line.speed for line in answer.lines if line.speed]
            _keep(data, arm, jobs, index, answer)
            if answer.hung:
                data.hung.add(arm.key)
                data.notes.append(f"{suite.name}: {arm.label} hung in block {index} and was not run again")
        noise, now = ledger.close(), time.monotonic()
        noise.speed = max(speeds) / min(speeds) if speeds else None
        reason = rule.void(noise, cores) if suite.timed else ""
        longest = max(longest, now - began)
        data.blocks.append(
            Block(
                suite=suite.name,
                index=index,
                order=[arm.key for arm in order],
                started=began - origin,
                seconds=now - began,
                noise=noise,
                voided=bool(reason),
                reason=reason,
            )
        )
    data.complete = len(data.blocks) - len(data.voided()) >= data.wanted
    return data


def _uses(jobs: Iterable[Job], corpus: str) -> bool:
    return any(job.params.get("corpus") == corpus for job in jobs)


def _keep(data: SuiteData, arm: Arm, jobs: Sequence[Job], block: int, answer: Answer) -> None:
    open_jobs = dict(enumerate(jobs))

    def fail(job: Job, kind: FailureKind, detail: str) -> None:
        data.failures.append(
            Failure(
                variant=arm.label,
                suite=data.suite.name,
                workload=job.workload,
                params=dict(job.params),
                block=block,
                detail=detail,
                kind=kind,
            )
        )

    begun: int | None = None
    for line in answer.lines:
        if line.begun:
            begun = line.job
            continue
        job = open_jobs.pop(line.job)
        if line.error:
            fail(job, "wrong" if line.wrong else "error", line.error)
        elif line.measurement and line.measurement.invalid:
            fail(job, "void", line.measurement.invalid)
        elif line.measurement:
            data.taken.append(Taken(arm, job, block, line.pid, line.measurement))
    if answer.problem:
        kind: FailureKind = "hung" if answer.hung else "crashed"
        guilty = open_jobs.pop(begun, None) if begun is not None else None
        if guilty:
            fail(guilty, kind, answer.problem)
        for job in open_jobs.values():
            fail(job, "not reached" if guilty else kind, answer.problem)


def ask(spec: Spec, timeout: float) -> Answer:
    """Runs one measuring process to its end; never raises for what happens inside it.

    It leads a process group of its own, which is killed whole when it hangs or the run is interrupted.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "portask_lab.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _running.add(process)
    problem, hung = "", False
    try:
        out, errors = process.communicate(msgspec.json.encode(spec), timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        out, errors = process.communicate()
        problem, hung = f"gave no answer within {timeout:.0f} s and was killed", True
    except BaseException:
        _kill(process)
        process.communicate()
        raise
    finally:
        _running.discard(process)
    if not problem and process.returncode != 0:
        problem = f"its process {_death(process.returncode)}"
    lines, broken = _lines(out)
    problem = problem or broken
    if problem:
        problem = f"{problem}\n{errors.decode(errors='replace')[-TAIL:]}".strip()
    return Answer(lines, problem, hung)


def _lines(out: bytes) -> tuple[list[Line], str]:
    lines: list[Line] = []
    for line in out.splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=Line))
        except msgspec.DecodeError as error:
            return lines, f"its answer was cut short ({error})"
    return lines, ""


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


_running: set[subprocess.Popen[bytes]] = set()


def kill_running() -> None:
    """Kills the processes that other threads of this one wait for; their `ask` returns with the problem."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
