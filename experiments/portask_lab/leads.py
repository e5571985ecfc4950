"""How far a variant is ahead of another in a family's objective, with an interval.

An objective may gather many cases (a geometric mean over corpora), so a lead stands in no single summary. Here it is
computed from ``raw.ndjson``: the objective once per block, from that block's processes alone, and then the ratio over
blocks like any other effect.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

import msgspec

from portask.errors import PortaskError
from portask_lab import statistics
from portask_lab.objectives import OBJECTIVES, Objective, Values
from portask_lab.results import RAW, Run, read_raw
from portask_lab.statistics import Ratio

Medians = dict[tuple[str, str], float]
"""(case, variant) → median of one block's process."""


class Leads:
    """The objectives of a run, block by block. Reads the raw samples once; without any it knows nothing.

    Args:
        run: Its results.
        directory: Where its raw samples are.
    """

    def __init__(self, run: Run, directory: Path) -> None:
        self._run = run
        self._blocks = _blocks(run, directory)
        self._values: dict[str, dict[int, Values]] = {}

    def ratio(self, objective: Objective, ours: str, theirs: str) -> Ratio | None:
        """``ours`` ÷ ``theirs``; ``None`` where fewer than two valid blocks have both."""
        found = self._of(objective)
        both = {block: values for block, values in found.items() if ours in values and theirs in values}
        seed = statistics.seed_of(self._run.seed, "lead", objective.words, ours, theirs)
        a, b = ({block: [values[label]] for block, values in both.items()} for label in (ours, theirs))
        lead = statistics.ratio(a, b, seed)
        return lead if lead and lead.blocks > 1 else None

    def of_winners(self) -> dict[str, Ratio]:
        """Family → winner ÷ runner-up, for families with both."""
        made: dict[str, Ratio] = {}
        for winner in self._run.winners:
            if winner.variant and winner.runner_up and winner.family in OBJECTIVES:
                lead = self.ratio(OBJECTIVES[winner.family][0], winner.variant, winner.runner_up)
                made |= {winner.family: lead} if lead else {}
        return made

    def _of(self, objective: Objective) -> dict[int, Values]:
        if objective.words not in self._values:
            self._values[objective.words] = {
                block: objective.values(_of_block(self._run, medians))
                for (suite, block), medians in self._blocks.items()
                if suite == objective.suite
            }
        return self._values[objective.words]


def _blocks(run: Run, directory: Path) -> dict[tuple[str, int], Medians]:
    suites = {objective.suite for objectives in OBJECTIVES.values() for objective in objectives}
    of_case = {case.id: case.suite for case in run.cases if case.suite in suites}
    found: dict[tuple[str, int], Medians] = defaultdict(dict)
    if not of_case or not (directory / RAW).exists():
        return found
    try:
        for sample in read_raw(directory):
            if sample.case in of_case and sample.values and not sample.voided:
                found[of_case[sample.case], sample.block][sample.case, sample.variant] = median(sample.values)
    except PortaskError:  # raw samples cut short by a crash: what was read is what there is
        return found
    return found


def _of_block(run: Run, medians: Medians) -> Run:
    """The run as if this block were all of it."""
    summaries = [
        msgspec.structs.replace(summary, median=medians[summary.case, summary.variant])
        for summary in run.summaries
        if (summary.case, summary.variant) in medians
    ]
    return msgspec.structs.replace(run, summaries=summaries)
