"""How far a winner is ahead of its runner-up, with an interval.

A winner's objective may gather many cases (a geometric mean over corpora), so its lead stands in no single
summary. Here it is computed from ``raw.ndjson``: the objective once per block, from that block's processes
alone, and then the ratio over blocks like any other effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import msgspec

from portask.errors import PortaskError
from portask_lab import statistics
from portask_lab.objectives import OBJECTIVES
from portask_lab.results import RAW, Run, Winner, read_raw
from portask_lab.statistics import Ratio

Medians = Mapping[tuple[str, str], float]
"""(case, variant) → median of one block's process."""


def leads(run: Run, directory: Path) -> dict[str, Ratio]:
    """Family → winner ÷ runner-up, for families with both and at least two blocks. Empty without raw samples."""
    contests = {w.family: w for w in run.winners if w.variant and w.runner_up and w.family in OBJECTIVES}
    suites = {OBJECTIVES[family][0].suite for family in contests}
    if not suites or not (directory / RAW).exists():
        return {}
    blocks = _blocks(run, directory, suites)
    return {family: found for family, winner in contests.items() if (found := _lead(run, winner, blocks))}


def _blocks(
    run: Run, directory: Path, suites: set[str]
) -> dict[tuple[str, int], dict[tuple[str, str], float]]:
    of_case = {case.id: case.suite for case in run.cases if case.suite in suites}
    found: dict[tuple[str, int], dict[tuple[str, str], float]] = defaultdict(dict)
    try:
        for sample in read_raw(directory):
            if sample.case in of_case and sample.values and not sample.voided:
                found[of_case[sample.case], sample.block][sample.case, sample.variant] = median(sample.values)
    except PortaskError:  # raw samples cut short by a crash: what was read is what there is
        return dict(found)
    return dict(found)


def _lead(run: Run, winner: Winner, blocks: Mapping[tuple[str, int], Medians]) -> Ratio | None:
    objective = OBJECTIVES[winner.family][0]
    ours: dict[int, list[float]] = {}
    theirs: dict[int, list[float]] = {}
    for (suite, number), medians in blocks.items():
        if suite != objective.suite:
            continue
        values = objective.values(_of_block(run, medians))
        if winner.variant in values and winner.runner_up in values:
            ours[number], theirs[number] = [values[winner.variant]], [values[winner.runner_up]]
    found = statistics.ratio(ours, theirs, statistics.seed_of(run.seed, "lead", winner.family))
    return found if found and found.blocks > 1 else None


def _of_block(run: Run, medians: Medians) -> Run:
    """The run as if this block were all of it."""
    summaries = [
        msgspec.structs.replace(summary, median=medians[summary.case, summary.variant])
        for summary in run.summaries
        if (summary.case, summary.variant) in medians
    ]
    return msgspec.structs.replace(run, summaries=summaries)
