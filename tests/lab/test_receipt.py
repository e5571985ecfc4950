"""The winners as a file that the broker takes, with a receipt that another machine does not match."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from portask.config import load as load_config
from portask.errors import ConfigError
from portask_lab import confirm, receipt
from portask_lab.results import Confirmation, ConfirmedFigure, Run
from portask_lab.select import choose
from tests.lab.made import add, empty_run


def codecs(values: dict[str, float]) -> Run:
    run = empty_run()
    add(run, "codec.roundtrip", "rate", dict(values), params={"corpus": "tiny", "batch": 100}, floor=0.03)
    return run


def render(run: Run, confirmation: Confirmation | None = None) -> str:
    return receipt.render(run, choose(run), confirmation or confirm.skipped())


TWO = {"codec/cbor2": 1e6, "codec/struct": 2e6}


def test_the_file_is_a_config_with_a_receipt(tmp_path: Path) -> None:
    run = codecs(TWO)
    text = render(run)
    path = tmp_path / "portask.toml"
    path.write_text(text)
    document = tomllib.loads(text)
    assert document["codec"] == {"variant": "struct"}
    assert document["receipt"]["run"] == run.id
    assert document["receipt"]["codec"]["runner_up"] == "codec/cbor2"
    assert document["receipt"]["codec"]["reason"] == "best of 2."
    assert document["receipt"]["confirmation"]["outcome"] == "skipped"
    assert "--no-confirm" in document["receipt"]["confirmation"]["reason"]
    assert load_config(path).codec.variant == "struct"
    assert receipt.check(path).matches


def test_what_was_confirmed_is_in_the_receipt_with_its_intervals(tmp_path: Path) -> None:
    figure = ConfirmedFigure(
        name="cpu", words="CPU", unit="%", better="lower", winners=5.0, reference=10.0, ratio=0.5, low=0.4, high=0.6,
        floor=0.02, verdict="better",
    )  # fmt: skip
    missing = ConfirmedFigure(name="p99", words="p99", unit="µs", better="lower")
    found = Confirmation(
        outcome="confirmed",
        reason='They are "better".',
        rounds=4,
        voided=1,
        seed=7,
        corpus="flights",
        results="confirmation",
        winners={"codec": "struct"},
        reference={"codec": "cbor2"},
        figures=[figure, missing],
    )
    text = render(codecs(TWO), found)
    path = tmp_path / "portask.toml"
    path.write_text(text)
    said = tomllib.loads(text)["receipt"]["confirmation"]
    assert (said["outcome"], said["rounds"], said["voided"]) == ("confirmed", 4, 1)
    assert said["reason"] == 'They are "better".'
    assert said["winners"] == {"codec": "struct"}
    assert said["reference"] == {"codec": "cbor2"}
    assert said["cpu"] == {
        "unit": "%", "winners": 5.0, "reference": 10.0, "ratio": 0.5, "low": 0.4, "high": 0.6, "verdict": "better",
    }  # fmt: skip
    assert said["p99"] == {"unit": "µs", "verdict": "no figure"}
    assert "# The whole broker: confirmed." in text
    assert load_config(path).receipt["confirmation"]["outcome"] == "confirmed"
    assert receipt.check(path).matches


def test_another_machine_is_noticed(tmp_path: Path) -> None:
    run = codecs(TWO)
    run.machine.cpu = 'A "quoted" CPU\\'
    path = tmp_path / "portask.toml"
    path.write_text(render(run))
    found = receipt.check(path)
    assert not found.matches
    assert any("cpu_model" in difference for difference in found.differences)


def test_an_incomplete_run_says_so_in_the_file() -> None:
    run = codecs({"codec/cbor2": 1e6})
    run.complete = False
    assert "incomplete" in render(run)


def test_a_winner_without_a_figure_has_none_in_the_file() -> None:
    run = codecs(TWO)
    (winner,) = choose(run)
    winner.value = None
    document = tomllib.loads(receipt.render(run, [winner], confirm.skipped()))
    assert "value" not in document["receipt"]["codec"]


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "select latest"), ("[[", "no TOML"), ("[codec]\nvariant = 'struct'\n", "no receipt")],
)
def test_checking_what_is_no_receipt(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "portask.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        receipt.check(path)
