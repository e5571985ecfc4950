"""From results to winners: one a family, by rules that are fixed here.

**Who may win.** Variants that pass conformance, were measured in valid blocks, can be made without options (a
dictionary has to be trained and kept by whoever needs it), and fit together: a codec must write the wire id of the
reference codec, because every client of a broker reads what any other wrote; contrasts with a wire id of their own
are measured and never selected.

**By what.** One objective a family; `portask_lab.objectives` has them.

**Ties.** A variant is equal to the best where the two lie within the noise floor, or where the interval of their ratio
over the run's blocks holds 1. Where there is a second objective it decides among equals; then the simpler one wins:
fewer libraries to install (the standard library alone first), pure Python before native, the reference before others,
fewer lines of code, then the alphabet.

**When nothing was compared** because of noise, all are equal, also those whose measurements were void: what a broker
takes by itself stays where it could have won.

`portask_lab.receipt` makes a configuration of the winners, `portask_lab.confirm` measures the broker made of them.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from portask import registry
from portask.config import Settings
from portask.contracts import FAMILIES
from portask.errors import PortaskError
from portask.registry import REFERENCE_NAMES, Entry
from portask_lab.leads import Leads
from portask_lab.objectives import OBJECTIVES, Objective, Values
from portask_lab.results import Run, Winner

_ALONE = "the only candidate, no other variant has a figure for this."
DEFAULT_FLOOR = 0.05
"""Noise floor where a suite had no A/A control."""


def choose(run: Run, leads: Leads | None = None) -> list[Winner]:
    """One winner for each family that the run's suites measured.

    Args:
        run: Its results.
        leads: Its samples by block; without them only the noise floor tells what is equal.
    """
    measured = {case.family for case in run.cases}
    return [_Contest(run, family, leads).winner() for family in FAMILIES if family in measured]


class _Contest:
    """One family's variants, and what is known of them."""

    def __init__(self, run: Run, family: str, leads: Leads | None) -> None:
        self.run = run
        self.family = family
        self.leads = leads
        self.first, *self.more = OBJECTIVES[family]
        self.measured = self.first.values(run)
        self.barred = {label: why for label in self.measured if (why := _barred(run, label))}
        self.values = {label: value for label, value in self.measured.items() if label not in self.barred}
        self.void = _void(run, family, self.first.suite, self.measured)

    def winner(self) -> Winner:
        """The winner, or why there is none."""
        first, values = self.first, self.values
        if not values and not self.void:
            why = "; ".join(f"{label}: {reason}" for label, reason in self.barred.items())
            why = why or f"no variant was measured in everything that counts ({first.words})"
            return Winner(family=self.family, variant="", objective=first.words, reason=why)
        if not values or _blind(self.run, first.suite):
            return self._undecided()
        order = sorted(values, key=lambda label: (values[label], label), reverse=first.better == "higher")
        equal = self._equal(first, values, order[0])
        tied = len(equal) > 1
        equal, decided = self._narrowed(equal)
        winner = min(equal, key=simplicity)
        rest = [label for label in order if label != winner]
        if len(order) == 1:
            reason = _ALONE
        elif not tied:
            reason = f"best of {len(order)}."
        else:
            others = ", ".join(label for label in order if label in equal and label != winner)
            alike = f"not to be told from {others}: the simplest of them" if others else "equal to the best"
            reason = f"{alike}.{decided}"
        better = [
            label for label in self.barred if _beats(self.measured[label], values[winner], first.better)
        ]
        reason += "".join(f" {label} is better, but {self.barred[label]}." for label in better)
        reason += "".join(f" {label} was not compared, its measurements were void." for label in self.void)
        return self._made(winner, rest[0] if rest else "", tie=len(equal) > 1, reason=reason)

    def _undecided(self) -> Winner:
        """What stays when noise forbids comparing by the first objective."""
        candidates = [*self.values, *self.void]
        why = f"Fewer than two blocks of suite {self.first.suite} were quiet enough to compare anything, so"
        if not self.values:
            why = f"Every measurement of it was void in suite {self.first.suite}, so"
        if len(candidates) == 1:
            return self._made(candidates[0], "", tie=False, reason=_ALONE)
        equal, decided = self._narrowed(candidates)
        default = f"{self.family}/{Settings().choice(self.family).variant}"
        winner = default if default in equal else min(equal, key=simplicity)
        kind = "the default" if winner == default else "the simplest"
        reason = f"{why} {decided.strip()}" if decided else f"{why} {kind} stays."
        return self._made(winner, "", tie=len(equal) > 1, reason=reason)

    def _narrowed(self, equal: list[str]) -> tuple[list[str], str]:
        """Those among equals that the further objectives leave, and in words what did."""
        decided = ""
        for objective in self.more:
            values = {label: value for label, value in objective.values(self.run).items() if label in equal}
            if len(equal) < 2 or len(values) < len(equal) or _blind(self.run, objective.suite):
                continue
            best = (max if objective.better == "higher" else min)(values, key=lambda label: values[label])
            closer = self._equal(objective, values, best)
            if len(closer) < len(equal):
                equal, decided = closer, f" {objective.words} decided among them."
        return equal, decided

    def _equal(self, objective: Objective, values: Values, best: str) -> list[str]:
        """The best and those that cannot be told from it."""
        floor = _floor(self.run, objective.suite)
        equal = []
        for label, value in values.items():
            lead = self.leads.ratio(objective, best, label) if self.leads and label != best else None
            if _close(value, values[best], floor) or (lead is not None and lead.low <= 1 <= lead.high):
                equal.append(label)
        return equal

    def _made(self, winner: str, runner_up: str, *, tie: bool, reason: str) -> Winner:
        return Winner(
            family=self.family,
            variant=winner,
            objective=self.first.words,
            value=self.values.get(winner),
            unit=self.first.unit,
            runner_up=runner_up,
            runner_up_value=self.values.get(runner_up),
            tie=tie,
            reason=reason,
        )


def simplicity(label: str) -> tuple[int, bool, bool, int, str]:
    """What ties are broken by, smaller is simpler: libraries, native, not the reference, lines of code, name."""
    family, _, name = label.partition("/")
    entry = registry.get(family, name)
    native = "native" in entry.capabilities
    return len(entry.needs), native, REFERENCE_NAMES[family] != name, _lines(entry.target), name


@cache
def _lines(target: str) -> int:
    """Lines of the module that a target is in, of all its modules when it is a package; 0 for what is no Python."""
    spec = find_spec(target.partition(":")[0])
    file = Path(spec.origin) if spec and spec.origin else None
    if file is None or file.suffix != ".py":
        return 0
    files = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
    return sum(len(each.read_text("utf-8").splitlines()) for each in files)


def _void(run: Run, family: str, suite: str, measured: Values) -> list[str]:
    """Variants that have no figure because their measurements in the suite were void, and may be chosen."""
    labels = dict.fromkeys(each.variant for each in run.voids if each.suite == suite)
    own = [label for label in labels if label.partition("/")[0] == family and label not in measured]
    faulty = {each.variant for each in run.faults if each.suite == suite}
    return [label for label in own if "#" not in label and label not in faulty and not _barred(run, label)]


def _close(a: float, b: float, floor: float) -> bool:
    if a <= 0 or b <= 0:
        return a == b
    return abs(math.log(a / b)) <= math.log1p(floor)


def _beats(a: float, b: float, better: str) -> bool:
    return a > b if better == "higher" else a < b


def _floor(run: Run, suite: str) -> float:
    floors = [each.floor for each in run.noise_floors if each.suite == suite and not each.case]
    return max(floors, default=DEFAULT_FLOOR)


def _blind(run: Run, suite: str) -> bool:
    blocks = [block for block in run.blocks if block.suite == suite]
    return bool(blocks) and sum(not block.voided for block in blocks) < min(2, len(blocks))


def _barred(run: Run, label: str) -> str:
    """Why a variant that was measured may not be selected; empty when it may."""
    for outcome in run.conformance:
        if outcome.variant == label and outcome.failed:
            return "it fails conformance"
    family, _, name = label.partition("/")
    try:
        entry = registry.get(family, name)
    except PortaskError:
        return "it is not installed any more"
    return _misfit(entry)


def _misfit(entry: Entry) -> str:
    if entry.family not in {"codec", "compression"}:
        return ""
    try:
        made = entry.make()
    except (PortaskError, TypeError) as error:
        return f"it needs options that only you can give ({error})"
    if entry.family == "codec":
        reference = registry.get("codec", REFERENCE_NAMES["codec"]).make()
        if made.wire_id != reference.wire_id:
            return f"its wire id {made.wire_id} is read by no other codec"
    return ""
