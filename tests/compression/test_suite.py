"""The conformance suite itself: a sound strategy passes, each broken one is caught by the check that is about it."""

from __future__ import annotations

import pytest

from portask.registry import Entry
from portask_lab.conformance import conform

CAUGHT = {
    "Plain": set(),
    "Grows": {"packs_only_what_shrinks"},
    "Loses": {"round_trips", "results_stand_alone"},
    "Misnames": {"round_trips", "results_stand_alone"},
    "WithoutDictionary": {"names_what_readers_know", "round_trips"},
    "Chained": {"round_trips", "results_stand_alone"},
    "KeepsTheView": {"takes_views_and_keeps_none"},
    "Aliases": {"packs_only_what_shrinks", "takes_views_and_keeps_none"},
    "Remembers": {"holds_no_history"},
    "Wavers": {"states_how_much_to_gather"},
}


@pytest.mark.parametrize("name", CAUGHT)
def test_the_suite_catches_it(name: str) -> None:
    entry = Entry("compression", name.lower(), f"tests.compression.broken:{name}", "for this test")
    failed = {outcome.check for outcome in conform(entry) if outcome.status == "failed"}
    assert CAUGHT[name] <= failed
    assert failed or name == "Plain"
    assert not failed or name != "Plain", failed
