"""The success criteria: written down before a run, judged after it.

A criterion is a pass mark on some cases. The judgement of one value looks at its whole interval: ``pass`` when all of
it lies on the good side of the mark, ``fail`` when all of it lies on the bad side, ``inconclusive`` when it straddles
the mark or when there is no interval. One, two or three processes give a wide interval or none; what they found may
still leave no doubt. So it is a ``fail`` as well when every single process missed the mark by at least the criterion's
``margin``, a factor that stands in the file before anything is measured. There is no such rule for passing: few lucky
processes prove nothing. A criterion on several cases is failed by one that fails; but one of ``existence`` is proven by
one success on one of them. ``criteria.toml`` has the five that Portask was built for and describes the form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec

from portask.errors import ConfigError
from portask_lab import suites, words
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
    margin: float = 2.0
    headline: dict[str, str] = {}

    def judge(
        self, value: float, low: float | None, high: float | None, best: float | None = None
    ) -> Judgement:
        """The verdict on one value and its interval; ``best`` is the best that a single process found."""
        if self.existence:
            return "pass" if self._good(value) else "fail"
        if low is not None and high is not None:
            bad_end, good_end = (low, high) if self.better == "higher" else (high, low)
            if self._good(bad_end):
                return "pass"
            if not self._good(good_end):
                return "fail"
        return "fail" if self.far(best) else "inconclusive"

    def far(self, best: float | None) -> bool:
        """Whether even the best of the single processes missed the mark by the margin."""
        if best is None:
            return False
        return best * self.margin <= self.mark if self.better == "higher" else best >= self.mark * self.margin

    def apart(self, labels: Mapping[str, str]) -> str:
        """What keeps a variant with these labels from being the headline; empty when nothing does."""
        others = {
            name: labels[name] for name, wanted in self.headline.items() if labels.get(name, wanted) != wanted
        }
        return ", ".join(f"{name} {seen}" for name, seen in others.items())

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


Parts = Sequence[tuple[Case, Measure, Summary]]
"""The cases of one variant that a criterion looks at."""


def judge(run: Run, rules: Sequence[Rule]) -> list[Criterion]:
    """Every criterion, for every variant that was measured on it, the best first; one entry of each is the headline.

    A variant that lacks one of the cases that others have (its process failed) cannot pass: it is inconclusive at
    best.
    """
    made: list[Criterion] = []
    floors: dict[str, list[Summary]] = {}
    for summary in run.summaries:
        if summary.role == "floor":
            floors.setdefault(summary.case, []).append(summary)
    for rule in rules:
        cases = [(case, measure) for measure in rule.measure for case in run.cases if measure.matches(case)]
        found: dict[str, list[tuple[Case, Measure, Summary]]] = {}
        for case, measure in cases:
            for summary in run.summaries:
                if summary.case == case.id and summary.role in {"reference", "variant"}:
                    found.setdefault(summary.variant, []).append((case, measure, summary))
        judged = [
            _judge(rule, label, parts, len(cases), floors, blind=_blind(run, parts))
            for label, parts in found.items()
        ]
        judged.sort(key=lambda each: _rank(rule, each), reverse=True)
        judged = judged or [_absent(run, rule)]
        next((each for each in judged if not each.apart), judged[0]).headline = True
        made += judged
    return made


def _judge(
    rule: Rule, label: str, parts: Parts, expected: int, floors: Mapping[str, list[Summary]], *, blind: bool
) -> Criterion:
    judged = [_part(rule, *part, blind=blind) for part in parts]
    labels = {name: seen for _, _, summary in parts for name, seen in summary.labels.items()}
    sign = 1 if rule.better == "higher" else -1
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    choose = max if rule.existence else min  # one success proves it; elsewhere the worst stands for all
    place = choose(range(len(judged)), key=lambda at: (order[judged[at].verdict], sign * judged[at].value))
    worst = judged[place]
    verdict = worst.verdict
    explanation = _explain(rule, worst, judged, parts[place][2], blind=blind)
    if verdict != "pass":
        explanation += _floors(rule, parts[place][1], floors.get(worst.case, []))
    if len(parts) < expected and not rule.existence:
        verdict = "inconclusive" if verdict == "pass" else verdict
        explanation += f" {expected - len(parts)} of {expected} cases are missing for this variant."
    return _criterion(
        rule,
        value=worst.value,
        low=worst.low,
        high=worst.high,
        verdict=verdict,
        variant=label,
        case=worst.case,
        explanation=explanation,
        labels=labels,
        apart=rule.apart(labels),
        parts=judged,
    )


def _part(rule: Rule, case: Case, measure: Measure, summary: Summary, *, blind: bool) -> CriterionPart:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * measure.scale

    low, high, best = scaled(summary.low), scaled(summary.high), scaled(_best(rule, summary))
    value = summary.median * measure.scale
    return CriterionPart(
        case=case.id,
        metric=case.metric,
        value=value,
        low=low,
        high=high,
        verdict="inconclusive" if blind else rule.judge(value, low, high, best),
        title=words.figure(case),
    )


def _best(rule: Rule, summary: Summary) -> float | None:
    return summary.most if rule.better == "higher" else summary.least


def _criterion(rule: Rule, **found: Any) -> Criterion:
    """A criterion with what was found, as `Criterion` has it."""
    return Criterion(
        id=rule.id,
        title=rule.title,
        mark=rule.mark,
        unit=rule.unit,
        better=rule.better,
        measured_on=rule.measured_on,
        **found,
    )


def _explain(
    rule: Rule, worst: CriterionPart, parts: Sequence[CriterionPart], summary: Summary, *, blind: bool
) -> str:
    passed = sum(part.verdict == "pass" for part in parts)
    title = worst.title[0].upper() + worst.title[1:]
    which = "best" if rule.existence else "worst"
    text = f"{title}, the {which} of {len(parts)} figures." if len(parts) > 1 else f"{title}."
    straddles = worst.low is None or rule.judge(worst.value, worst.low, worst.high) == "inconclusive"
    who = "the only process" if summary.processes == 1 else f"each of {summary.processes} processes"
    if blind:
        text += " The noise rule left too few blocks to judge by."
    elif rule.existence and worst.verdict == "fail":
        text += " That is what was shown here; nothing is extrapolated."
    elif worst.verdict == "fail" and straddles:
        text += (
            f" The interval does not decide it, but {who} missed the mark by {rule.margin:g} times or more."
        )
    elif worst.verdict == "inconclusive" and worst.low is None:
        text += " One process gives no interval."
    elif worst.verdict == "inconclusive":
        text += " The interval straddles the mark."
    elif len(parts) > 1 and not rule.existence:
        text += f" {passed} of {len(parts)} pass."
    return text


def _floors(rule: Rule, measure: Measure, floors: Sequence[Summary]) -> str:
    """What the floors of a missed case came to, if not even all of them pass: so much of it is the machine's."""
    found: list[str] = []
    missed = False
    for floor in floors:
        value, interval = floor.median * measure.scale, ""
        low = high = None
        if floor.low is not None and floor.high is not None:
            low, high = floor.low * measure.scale, floor.high * measure.scale
            interval = f" [{_number(low)}, {_number(high)}]"
        missed |= rule.judge(value, low, high) != "pass"
        found.append(f"{floor.variant} {_number(value)}{interval} {rule.unit}")
    return f" The floors of the same case: {'; '.join(found)}." if missed else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rank(rule: Rule, each: Criterion) -> tuple[int, float]:
    order = {"not measured": 0, "fail": 1, "inconclusive": 2, "pass": 3}
    value = each.value or 0.0
    return order[each.verdict], value if rule.better == "higher" else -value


def _blind(run: Run, parts: Parts) -> bool:
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
        return _criterion(rule, explanation=f"Suite {', '.join(missing)} was not run.")
    why = "see the failures and void measurements"
    return _criterion(rule, explanation=f"No variant gave a result in suite {', '.join(wanted)}; {why}.")
