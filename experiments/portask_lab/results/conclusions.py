"""What is concluded from a run: verdicts, winners, and whether these were confirmed together."""

from __future__ import annotations

from typing import Literal

import msgspec

from portask_lab.results.outcomes import Better

Judgement = Literal["pass", "fail", "inconclusive", "not measured"]


class CriterionPart(msgspec.Struct, kw_only=True):
    """One case that a criterion was judged on. ``pass``: the interval lies wholly on the good side."""

    case: str
    metric: str
    value: float
    low: float | None
    high: float | None
    verdict: Judgement
    title: str = ""


class Criterion(msgspec.Struct, kw_only=True):
    """One written criterion applied to one variant; those of a criterion stand best first.

    ``headline`` marks the best variant that may be it, the line for the verdict table.

    Attributes:
        id: As in ``criteria.toml``.
        title: For people.
        mark: The pass mark, in ``unit``.
        unit: Unit.
        better: Whether the value must lie below (``lower``) or above (``higher``) the mark.
        measured_on: In words, what was measured.
        value: The worst of ``parts``; ``None`` when not measured.
        low: Lower end of its interval.
        high: Upper end.
        verdict: ``fail`` when any part fails, else ``inconclusive`` when any is, else ``pass``.
        variant: Label; empty when nothing was measured.
        case: The case of ``value``.
        explanation: One or two sentences: what decided it, or why there is nothing.
        headline: True for exactly one entry of each criterion.
        labels: What was seen of the variant beside its figures, e.g. ``{"held": "in files"}``.
        apart: What keeps it from being the headline whatever its figure, e.g. ``held in files``; empty for nothing.
        parts: Every case that was judged.
    """

    id: str
    title: str
    mark: float
    unit: str
    better: Better
    measured_on: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Judgement = "not measured"
    variant: str = ""
    case: str = ""
    explanation: str = ""
    headline: bool = False
    labels: dict[str, str] = {}
    apart: str = ""
    parts: list[CriterionPart] = []


class ConfirmedFigure(msgspec.Struct, kw_only=True):
    """One figure of the broker made of a run's winners beside the reference broker's.

    Attributes:
        name: ``throughput``, ``p50``, ``p99`` or ``cpu``.
        words: For people.
        unit: Of the values.
        better: Which way is better.
        winners: Value of the broker made of the winners; ``None`` where it has none.
        reference: Value of the reference broker.
        ratio: Winners ÷ reference, over the rounds.
        low: Lower end of its 95% interval.
        high: Upper end.
        floor: What the reference broker and itself under a second name differed by, as a fraction.
        verdict: After Holm's correction over the figures, and only beyond the floor: ``better``, ``worse``, ``not told
            apart``, or ``no figure``.
    """

    name: str
    words: str
    unit: str
    better: Better
    winners: float | None = None
    reference: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    verdict: Literal["better", "worse", "not told apart", "no figure"] = "no figure"


class Confirmation(msgspec.Struct, kw_only=True):
    """Whether the whole broker made of a run's winners is better than the reference broker.

    Attributes:
        outcome: ``confirmed``: better in a figure and worse in none; ``not confirmed`` otherwise; ``nothing to
            confirm`` where every winner is the reference; ``skipped`` when it was not asked for.
        reason: In a sentence or two.
        started: ISO 8601, UTC.
        seconds: Wall time.
        rounds: Blocks that were measured for it alone.
        voided: Of these, by the noise rule.
        seed: Of their orders.
        corpus: The messages that went from client to client.
        results: Where its own results are, relative to the run.
        winners: Family → name, of the broker made of the winners.
        reference: Family → name, of the broker that it is compared with.
        figures: One each.
        notes: What a reader must know.
    """

    outcome: Literal["confirmed", "not confirmed", "nothing to confirm", "skipped"]
    reason: str
    started: str = ""
    seconds: float = 0.0
    rounds: int = 0
    voided: int = 0
    seed: int = 0
    corpus: str = ""
    results: str = ""
    winners: dict[str, str] = {}
    reference: dict[str, str] = {}
    figures: list[ConfirmedFigure] = []
    notes: list[str] = []


class Winner(msgspec.Struct, kw_only=True):
    """What `portask_lab.select` would put into the config for one family.

    Attributes:
        family: Its family.
        variant: Label; empty when nothing could be chosen.
        objective: In words, what was maximized or minimized.
        value: Of the winner, in ``unit``.
        unit: Unit.
        runner_up: Label of the next, empty for none.
        runner_up_value: Its value.
        tie: True when the two lie within the noise floor and simplicity decided.
        reason: One sentence.
    """

    family: str
    variant: str
    objective: str
    value: float | None = None
    unit: str = ""
    runner_up: str = ""
    runner_up_value: float | None = None
    tie: bool = False
    reason: str = ""
