"""Every registered variant passes its family's suite."""

import pytest

from portask import registry
from portask.contracts import FAMILIES
from portask.registry import Entry
from portask_lab.conformance import Check, NotApplicable, checks

CASES = [
    pytest.param(entry, item, id=f"{entry.label}-{item.name}")
    for family in FAMILIES
    for entry in registry.entries(family)
    for item in checks(family, thorough=True)
]


@pytest.mark.parametrize(("entry", "item"), CASES)
def test_variant_conforms(entry: Entry, item: Check) -> None:
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    try:
        item.run(entry)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_suite(family: str) -> None:
    assert checks(family), f"the suite of {family} is empty: nothing would be proven"
