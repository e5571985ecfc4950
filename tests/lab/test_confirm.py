"""The whole broker beside the reference broker: what is compared, and what may be said of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from portask.config import Settings
from portask.contracts import FAMILIES
from portask.errors import ConfigError
from portask.registry import REFERENCE_NAMES
from portask_lab import confirm, results, whole
from portask_lab.corpora.load import load
from portask_lab.noise import Rule
from portask_lab.results import Failure, Run, Winner
from tests.lab.made import add, empty_run

NEVER = Rule(steal=2.0, foreign=1e9)


def winners(*labels: str) -> list[Winner]:
    return [Winner(family=label.partition("/")[0], variant=label, objective="") for label in labels]


def record(ratios: dict[str, float], *, p: float = 0.001, floor: float = 0.05, voided: int = 0) -> Run:
    """Rounds in which the winners are so many times the reference, by the figure's name."""
    run = empty_run([results.CONFIRMATION], voided=voided)
    for asked in confirm._FIGURES:
        if asked.name not in ratios:
            continue
        ratio = ratios[asked.name]
        better: results.Better = "higher" if asked.name == "throughput" else "lower"
        values = {whole.REFERENCE: 100.0, whole.WINNERS: 100.0 * ratio}
        add(
            run,
            asked.workload,
            asked.metric,
            dict(values),
            suite=results.CONFIRMATION,
            better=better,
            floor=floor,
        )
        summary = run.summaries[-1]
        summary.ratio, summary.ratio_low, summary.ratio_high = ratio, ratio * 0.9, ratio * 1.1
        summary.p = p
        run.noise_floors[-1].case = summary.case
    return run


SAME = {"throughput": 1.0, "p50": 1.0, "p99": 1.0, "cpu": 1.0}


def test_better_in_one_and_worse_in_none_is_confirmed() -> None:
    found = confirm.judge(record({**SAME, "cpu": 0.5}))
    assert found.outcome == "confirmed"
    assert "better in CPU at 50,000 msg/s, and worse in nothing" in found.reason
    verdicts = {figure.name: figure.verdict for figure in found.figures}
    assert verdicts == dict.fromkeys(SAME, "not told apart") | {"cpu": "better"}
    cpu = found.figures[-1]
    assert (cpu.winners, cpu.reference, cpu.ratio, cpu.floor) == (50.0, 100.0, 0.5, 0.05)


def test_directions_are_those_of_the_figures() -> None:
    found = confirm.judge(record({**SAME, "throughput": 2.0}))
    assert found.outcome == "confirmed"
    found = confirm.judge(record({**SAME, "throughput": 0.5}))
    assert found.outcome == "not confirmed"
    assert "worse in throughput" in found.reason


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (record({**SAME, "cpu": 0.5, "p99": 2.0}), "worse in p99 at 1,000 msg/s, though better in CPU"),
        (record(SAME), "cannot be told"),
        (record({**SAME, "cpu": 0.5}, p=0.02), "cannot be told"),  # 0.08 after Holm's correction over four
        (record({**SAME, "cpu": 0.9}, floor=0.2), "cannot be told"),
        (record({**SAME, "cpu": 0.5}, voided=3), "Nothing was compared: 4 rounds, 3 of them too noisy"),
        (record({"throughput": 2.0, "cpu": 0.5}), "no figure for p50 at 1,000 msg/s and p99"),
    ],
)
def test_everything_else_is_not_confirmed_and_says_why(run: Run, words: str) -> None:
    found = confirm.judge(run)
    assert found.outcome == "not confirmed"
    assert words in found.reason


def test_a_broker_that_fails_is_not_confirmed_whatever_its_figures() -> None:
    run = record({**SAME, "cpu": 0.5})
    run.failures = [
        Failure(
            variant=whole.WINNERS, suite=results.CONFIRMATION, workload="network.cpu", params={}, block=0,
            detail="WrongResult: message 2 was due\n  File …", kind="wrong",
        )
    ]  # fmt: skip
    found = confirm.judge(run)
    assert found.outcome == "not confirmed"
    assert found.reason == "The broker made of the winners failed: WrongResult: message 2 was due"


def test_void_measurements_say_why_there_is_no_figure() -> None:
    run = record({"throughput": 2.0, "cpu": 0.5})
    run.failures = [
        Failure(
            variant=whole.WINNERS, suite=results.CONFIRMATION, workload="network.latency", params={}, block=0,
            detail="the generator was late", kind="void",
        )
    ]  # fmt: skip
    assert confirm.judge(run).reason.endswith("the generator was late.")


def test_a_figure_that_the_reference_lacks_is_no_figure() -> None:
    run = record({**SAME, "cpu": 0.5})
    summary = next(each for each in run.summaries if "p99" in each.case and each.variant == whole.WINNERS)
    summary.ratio = summary.p = None
    found = confirm.judge(run)
    assert found.outcome == "not confirmed"
    assert {figure.name: figure.verdict for figure in found.figures}["p99"] == "no figure"
    assert {figure.name: figure.verdict for figure in found.figures}["cpu"] == "better"


def test_families_without_a_winner_are_what_the_broker_takes_by_itself() -> None:
    found = [*winners("codec/struct"), Winner(family="pool", variant="", objective="")]
    ours, theirs, _ = whole.brokers(found)
    served = Settings()
    assert ours == {**{family: served.choice(family).variant for family in FAMILIES}, "codec": "struct"}
    assert {**theirs, "storage": ""} == {**REFERENCE_NAMES, "storage": ""}
    ours, theirs, notes = whole.brokers(winners("codec/struct", "storage/memory"))
    assert ours == {**REFERENCE_NAMES, "codec": "struct"}
    assert theirs == REFERENCE_NAMES
    assert notes == []


def test_a_log_is_not_laid_beside_what_forgets() -> None:
    ours, theirs, notes = whole.brokers(winners("server/epoll", "storage/segment-log"))
    assert ours["storage"] == theirs["storage"] == "segment-log"
    assert theirs["server"] == REFERENCE_NAMES["server"]
    assert "memory would forget" in notes[0]


def test_a_choice_of_references_has_nothing_to_confirm(tmp_path: Path) -> None:
    found = confirm.confirm(empty_run(), winners("codec/cbor2", "storage/segment-log"), tmp_path)
    assert found.outcome == "nothing to confirm"
    assert "but for the storage" in found.reason
    assert not list(tmp_path.iterdir())


def test_the_runs_own_messages_are_used_or_it_is_said(tmp_path: Path) -> None:
    mine = tmp_path / "mine.ndjson"
    mine.write_text("".join(f'{{"n": {n}}}\n' for n in range(2_000)))
    run = empty_run()
    run.corpora = [load(mine).info(), load("tiny").info()]
    corpus, remark = confirm._corpus(run)
    assert (corpus.name, remark) == ("mine.ndjson", "")
    mine.write_text('{"n": 1}\n')
    corpus, remark = confirm._corpus(run)
    assert corpus.name == "flights"
    assert "has changed since the run" in remark
    mine.unlink()
    corpus, remark = confirm._corpus(run)
    assert corpus.name == "flights"
    assert "mine.ndjson" in remark
    run.corpora = run.corpora[1:]
    assert confirm._corpus(run)[1] == "", "a control is no message of anybody"


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="--no-confirm"):
        confirm.confirm(empty_run(), winners("codec/struct"), tmp_path / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="the load generator reads /proc and uses epoll")
def test_a_round_measures_whole_brokers_and_is_kept_beside_the_run(tmp_path: Path) -> None:
    (tmp_path / results.CONFIRMATION).mkdir()
    (tmp_path / results.CONFIRMATION / "old").write_text("of an earlier one")
    seen: list[tuple[str, float, float]] = []
    chosen = winners("codec/struct", "server/epoll", "storage/segment-log", "compression/always")
    found = confirm.confirm(
        empty_run(), chosen, tmp_path, seconds=0.1, progress=lambda *now: seen.append(now), rule=NEVER
    )
    kept = results.load(tmp_path / results.CONFIRMATION)
    assert not kept.faults, "a storage that compresses is read as well"
    assert kept.confirmation == found
    assert not (tmp_path / results.CONFIRMATION / "old").exists()
    assert found.rounds == 1
    assert found.outcome == "not confirmed"
    assert "Nothing was compared: 1 round, when time was up." in found.reason
    assert found.winners["codec"] == "struct"
    assert found.reference["codec"] == "cbor2"
    assert found.corpus == "flights"
    throughput = found.figures[0]
    assert throughput.winners
    assert throughput.reference
    assert throughput.ratio
    lines = list(results.read_raw(tmp_path / results.CONFIRMATION))
    assert {line.variant for line in lines} == {
        whole.WINNERS, whole.REFERENCE, whole.REFERENCE + results.CONTROL_SUFFIX,
    }  # fmt: skip
    assert not any("parts" in line.case for line in lines)
    assert [text for text, _, _ in seen if "broker/winners" in text]
