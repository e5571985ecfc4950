"""The lab's workloads, for instruments that are not the lab: asv, memray, pytest-benchmark.

There is one definition of the work (`portask_lab.workloads`) and one of what it runs with (its plans, profile
``quick``); here both are found by name, so that an instrument holds nothing of its own but how it looks at them. To
stay short, instruments use the main corpus where the lab uses all real ones.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from portask import registry
from portask.registry import Entry
from portask_lab import suites, workloads
from portask_lab.corpora import EMPTY, REAL, Corpus
from portask_lab.corpora.load import load
from portask_lab.suites import QUICK, SUITES
from portask_lab.workloads import NotForThis, Params, Workload

AMOUNTS = {
    "codec": 5_000,
    "ring": 10_000,
    "pool": 3_200,
    "compression.pack": 300_000,
    "compression.unpack": 1_000_000,
    "workers.steps": 32,
    "workers.overhead": 2_000,
    "storage.append": 20_000,
    "storage.read": 500_000,
}
"""Work that one timed call does, by workload or family, in what the workload counts (compression: raw bytes). Some
milliseconds, and the same for all variants: only then may their times be laid side by side."""
SEED = 1
"""Of everything random: instruments compare over commits, so their work must not change from run to run."""


def variants(family: str) -> list[str]:
    """The variants that can be used here, the reference first. Those with a library missing are left out."""
    return [entry.name for entry in registry.entries(family) if not entry.unavailable()]


def unavailable(family: str | None = None) -> dict[str, str]:
    """``family/name`` → why it cannot be used here."""
    reasons = {entry.label: entry.unavailable() for entry in registry.entries(family)}
    return {label: reason for label, reason in reasons.items() if reason}


def yardsticks(workload: str) -> list[str]:
    """The rows beside the variants that are no other product, like ``floor/empty-loop``."""
    return [stick.label for stick in workloads.get(workload).yardsticks if stick.role != "peer"]


@cache
def cases(workload: str) -> dict[str, Params]:
    """Every parameter set of a workload in profile ``quick``, by a label like ``corpus=tiny,batch=100``."""
    found: dict[str, Params] = {}
    for suite in SUITES.values():
        for job in suites.jobs(suite, QUICK, REAL[:1]):
            if job.workload == workload:
                found[",".join(f"{key}={value}" for key, value in job.params.items()) or "-"] = job.params
    return found


@cache
def corpus(name: str) -> Corpus:
    """As many messages of a built-in corpus as profile ``quick`` uses; an empty one for the empty name.

    Raises:
        CorpusError: it cannot be read, e.g. because the library that unpacks it is missing.
    """
    return load(name, QUICK.messages, SEED) if name else EMPTY


@contextlib.contextmanager
def prepared(workload: str, variant: str, params: Params) -> Iterator[Any]:
    """The work, ready to ``run`` or ``measure``, proven right, and closed afterwards.

    Args:
        workload: `Workload.name`.
        variant: Name of a variant, or one of `yardsticks`.
        params: One of `cases`.

    Raises:
        NotForThis: the variant does not claim what the workload needs.
        VariantUnavailable: a library is missing.
        UnknownVariant: there is no such variant.
        WrongResult: the variant does something else than it was asked for.
        CorpusError: see `corpus`.
    """
    declared = workloads.get(workload)
    entry = _entry(declared, variant)
    if declared.applies and declared.applies not in entry.capabilities:
        raise NotForThis(f"{entry.label} does not claim {declared.applies}")
    work = declared.prepare(entry, corpus(str(params.get("corpus") or "")), params, SEED)
    try:
        if hasattr(work, "run"):
            work.verify()
        yield work
    finally:
        if hasattr(work, "close"):
            work.close()


def _entry(workload: Workload, variant: str) -> Entry:
    sticks = {stick.label: stick.entry for stick in workload.yardsticks}
    return sticks.get(variant) or registry.get(workload.family, variant)


def perform(work: Any, iterations: int) -> int:
    """One `Timed` run with its set-up; returns the work done."""
    if hasattr(work, "before"):
        work.before(iterations)
    done: int = work.run(iterations)
    return done


def iterations(workload: str, work: Any) -> int:
    """How often ``run`` must repeat itself to do `AMOUNTS`.

    Raises:
        KeyError: a new workload has no amount yet.
    """
    amount = AMOUNTS.get(workload) or AMOUNTS.get(workload.partition(".")[0])
    if amount is None:
        raise KeyError(
            f"{workload} has no entry in portask_lab.instruments.AMOUNTS: how much work is one timed call?"
        )
    return max(1, amount // max(1, perform(work, 1)))


def definition(workload: str) -> str:
    """A digest of the workload's module, and of the load generator where it uses that.

    Figures of different definitions must not be compared.
    """
    name = workload.partition(".")[0]
    module = Path(workloads.__path__[0])
    files = [module / f"{name}.py", *sorted((module / name).glob("*.py"))]
    if (module / name).is_dir():
        files += sorted((module.parent / "loadgen").glob("*.py"))
    state = hashlib.sha256()
    for file in files:
        if file.is_file():
            state.update(file.read_bytes())
    return f"{workload} {state.hexdigest()[:16]}"
