"""From results to a configuration: one winner a family, with the evidence.

**Who may win.** Variants that pass conformance, were measured in valid blocks, can be made without options (a
dictionary has to be trained and kept by whoever needs it), and fit together: a codec must write the wire id of the
reference codec, because every client of a broker reads what any other wrote; contrasts with a wire id of their own
are measured and never selected.

**By what.** One objective a family; `portask_lab.objectives` has them.

**Ties.** Variants whose objective lies within the noise floor of the best are equal. Where there is a second
objective it decides; then the simpler one wins: fewer libraries to install (the standard library alone first), pure
Python before native, the reference before others, then the alphabet.

The result is a file for ``portask serve``: a section a family, and a ``[receipt]`` that says which run, machine and
messages it rests on.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from portask import registry
from portask.config.fingerprint import mismatch
from portask.contracts import FAMILIES
from portask.errors import ConfigError, PortaskError
from portask.registry import REFERENCE_NAMES, Entry
from portask_lab import results
from portask_lab.objectives import OBJECTIVES, Objective, Values
from portask_lab.results import Run, Winner

DEFAULT_FLOOR = 0.05
"""Noise floor where a suite had no A/A control."""


class Checked(msgspec.Struct):
    """Whether a configuration's receipt is about this machine.

    Attributes:
        run: The run that it rests on.
        differences: One sentence for each thing that differs; empty when it matches.
    """

    run: str
    differences: list[str]

    @property
    def matches(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


# ── choosing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def choose(run: Run) -> list[Winner]:
    """One winner for each family that the run's suites measured."""
    measured = {case.family for case in run.cases}
    return [_family(run, family) for family in FAMILIES if family in measured]


def _family(run: Run, family: str) -> Winner:
    objectives = OBJECTIVES[family]
    first = objectives[0]
    values = first.values(run)
    barred = {label: reason for label in values if (reason := _barred(run, label))}
    open_ = {label: value for label, value in values.items() if label not in barred}
    if not open_:
        why = "; ".join(f"{label}: {reason}" for label, reason in barred.items())
        reason = why or f"no variant was measured in everything that counts ({first.words})"
        return Winner(family=family, variant="", objective=first.words, reason=reason)
    if _blind(run, first.suite):
        return _undecided(family, first, open_)
    order = sorted(open_, key=lambda label: (open_[label], label), reverse=first.better == "higher")
    floor = _floor(run, first.suite)
    equal = _within(open_, order[0], floor)
    decided = ""
    for more in objectives[1:]:
        values_more = {label: value for label, value in more.values(run).items() if label in equal}
        if len(equal) > 1 and len(values_more) == len(equal):
            best = (max if more.better == "higher" else min)(
                values_more, key=lambda label: values_more[label]
            )
            closer = _within(values_more, best, _floor(run, more.suite))
            decided = f" {more.words} decided among them." if len(closer) < len(equal) else ""
            equal = closer
    winner = min(equal, key=simplicity)
    rest = [label for label in order if label != winner]
    tie = len(equal) > 1
    reason = f"best of {len(open_)}" if winner == order[0] and not tie else f"within {floor:.1%} of the best"
    if tie:
        reason += f", like {', '.join(sorted(set(equal) - {winner}))}: the simplest of them"
    reason = f"{reason}.{decided}"
    better = [label for label in barred if _beats(values[label], open_[winner], first.better)]
    reason += "".join(f" {label} is better, but {barred[label]}." for label in better)
    return Winner(
        family=family,
        variant=winner,
        objective=first.words,
        value=open_[winner],
        unit=first.unit,
        runner_up=rest[0] if rest else "",
        runner_up_value=open_[rest[0]] if rest else None,
        tie=tie,
        reason=reason,
    )


def _undecided(family: str, objective: Objective, values: Values) -> Winner:
    """What stays when noise forbids comparing: all are equal then, and the simplest wins."""
    winner = min(values, key=simplicity)
    return Winner(
        family=family,
        variant=winner,
        objective=objective.words,
        value=values[winner],
        unit=objective.unit,
        tie=True,
        reason=f"nothing was compared, suite {objective.suite} was too noisy: the simplest stays",
    )


def simplicity(label: str) -> tuple[int, bool, bool, str]:
    """What ties are broken by, smaller is simpler: libraries, native, not the reference, name."""
    family, _, name = label.partition("/")
    entry = registry.get(family, name)
    return len(entry.needs), "native" in entry.capabilities, REFERENCE_NAMES[family] != name, name


def _within(values: Values, best: str, floor: float) -> list[str]:
    return [label for label, value in values.items() if _close(value, values[best], floor)]


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


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def select(run_path: Path | str) -> str:
    """The text of a configuration with the winners of a run.

    Raises:
        ResultsError: the run cannot be read.
        ConfigError: the run chose nothing.
    """
    run = results.load(run_path)
    winners = choose(run)
    if not any(winner.variant for winner in winners):
        why = "; ".join(f"{winner.family}: {winner.reason}" for winner in winners) or "it measured no variant"
        raise ConfigError(f"run {run.id} has no winner to select ({why}); run the lab again")
    return render(run, winners)


def render(run: Run, winners: Iterable[Winner]) -> str:
    """The configuration as TOML, the evidence as comments and as ``[receipt]``."""
    machine = run.machine
    lines = [
        f"# The winners of run {run.id} ({run.profile}, {run.started}) on {machine.cpu}, {machine.cores} cores.",
        f"# Messages: {', '.join(corpus.name for corpus in run.corpora)}. Noise and intervals: its report.",
    ]
    if not run.complete:
        lines.append("# That run was incomplete: it was interrupted, or cut short by noise.")
    figures: list[str] = []
    for winner in winners:
        lines.append("")
        if not winner.variant:
            lines.append(f"# {winner.family}: nothing selected, {winner.reason}. The default stays.")
            continue
        lines.append(f"# {winner.objective}: {_figure(winner.value, winner.unit)}; {winner.reason}")
        if winner.runner_up:
            lines.append(f"# Runner-up: {winner.runner_up}, {_figure(winner.runner_up_value, winner.unit)}.")
        lines += [f"[{winner.family}]", f"variant = {_quote(winner.variant.partition('/')[2])}"]
        figures += [
            "",
            f"[receipt.{winner.family}]",
            f"variant = {_quote(winner.variant)}",
            f"objective = {_quote(winner.objective)}",
        ]
        figures += [
            f"value = {_number(winner.value)}",
            f"unit = {_quote(winner.unit)}",
            f"tie = {str(winner.tie).lower()}",
        ]
        if winner.runner_up:
            figures += [
                f"runner_up = {_quote(winner.runner_up)}",
                f"runner_up_value = {_number(winner.runner_up_value)}",
            ]
    receipt: dict[str, str | int | bool] = {
        "run": run.id,
        "started": run.started,
        "profile": run.profile,
        "seed": run.seed,
        "complete": run.complete,
        "commit": machine.commit,
        "machine_id": machine.id,
    }
    lines += ["", "[receipt]", *(f"{name} = {_value(value)}" for name, value in receipt.items())]
    lines += [
        "",
        "[receipt.machine]",
        *(f"{name} = {_value(value)}" for name, value in _machine(run).items()),
    ]
    lines += [
        "",
        "[receipt.corpora]",
        *(f"{_quote(corpus.name)} = {_quote(corpus.sha256)}" for corpus in run.corpora),
    ]
    return "\n".join([*lines, *figures]) + "\n"


def check(path: Path | str) -> Checked:
    """Compares the receipt of a configuration with this machine.

    Raises:
        ConfigError: the file is missing, no TOML, or has no receipt.
    """
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror or error}; make it with portask lab select latest -o {file}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error
    receipt = document.get("receipt")
    if not isinstance(receipt, dict) or "machine" not in receipt:
        raise ConfigError(
            f"{file} has no receipt of a machine; make one: portask lab select latest -o {file}"
        )
    differences = mismatch(receipt)
    for family in FAMILIES:
        variant = document.get(family, {}).get("variant")
        if variant:
            reason = registry.get(family, variant).unavailable()
            differences += [f"{family}/{variant} {reason}"] if reason else []
    return Checked(str(receipt.get("run", "")), differences)


def _machine(run: Run) -> dict[str, str | int]:
    machine = run.machine
    python = machine.python.partition(" (")[0]
    return {"cpu_model": machine.cpu, "cores": machine.cores, "python": python, "kernel": machine.kernel}


def _value(value: str | float | bool) -> str:
    return _quote(value) if isinstance(value, str) else str(value).lower()


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string


def _number(value: float | None) -> str:
    return f"{value or 0.0:.6g}" if value and abs(value) < 1e6 else f"{value or 0.0:.1f}"


def _figure(value: float | None, unit: str) -> str:
    return f"{value:,.4g} {unit}" if value is not None and abs(value) < 1e4 else f"{value or 0:,.0f} {unit}"
