"""The success criteria: written down before a run, judged after it.

A criterion is a pass mark on some cases. The judgement of one value looks at its whole interval: ``pass`` when all of
it lies on the good side of the mark, ``fail`` when all of it lies on the bad side, ``inconclusive`` when it straddles
the mark or when there is no interval. A criterion on several cases is failed by one that fails. ``criteria.toml`` has
the five that Portask was built for and describes the form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from portask.errors import ConfigError
from portask_lab import suites
from portask_lab.results import Case, Criterion, CriterionPart, Judgement, Run, Scalar, Summary

BUILT_IN = Path(__file__).with_name("criteria.toml")


class CriteriaError(ConfigError):
    """A criteria file that cannot be used; names the criterion, the key and the fix."""

    code = "criteria"


class Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which cases a criterion looks at; see ``criteria.toml``."""

    suite: str
    metric: str
    workload: str = "*"
    where: dict[str, Scalar | list[Scalar]] = {}
    scale: float = 1.0

    def matches(self, case: Case) -> bool:
        """Whether ``case`` is meant."""
        if (
            case.suite != self.suite
            or case.metric != self.metric
            or not fnmatchcase(case.workload, self.workload)
        ):
            return False
        return all(
            case.params.get(name) in (wanted if isinstance(wanted, list) else [wanted])
            for name, wanted in self.where.items()
        )


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One criterion as it is written; see ``criteria.toml``."""

    id: str
    title: str
    mark: float
    unit: str
    better: Literal["higher", "lower"]
    measured_on: str
    measure: list[Measure]
    existence: bool = False

    def judge(self, value: float, low: float | None, high: float | None) -> Judgement:
        """The verdict on one value and its interval."""
        if self.existence:
            return "pass" if self._good(value) else "fail"
        if low is None or high is None:
            return "inconclusive"
        worst, best = (low, high) if self.better == "higher" else (high, low)
        if self._good(worst):
            return "pass"
        return "inconclusive" if self._good(best) else "fail"

    def _good(self, value: float) -> bool:
        return value > self.mark if self.better == "higher" else value < self.mark


class _File(msgspec.Struct, forbid_unknown_fields=True):
    criterion: list[Rule]


def load(path: Path | str | None = None) -> list[Rule]:
    """The criteria of a file; the built-in ones for ``None``.

    Raises:
        CriteriaError: missing, no TOML, or not of the form; says what and where.
    """
    file = Path(path) if path else BUILT_IN
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CriteriaError(
            f"{file}: {error.strerror or error}; give a criteria file, see {BUILT_IN}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CriteriaError(f"{file} is no TOML: {error}") from error
    try:
        rules = msgspec.convert(document, _File).criterion
    except msgspec.ValidationError as error:
        raise CriteriaError(
            f"{file}: {_place(str(error), document)}; the form is described in {BUILT_IN}"
        ) from error
    if not rules:
        raise CriteriaError(f"{file} has no [[criterion]]; write at least one, see {BUILT_IN}")
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise CriteriaError(f"{file}: two criteria have the id {rule.id!r}; rename one")
        seen.add(rule.id)
        if not rule.measure:
            raise CriteriaError(
                f"{file}: criterion {rule.id!r} measures nothing; add a [[criterion.measure]]"
            )
        for measure in rule.measure:
            if measure.suite not in suites.SUITES:
                known = ", ".join(suites.SUITES)
                raise CriteriaError(
                    f"{file}: criterion {rule.id!r} names the suite {measure.suite!r}; there are: {known}"
                )
    return rules


def _place(error: str, document: dict[str, object]) -> str:
    """The message with the criterion's id instead of its index."""
    found = re.search(r"criterion\[(\d+)\]", error)
    listed = document.get("criterion")
    if (
        found
        and isinstance(listed, list)
        and int(found[1]) < len(listed)
        and isinstance(listed[int(found[1])], dict)
    ):
        return f"criterion {listed[int(found[1])].get('id', int(found[1]) + 1)!r}: {error}"
    return error


def judge(run: Run, rules: Sequence[Rule]) -> list[Criterion]:
    """Every criterion, for every variant that was measured on it; one entry of each is the headline.

    A variant that lacks one of the cases that others have (its process failed) cannot pass: it is inconclusive at
    best.
    """
    made: list[Criterion] = []
    for rule in rules:
        cases = [(case, measure) for measure in rule.measure for case in run.cases if measure.matches(case)]
        found: dict[str, list[tuple[Case, Measure, Summary]]] = {}
        for case, measure in cases:
            for summary in run.summaries:
                if summary.case == case.id and summary.role in {"reference", "variant"}:
                    found.setdefault(summary.variant, []).append((case, measure, summary))
        judged = [
            _judge(rule, label, parts, len(cases), _blind(run, parts)) for label, parts in found.items()
        ]
        if judged:
            max(judged, key=lambda each: _rank(rule, each)).headline = True
            made += judged
        else:
            made.append(_absent(run, rule))
    return made


def _judge(
    rule: Rule, label: str, parts: Sequence[tuple[Case, Measure, Summary]], expected: int, blind: bool
) -> Criterion:
    judged: list[CriterionPart] = []
    for case, measure, summary in parts:
        value, low, high = (
            None if each is None else each * measure.scale
            for each in (summary.median, summary.low, summary.high)
        )
        assert value is not None  # noqa: S101 - a median always is; for the type checker
        verdict = "inconclusive" if blind else rule.judge(value, low, high)
        title = " ".join(
            filter(None, (case.title, *(f"{name} {value}" for name, value in case.params.items())))
        )
        judged.append(
            CriterionPart(
                case=case.id,
                metric=case.metric,
                value=value,
                low=low,
                high=high,
                verdict=verdict,
                title=title,
            )
        )
    sign = 1 if rule.better == "higher" else -1
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    worst = min(judged, key=lambda part: (order[part.verdict], sign * part.value))
    verdict = worst.verdict
    explanation = _explain(rule, worst, judged, blind=blind)
    if len(parts) < expected:
        verdict = "inconclusive" if verdict == "pass" else verdict
        explanation += f" {expected - len(parts)} of {expected} cases are missing for this variant."
    return Criterion(
        id=rule.id,
        title=rule.title,
        mark=rule.mark,
        unit=rule.unit,
        better=rule.better,
        measured_on=rule.measured_on,
        value=worst.value,
        low=worst.low,
        high=worst.high,
        verdict=verdict,
        variant=label,
        case=worst.case,
        explanation=explanation,
        parts=judged,
    )


def _explain(rule: Rule, worst: CriterionPart, parts: Sequence[CriterionPart], *, blind: bool) -> str:
    passed = sum(part.verdict == "pass" for part in parts)
    text = (
        f"Worst of {len(parts)} cases: {worst.title}." if len(parts) > 1 else f"{worst.title}.".capitalize()
    )
    if blind:
        text += " The noise rule left too few blocks to judge by."
    elif rule.existence and worst.verdict == "fail":
        text += " That is what was shown here; nothing is extrapolated."
    elif worst.verdict == "inconclusive" and worst.low is None:
        text += " One process gives no interval; profile full repeats it."
    elif worst.verdict == "inconclusive":
        text += " The interval straddles the mark."
    elif len(parts) > 1:
        text += f" {passed} of {len(parts)} pass."
    return text if rule.measure else ""


def _rank(rule: Rule, each: Criterion) -> tuple[int, float]:
    order = {"not measured": 0, "fail": 1, "inconclusive": 2, "pass": 3}
    value = each.value or 0.0
    return order[each.verdict], value if rule.better == "higher" else -value


def _blind(run: Run, parts: Sequence[tuple[Case, Measure, Summary]]) -> bool:
    """Whether the noise rule left a suite of these cases without two valid blocks although it had several."""
    for suite in {case.suite for case, _, _ in parts}:
        blocks = [block for block in run.blocks if block.suite == suite]
        if len(blocks) > 1 and sum(not block.voided for block in blocks) < 2:
            return True
        if len(blocks) == 1 and blocks[0].voided:
            return True
    return False


def _absent(run: Run, rule: Rule) -> Criterion:
    wanted = sorted({measure.suite for measure in rule.measure})
    missing = [suite for suite in wanted if suite not in run.suites]
    if missing:
        explanation = f"Suite {', '.join(missing)} was not run."
    else:
        explanation = f"No variant gave a result in suite {', '.join(wanted)}; see the failures."
    return Criterion(
        id=rule.id,
        title=rule.title,
        mark=rule.mark,
        unit=rule.unit,
        better=rule.better,
        measured_on=rule.measured_on,
        explanation=explanation,
        headline=True,
    )
