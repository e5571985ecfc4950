"""The winners of a run as a configuration for ``portask serve``, with the evidence.

A section a family, and a ``[receipt]`` that says which run, machine and messages it rests on, what the runner-up was,
and whether the whole broker was confirmed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from portask import registry
from portask.config.fingerprint import mismatch
from portask.contracts import FAMILIES
from portask.errors import ConfigError
from portask_lab.results import Confirmation, Run, Winner


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


def render(run: Run, winners: Iterable[Winner], confirmation: Confirmation) -> str:
    """The configuration as TOML, the evidence as comments and as ``[receipt]``."""
    machine = run.machine
    lines = [
        f"# The winners of run {run.id} ({run.profile}, {run.started}) on {machine.cpu}, {machine.cores} cores.",
        f"# Messages: {', '.join(corpus.name for corpus in run.corpora)}. Noise and intervals: its report.",
    ]
    if not run.complete:
        lines.append("# That run was incomplete: it was interrupted, or cut short by noise.")
    lines.append(f"# The whole broker: {confirmation.outcome}. {confirmation.reason}")
    figures: list[str] = []
    for winner in winners:
        lines.append("")
        if not winner.variant:
            lines.append(f"# {winner.family}: nothing selected, {winner.reason}. The default stays.")
            continue
        figure = f": {_figure(winner.value, winner.unit)}" if winner.value is not None else ""
        lines.append(f"# {winner.objective}{figure}; {winner.reason}")
        if winner.runner_up:
            lines.append(f"# Runner-up: {winner.runner_up}, {_figure(winner.runner_up_value, winner.unit)}.")
        lines += [f"[{winner.family}]", f"variant = {_quote(winner.variant.partition('/')[2])}"]
        figures += [
            "",
            f"[receipt.{winner.family}]",
            f"variant = {_quote(winner.variant)}",
            f"objective = {_quote(winner.objective)}",
        ]
        if winner.value is not None:
            figures += [f"value = {_number(winner.value)}", f"unit = {_quote(winner.unit)}"]
        figures += [f"tie = {str(winner.tie).lower()}", f"reason = {_quote(winner.reason)}"]
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
    return "\n".join([*lines, *figures, *_confirmed(confirmation)]) + "\n"


def _confirmed(found: Confirmation) -> list[str]:
    facts: dict[str, str | int] = {"outcome": found.outcome, "reason": found.reason}
    if found.figures:
        facts |= {
            "measured": found.started,
            "rounds": found.rounds,
            "voided": found.voided,
            "seed": found.seed,
            "messages": found.corpus,
            "results": found.results,
        }
    lines = ["", "[receipt.confirmation]", *(f"{name} = {_value(value)}" for name, value in facts.items())]
    for name, parts in (("winners", found.winners), ("reference", found.reference)):
        if parts:
            lines.append(
                f"{name} = {{ {', '.join(f'{key} = {_quote(part)}' for key, part in parts.items())} }}"
            )
    for figure in found.figures:
        values = {"winners": figure.winners, "reference": figure.reference, "ratio": figure.ratio}
        values |= {"low": figure.low, "high": figure.high}
        lines += ["", f"[receipt.confirmation.{figure.name}]", f"unit = {_quote(figure.unit)}"]
        lines += [f"{name} = {_number(value)}" for name, value in values.items() if value is not None]
        lines.append(f"verdict = {_quote(figure.verdict)}")
    return lines


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
