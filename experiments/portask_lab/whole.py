"""Whole brokers, side by side in randomized rounds: the one made of a run's winners, and the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from portask import registry
from portask.config import Settings
from portask.contracts import FAMILIES
from portask.registry import REFERENCE_NAMES
from portask_lab import blocks, results, summaries
from portask_lab.blocks import Arm, SuiteData
from portask_lab.corpora import Corpus
from portask_lab.noise import Rule
from portask_lab.results import CONFIRMATION, CONTROL_SUFFIX, Scalar, Winner
from portask_lab.suites import QUICK, Job, Suite

WINNERS, REFERENCE = "broker/winners", "broker/reference"
ROUNDS = 3
"""The least number of valid rounds."""

_LATENCY: dict[str, Scalar] = {"rate": 1_000, "size": 64, "schedule": "constant"}
_CPU: dict[str, Scalar] = {"rate": 50_000, "size": 100, "batch": 50}
_PARTS = "parts"


def brokers(winners: Sequence[Winner]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Family → variant of the winners' broker and of the one to compare it with, and notes on the latter."""
    theirs = dict(REFERENCE_NAMES)
    chosen = {winner.family: winner.variant.partition("/")[2] for winner in winners if winner.variant}
    served = Settings()  # what a configuration does not name is what the broker takes by itself
    ours = {family: chosen.get(family, served.choice(family).variant) for family in FAMILIES}
    durable = [
        "durable" in registry.get("storage", parts["storage"]).capabilities for parts in (ours, theirs)
    ]
    notes = []
    if durable == [True, False]:
        notes.append(
            f"The reference broker has the winners' storage, {ours['storage']}: {theirs['storage']} would forget what "
            f"the other keeps."
        )
        theirs["storage"] = ours["storage"]
    return ours, theirs, notes


def measure(  # noqa: PLR0917 - each is needed and named where it is called
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    corpus: Corpus,
    seed: int,
    seconds: float,
    progress: Callable[[str, float], None],
    rule: Rule | None,
) -> SuiteData:
    """Rounds of the two brokers, the second of them twice, for about ``seconds``.

    Args:
        ours: Family → variant of the winners' broker.
        theirs: Likewise of the reference broker.
        corpus: What goes from client to client.
        seed: Of the orders.
        seconds: Wall time.
        progress: As in `portask_lab.blocks`.
        rule: When a round is void.
    """
    suite = Suite(CONFIRMATION, "Confirmation", "Are the winners better together, too?", seconds, seconds)
    profile = msgspec.structs.replace(QUICK, blocks=ROUNDS, most=100)
    arms = [
        _arm(WINNERS, "variant", ours, corpus),
        _arm(REFERENCE, "reference", theirs, corpus),
        _arm(REFERENCE + CONTROL_SUFFIX, "control", theirs, corpus),
    ]
    with tempfile.TemporaryDirectory(prefix="portask-lab-") as folder:
        file = Path(folder) / "corpus"
        corpus.write(file)
        data = blocks.run_suite(
            suite,
            profile,
            arms,
            {corpus.name: str(file)},
            seed,
            settled=lambda found: summaries.settled(_same(found), QUICK.width),
            progress=progress,
            rule=rule,
        )
    return _same(data)


def _arm(label: str, role: results.Role, parts: Mapping[str, str], corpus: Corpus) -> Arm:
    """A broker: its parts are among the parameters of its jobs."""
    given: dict[str, Scalar] = {_PARTS: " ".join(f"{family}={name}" for family, name in parts.items())}
    jobs = tuple(
        Job(workload, {**params, **given}, seconds, 1, "whole", True)
        for workload, params, seconds in (
            ("network.client_throughput", {"corpus": corpus.name}, 0.6),
            ("network.latency", _LATENCY, 1.0),
            ("network.cpu", _CPU, 1.5),
        )
    )
    return Arm(label, role, registry.get("server", parts["server"]), jobs, "whole")


def _same(data: SuiteData) -> SuiteData:
    """The data as if the arms differed in their names alone: only then do their cases meet."""

    def plain(job: Job) -> Job:
        params = {name: value for name, value in job.params.items() if name != _PARTS}
        return msgspec.structs.replace(job, params=params)

    replace = msgspec.structs.replace
    return replace(
        data,
        arms=[replace(arm, jobs=tuple(map(plain, arm.jobs))) for arm in data.arms],
        taken=[replace(each, job=plain(each.job)) for each in data.taken],
        failures=[
            replace(each, params={k: v for k, v in each.params.items() if k != _PARTS})
            for each in data.failures
        ],
    )
