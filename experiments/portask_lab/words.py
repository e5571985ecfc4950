"""Cases in words, the same in verdicts, reports and on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from portask_lab.results import Case, Scalar


def case(item: Case, leave_out: Iterable[str] = ()) -> str:
    """What was done, without what was counted: ``encode, corpus flights, batch 100``."""
    return ", ".join(filter(None, (item.title or item.workload, params(item.params, leave_out))))


def counted(item: Case) -> str:
    """What was counted: ``p99``."""
    return item.words or item.metric


def figure(item: Case) -> str:
    """Both: ``end-to-end latency, lean generator, rate 1,000: p99``."""
    return f"{case(item)}: {counted(item)}"


def load(rate: float, schedule: str) -> str:
    """``1,000 msg/s, poisson``."""
    return ", ".join(filter(None, (f"{rate:,.0f} msg/s" if rate else "", schedule))) or "unpaced"


def constants(cases: Sequence[Mapping[str, Scalar]]) -> set[str]:
    """Keys that have the same value in all of several parameter sets: said once, above them."""
    if len(cases) < 2:
        return set()
    return {key for key, value in cases[0].items() if all(other.get(key) == value for other in cases)}


def params(values: Mapping[str, Scalar], leave_out: Iterable[str] = ()) -> str:
    """Parameters as a reader wants them: ``corpus flights, batch 100``."""
    skipped = set(leave_out)
    parts = []
    for key, value in values.items():
        if key in skipped or value is None or value == "":
            continue
        if value is True:
            parts.append(key.replace("_", " "))
        elif value is not False:
            text = (
                f"{value:,}"
                if isinstance(value, int)
                else f"{value:g}"
                if isinstance(value, float)
                else value
            )
            parts.append(f"{key.replace('_', ' ')} {text}")
    return ", ".join(parts)
