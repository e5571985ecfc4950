"""The conformance suite finds every planted fault, and finds none in the plain reference."""

from __future__ import annotations

import pytest

from portask import registry
from portask.errors import CodecError
from portask.registry import Entry
from portask_lab.conformance import Violation, checks, conform

FAULTS = {
    "WrongId": "names_its_wire_format",
    "LosesTimestamps": "round_trip_of_every_shape",
    "SortsHeaders": "round_trip_of_every_shape",
    "GivesViews": "round_trip_of_every_shape",
    "LooksLate": "takes_and_gives_buffers",
    "FailsLate": "refuses_truncated_bytes",
    "GivesAnIterator": "gives_a_sequence",
    "IgnoresTheRest": "refuses_what_follows",
    "IgnoresTheCount": "refuses_a_wrong_count",
    "GivesNoPosition": "refuses_truncated_bytes",
    "LeaksErrors": "survives_noise",
    "ActsOnTags": "rfc_8949_appendix_a",
    "CoercesTypes": "refuses_other_types",
    "WritesLongHeads": "encodes_like_the_reference",
    "WritesAFrame": "areas_can_be_joined",
    "RefusesIndefinite": "accepts_longer_and_indefinite_forms",
    "TakesTheAnnouncedMemory": "refuses_a_wrong_count",
    "BreaksAfterAnError": "holds_no_state",
    "GathersChunks": "streams_in_bounded_memory",
    "HoldsPayloadsBack": "streams_may_be_cut_anywhere",
    "IgnoresWhatFollowsAStream": "streams_refuse_bad_bytes",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_finds(fault: str) -> None:
    entry = Entry("codec", fault, f"tests.codec.faults:{fault}", "one planted fault")
    (item,) = [item for item in checks("codec") if item.name == FAULTS[fault]]
    with pytest.raises((Violation, CodecError, ValueError)):  # not NotApplicable
        item.run(entry)


def test_the_reference_has_none() -> None:
    outcomes = list(conform(registry.get("codec", "cbor2")))
    assert [outcome for outcome in outcomes if outcome.status != "passed"] == []
