"""What can this machine see? Plants slowdowns that are known, and counts how often the lab finds them.

One workload is measured by one variant in several arms: the reference, its A/A control, two more copies that are just
as fast, and copies whose timed runs are stretched by 2, 5 and 10%. Everything else is as in any run: fresh processes,
random order, the noise rule, the same statistics. The blocks are then cut into groups of the size that a run uses,
and each group is judged on its own:

* *detection rate*: how many groups call a planted slowdown ``slower``;
* *false alarms*: how many call an identical copy ``faster`` or ``slower``. Expect up to 5%.

A detection rate of 30% at 5% means: on this machine, now, most effects of 5% will print as "indistinguishable".
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from portask import registry
from portask_lab import blocks, statistics, suites, workloads
from portask_lab.corpora.load import load
from portask_lab.results import CONTROL_SUFFIX
from portask_lab.suites import Job, Suite

SLOWDOWNS = (0.02, 0.05, 0.10)
COPIES = ("copy 1", "copy 2")
WORKLOAD = "codec.encode"
PARAMS: dict[str, str | int | float | bool | None] = {"corpus": "tiny", "batch": 100}


class Power(msgspec.Struct, frozen=True):
    """What the self-test found.

    Attributes:
        blocks: Blocks in a group, as in a run of the profile.
        groups: Groups that were judged.
        voided: Blocks that the noise rule threw out. When it left no whole group, all blocks were judged, ``quiet``
            is False, and the rates are those of a noisy machine, on which a run would compare nothing.
        quiet: See ``voided``.
        floor: Noise floor (median over groups), as a fraction.
        detected: Planted slowdown → share of groups that called it slower.
        false_alarms: Share of identical copies that were called different.
        effects: Planted slowdown → geometric mean of the effects that were measured (1.05 expected for 0.05, in
            time).
        seconds: How long it took.
    """

    blocks: int
    groups: int
    voided: int
    quiet: bool
    floor: float
    detected: dict[str, float]
    false_alarms: float
    effects: dict[str, float]
    seconds: float


def selftest(
    *,
    seconds: float = 60.0,
    profile: str = "quick",
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda _text, _share: None,
) -> Power:
    """Measures for about ``seconds`` and counts. ``progress`` as in `portask_lab.blocks`."""
    chosen = suites.PROFILES[profile]
    suite = Suite("serialization", "Self-test", "", seconds, seconds, (chosen.blocks, chosen.blocks))
    many = msgspec.structs.replace(chosen, most=1_000_000)
    entry = registry.get("codec", registry.REFERENCE_NAMES["codec"])
    jobs = (Job(WORKLOAD, PARAMS, many.seconds, many.samples, "codec", True),)
    labels = [entry.label, entry.label + CONTROL_SUFFIX, *COPIES, *map(_label, SLOWDOWNS)]
    every = [blocks.Arm(label, "variant", entry, jobs, "codec") for label in labels]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="portask-lab-") as folder:
        path = Path(folder) / "corpus"
        load("tiny", many.messages, seed).write(path)
        data = blocks.run_suite(
            suite,
            many,
            every,
            {"tiny": str(path)},
            seed,
            progress=progress,
            slowdowns={_label(share): share for share in SLOWDOWNS},
        )
    voided = data.voided()
    quiet = len(data.blocks) - len(voided) >= chosen.blocks
    metric = workloads.get(WORKLOAD).metrics[0].name
    samples: dict[str, dict[int, list[float]]] = {}
    for each in data.taken:
        if not quiet or each.block not in voided:
            samples.setdefault(each.arm.label, {})[each.block] = each.measurement.metrics[metric]
    found = count(samples, entry.label, chosen.blocks)
    return msgspec.structs.replace(found, voided=len(voided), quiet=quiet, seconds=time.monotonic() - start)


def count(
    samples: Mapping[str, Mapping[int, Sequence[float]]],
    reference: str,
    size: int,
) -> Power:
    """Cuts the blocks into groups of ``size`` and judges each as a run would; see `Power`."""
    whole = sorted(set.intersection(*(set(blocks_) for blocks_ in samples.values()))) if samples else []
    groups = [whole[at : at + size] for at in range(0, len(whole) - size + 1, size)]
    planted = {_label(share): 0 for share in SLOWDOWNS}
    effects: dict[str, list[float]] = {label: [] for label in planted}
    floors: list[float] = []
    alarms = 0
    for number, group in enumerate(groups):
        found: dict[str, statistics.Ratio] = {}
        for label in samples:
            part = {block: samples[label][block] for block in group}
            ratio = statistics.ratio(part, {block: samples[reference][block] for block in group}, number)
            if ratio is not None and label != reference:
                found[label] = ratio
        control = found.pop(reference + CONTROL_SUFFIX)
        floor = statistics.case_floor(statistics.suite_floor([control.value]), control.value)
        floors.append(floor)
        adjusted = dict(zip(found, statistics.holm([each.p for each in found.values()]), strict=True))
        for label, ratio in found.items():
            verdict = statistics.verdict(ratio.value, adjusted[label], floor, "higher")
            if label in planted:
                planted[label] += verdict == "slower"
                effects[label].append(1 / ratio.value)
            else:
                alarms += verdict in {"faster", "slower"}
    judged = len(groups)
    copies = sum(label in COPIES for label in samples)
    return Power(
        blocks=size,
        groups=judged,
        voided=0,
        quiet=True,
        floor=sorted(floors)[judged // 2] if judged else math.nan,
        detected={label: hits / judged if judged else math.nan for label, hits in planted.items()},
        false_alarms=alarms / (judged * copies) if judged and copies else math.nan,
        effects={
            label: math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan
            for label, values in effects.items()
        },
        seconds=0.0,
    )


def _label(share: float) -> str:
    return f"{share:.0%} slower"
