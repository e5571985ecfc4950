"""Flame graphs of a variant's workload, by py-spy.

py-spy samples a process from outside by reading its memory, which needs the right to trace it. A process may
trace its own children on most systems, so py-spy starts the work as its child and no privileges are needed;
where even that is refused (containers without ``SYS_PTRACE``) the error says so. Nothing is timed under the
profiler: no rate is ever reported here.

The child is this module: it prepares the same workload that the lab measures and repeats it for the given time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from portask.errors import ConfigError, PortaskError, VariantUnavailable
from portask.registry import Entry
from portask_lab import workloads
from portask_lab.results import Scalar
from portask_lab.suites import QUICK, SUITES, jobs

_REFUSED = re.compile(
    r"permission denied|operation not permitted|eperm|failed to (?:suspend|attach)", re.IGNORECASE
)
_SAMPLES = re.compile(r"Samples: (\d+)")
_GRACE = 60.0


class ProfileError(PortaskError):
    """No flame graph could be made; the text says why and what helps."""

    code = "profile"


class Work(msgspec.Struct, frozen=True):
    """What is done while py-spy looks: a workload and its parameters."""

    workload: str
    params: dict[str, Scalar]

    def describe(self) -> str:
        """For people."""
        params = ", ".join(f"{key} {value}" for key, value in self.params.items() if value not in {None, ""})
        return f"{self.workload} ({params})" if params else self.workload


class _Order(msgspec.Struct):
    """What the child is told."""

    entry: Entry
    work: Work
    corpus: str
    seconds: float
    seed: int


def choose(entry: Entry, workload: str | None = None, corpus: str | None = None) -> Work:
    """The work of a variant: the first job that the lab's quick profile would give it, unless named.

    Raises:
        VariantUnavailable: the variant cannot run here.
        ConfigError: no such workload, or not one of the family's.
    """
    reason = entry.unavailable()
    if reason:
        raise VariantUnavailable(f"{entry.label} {reason}")
    every = [job for suite in SUITES.values() for job in jobs(suite, QUICK, ("flights",))]
    mine = [job for job in every if workloads.get(job.workload).family == entry.family]
    able = [job for job in mine if workloads.get(job.workload).applies in {"", *entry.capabilities}]
    chosen = [job for job in able if workload in {None, job.workload}]
    if not chosen:
        names = ", ".join(dict.fromkeys(job.workload for job in able)) or "none"
        asked = f" called {workload!r}" if workload else ""
        raise ConfigError(f"{entry.label} has no workload{asked}; its workloads are: {names}")
    params = dict(chosen[0].params)
    if corpus:
        params["corpus"] = corpus
    return Work(chosen[0].workload, params)


def record(
    entry: Entry,
    work: Work,
    output: Path,
    *,
    seconds: float = 5.0,
    rate: int = 200,
    native: bool = False,
    seed: int = 1,
) -> int:
    """Writes a flame graph of ``work`` to ``output`` (SVG); returns how many samples are in it.

    Raises:
        ProfileError: py-spy is missing or refused, or the work itself failed.
        CorpusError: the corpus cannot be read.
    """
    from portask_lab.corpora.load import load  # noqa: PLC0415 - the child does without the parsers

    spy = _find()
    with tempfile.TemporaryDirectory(prefix="portask-profile-") as folder:
        name = str(work.params.get("corpus") or "")
        corpus = Path(folder, "corpus")
        if name:
            load(name, QUICK.messages, seed).write(corpus)
        order, answer = Path(folder, "order"), Path(folder, "answer")
        order.write_bytes(
            msgspec.json.encode(_Order(entry, work, str(corpus) if name else "", seconds, seed))
        )
        command = [spy, "record", "--subprocesses"]
        command += ["--native"] if native else []
        command += ["--rate", str(rate), "--format", "flamegraph", "--output", str(output)]
        command += ["--", sys.executable, "-m", "portask_lab.profiler", str(order), str(answer)]
        said = _run(command, seconds)
        problem = answer.read_text("utf-8") if answer.exists() else "the work never began"
    if _REFUSED.search(said) and not _SAMPLES.search(said):
        raise ProfileError(
            "py-spy may not look into its own child here: tracing is refused. In a container start it with "
            "--cap-add SYS_PTRACE; on a machine of your own, run as root or set kernel.yama.ptrace_scope to 0 or 1"
        )
    if problem:
        raise ProfileError(f"{entry.label} could not do {work.workload}: {problem}")
    found = _SAMPLES.search(said)
    samples = int(found[1]) if found else 0
    if not samples or not output.exists():
        raise ProfileError(f"py-spy took no samples: {' '.join(said.split())[-300:]}")
    return samples


def _find() -> str:
    # the one of this environment first: it is often not activated
    found = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if found is None:
        raise ProfileError("this needs py-spy: pip install 'portask[lab]'")
    return found


def _run(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + _GRACE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProfileError(f"py-spy did not end within {seconds + _GRACE:.0f} s and was killed") from error
    return done.stdout + done.stderr


def work_for(work: Any, seconds: float) -> None:
    """Repeats a prepared workload for about ``seconds``, checking it before and after."""
    try:
        if hasattr(work, "measure"):
            work.measure(seconds)
            work.verify()
            return
        work.verify()
        end, iterations = time.monotonic() + seconds, 1
        before = getattr(work, "before", None)
        while (now := time.monotonic()) < end:
            if before:
                before(iterations)
            work.run(iterations)
            if time.monotonic() - now < seconds / 50:
                iterations *= 2
        work.verify()
    finally:
        if hasattr(work, "close"):
            work.close()


def main(order_file: str, answer_file: str) -> None:
    """The child: does what it is told and leaves an empty answer, or one line that says why not."""
    from portask_lab.corpora import EMPTY, read  # noqa: PLC0415 - the parent has no use for it

    order = msgspec.json.decode(Path(order_file).read_bytes(), type=_Order)
    answer = Path(answer_file)
    answer.write_text("the work did not end", "utf-8")
    try:
        corpus = read(order.corpus) if order.corpus else EMPTY
        prepare = workloads.get(order.work.workload).prepare
        work_for(prepare(order.entry, corpus, order.work.params, order.seed), order.seconds)
    except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
        answer.write_text(f"{type(error).__name__}: {' '.join(str(error).split())}", "utf-8")
    else:
        answer.write_text("", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
