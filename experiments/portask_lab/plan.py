"""What a run was asked for, resolved and checked before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from portask import registry
from portask.errors import ConfigError, UnknownVariant
from portask.registry import REFERENCE_NAMES, Entry
from portask_lab import blocks, workloads
from portask_lab import criteria as written
from portask_lab import suites as catalogue
from portask_lab.corpora import CONTROLS, REAL, Corpus
from portask_lab.corpora.load import load
from portask_lab.results import Unavailable
from portask_lab.suites import Job, Profile, Suite

_START = 0.5
"""Seconds that a measuring process needs to begin and to end, roughly."""


class Plan:
    """What was asked for, resolved and checked."""

    def __init__(
        self,
        profile: str | None,
        suites: Sequence[str] | None,
        corpus: Sequence[str | Path] | str | Path | None,
        *,
        variants: Sequence[str] | None,
        criteria: Path | str | None,
        seed: int | None,
    ) -> None:
        if profile is None:
            profile = catalogue.usual(suites)
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
        self.budgets = [suite.budget(self.profile) * self._share(suite) for suite in self.suites]
        every = [job for suite in self.suites for job in self.jobs[suite.name]]
        used = {job.params.get("corpus") for job in every}
        self.corpora: list[Corpus] = [each for each in (*real, *controls) if each.name in used]
        self.workloads = [workloads.get(name) for name in dict.fromkeys(job.workload for job in every)]

    def _share(self, suite: Suite) -> float:
        """The share of a suite's work that is asked for: budgets are those of all variants."""
        jobs = self.jobs[suite.name]
        everybody = [entry for family in catalogue.families(jobs) for entry in registry.entries(family)]
        whole = _work(jobs, [entry for entry in everybody if not entry.unavailable()])
        return _work(jobs, self.available()) / whole if whole else 1.0

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


def _work(jobs: Sequence[Job], entries: Sequence[Entry]) -> float:
    """Seconds of a block, roughly."""
    return sum(_START + sum(job.seconds for job in arm.jobs) for arm in blocks.arms(jobs, entries))


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
