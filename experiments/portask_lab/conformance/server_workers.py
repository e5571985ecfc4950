"""The same with several workers, for servers that have the capability "multicore": clients cannot tell."""

from __future__ import annotations

from collections.abc import Iterable

from portask.registry import Entry
from portask_lab.conformance.server_support import PLACES
from portask_lab.conformance.suite import Check, NotApplicable

COUNT = 4


def with_workers(suite: Iterable[Check]) -> list[Check]:
    """Each check over a broker of `COUNT` workers."""
    return [_with_workers(item) for item in suite]


def _with_workers(item: Check) -> Check:
    def run(entry: Entry) -> None:
        if "multicore" not in entry.capabilities:
            raise NotApplicable('it does not claim to be one of several processes ("multicore")')
        token = PLACES.set(COUNT)
        try:
            item.run(entry)
        finally:
            PLACES.reset(token)

    return Check(f"workers_{item.name}", f"With {COUNT} workers: {item.sentence}", run)
