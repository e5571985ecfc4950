"""What makes a measurement of one machine speak for another: four facts, cheap to read at every start."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ("cpu_model", "cores", "python", "kernel")


def fingerprint() -> dict[str, str | int]:
    """This machine, by `FIELDS`. Costs one small file read.

    ``cores`` are those that this process may use; ``python`` is implementation and version; ``kernel`` is
    system and release.
    """
    return {
        "cpu_model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in named.items()}
    # ARM kernels give no model name, only the numbers that it is looked up by
    arm = " ".join(facts[name] for name in ("CPU implementer", "CPU part", "CPU variant") if name in facts)
    return facts.get("model name") or arm or platform.processor() or platform.machine() or "unknown"


def mismatch(receipt: Mapping[str, Any], here: Mapping[str, str | int] | None = None) -> list[str]:
    """How this machine differs from a receipt's, one sentence a field; empty when nothing differs.

    Args:
        receipt: The ``[receipt]`` table; compared by its table ``machine``, or by its own keys.
        here: `fingerprint`, unless given.
    """
    machine = receipt.get("machine")
    measured = machine if isinstance(machine, Mapping) else receipt
    here = fingerprint() if here is None else here
    return [
        f"{field} was {measured[field]} and is {here[field]}"
        for field in FIELDS
        if field in measured and measured[field] != here[field]
    ]
