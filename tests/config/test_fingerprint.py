"""A receipt speaks for the machine it was written on, and the broker can tell."""

import os
from pathlib import Path

import pytest

from portask.config.fingerprint import FIELDS, fingerprint, mismatch


def test_a_machine_matches_itself() -> None:
    here = fingerprint()
    assert tuple(here) == FIELDS
    assert all(here.values())
    assert here["cores"] == len(os.sched_getaffinity(0))
    assert mismatch(here) == []
    assert mismatch({"run": "x", "machine": here}) == []


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_compared(field: str) -> None:
    here = fingerprint()
    (said,) = mismatch({**here, field: "another"})
    assert said == f"{field} was another and is {here[field]}"
    assert mismatch({"machine": {**here, field: "another"}, **here}) == [said]


def test_what_a_receipt_does_not_name_is_not_compared() -> None:
    assert mismatch({}) == []
    assert mismatch({"corpus": "flights", "machine": {}}) == []


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (
            "processor\t: 0\nmodel name\t: Fast CPU @ 3GHz: B\n\nprocessor\t: 1\nmodel name\t: Fast CPU @ 3GHz: B\n",
            "Fast CPU @ 3GHz: B",
        ),
        ("processor: 0\nCPU implementer: 0x41\nCPU part: 0xd0c\nCPU variant: 0x3\n", "0x41 0xd0c 0x3"),
    ],
)
def test_cpu_models_are_read_from_proc(monkeypatch: pytest.MonkeyPatch, text: str, model: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert fingerprint()["cpu_model"] == model


def test_without_proc_there_is_still_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert fingerprint()["cpu_model"]
