"""A whole run, small: what it leaves behind, what it refuses before it begins, and what an interruption keeps."""

import json
import math
import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from portask.errors import ConfigError, UnknownVariant
from portask_lab import blocks, report, results, run, suites
from portask_lab.corpora import CorpusError
from portask_lab.meter import Meter
from portask_lab.noise import Rule
from portask_lab.plan import Plan
from portask_lab.run import Interrupted, Progress

TINY = msgspec.structs.replace(suites.QUICK, blocks=2, most=2, seconds=0.002, samples=4, messages=200)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.PROFILES, "quick", TINY)
    # the report has tests of its own, and drawing takes longer than this run
    monkeypatch.setattr(report, "write", lambda directory: directory)


def test_a_run_on_a_users_file(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"n": n, "city": "Rome" * (n % 7)}) + "\n" for n in range(150))
    mine = tmp_path / "mine.ndjson"
    mine.write_text(rows)
    seen: list[Progress] = []
    path = run.run(
        suites=["pools", "serialization"],
        corpus=mine,
        variants=["struct", "pool/slab"],
        seed=7,
        out_dir=tmp_path / "reports",
        progress=seen.append,
        command="portask lab run",
    )
    found = results.load(path)
    assert (tmp_path / "reports" / "latest").resolve() == path.resolve()
    assert found.suites == ["serialization", "pools"]
    assert {corpus.name for corpus in found.corpora} == {"mine.ndjson", "tiny", "random"}
    assert any("mine.ndjson has 150 distinct" in note for note in found.notes)
    assert {outcome.variant for outcome in found.conformance} == {
        "codec/cbor2",
        "codec/struct",
        "pool/none",
        "pool/slab",
    }
    assert all(outcome.failed == 0 and outcome.passed > 0 for outcome in found.conformance)
    assert not found.failures
    by_case: dict[str, set[str]] = {}
    for summary in found.summaries:
        by_case.setdefault(summary.case, set()).add(summary.variant)
    assert set(by_case) == {case.id for case in found.cases}
    rates = [
        names
        for case, names in by_case.items()
        if case.startswith("serialization") and case.endswith("/rate")
    ]
    assert rates
    assert all(
        names == {"codec/cbor2", "codec/cbor2#again", "codec/struct", "floor/empty-loop"} for names in rates
    )
    raw = list(results.read_raw(path))
    assert {line.case for line in raw} == set(by_case)
    headlines = {criterion.id: criterion for criterion in found.criteria if criterion.headline}
    assert set(headlines) == {"serialization", "memory", "connections", "latency", "cpu"}
    assert headlines["serialization"].verdict != "not measured"
    assert headlines["memory"].verdict == "not measured"
    assert {winner.family for winner in found.winners} == {"codec", "pool"}
    shares = [each.done for each in seen]
    assert shares == sorted(shares)
    assert seen[-1] == Progress("done", 1.0, 0.0)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"profile": "slow"}, ConfigError, "quick"),
        ({"suites": ["wings"]}, ConfigError, "rings"),
        ({"variants": ["codec/none"]}, UnknownVariant, "codec/struct"),
        ({"corpus": "nowhere.csv"}, CorpusError, "flights"),
        ({"criteria": "nowhere.toml"}, ConfigError, "nowhere.toml"),
        ({"corpus": ["tiny", "tiny"]}, ConfigError, "same name"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    tmp_path: Path, asked: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run.run(out_dir=tmp_path / "reports", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "reports").exists()


def test_fewer_variants_take_their_share_of_the_time() -> None:
    everybody, one = (
        Plan("full", ["latency", "rings"], None, variants=variants, criteria=None, seed=1)
        for variants in (None, ["server/epoll", "ring/deque"])
    )
    assert everybody.budgets == [suites.SUITES[name].full for name in ("latency", "rings")]
    assert all(0 < few < 0.7 * many for few, many in zip(one.budgets, everybody.budgets, strict=True))


def test_what_quick_cannot_decide_is_full_unless_somebody_says_otherwise() -> None:
    def profile(names: list[str] | None, said: str | None = None) -> str:
        return Plan(said, names, None, variants=None, criteria=None, seed=1).profile.name

    assert profile(None) == profile(["rings"]) == profile(["rings", "connections"]) == "quick"
    assert profile(["connections"]) == "full"
    assert profile(["connections"], "quick") == "quick"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file"):
        run.run(suites=["pools"], out_dir=tmp_path / "file" / "reports")


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.text.startswith("pools: block 2"):
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(Interrupted) as caught:
        run.run(
            suites=["rings", "pools", "workers"],
            variants=["slab"],
            seed=1,
            out_dir=tmp_path,
            progress=interrupt,
        )
    found = results.load(caught.value.path)
    assert not found.complete
    assert any("interrupted" in note for note in found.notes)
    assert [block.suite for block in found.blocks] == ["pools"]
    assert {line.block for line in results.read_raw(caught.value.path)} == {0}


def test_what_suites_leave_of_their_time_goes_to_those_that_lack_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(meter: Meter, suite: suites.Suite) -> float:
        given.append(suite.name)
        return 1e-6 if suite.name == "serialization" else 10.0

    given: list[str] = []
    monkeypatch.setattr(Meter, "suite", little)
    never = Rule(steal=math.inf, foreign=math.inf)
    monkeypatch.setattr(blocks, "Rule", lambda: never)
    path = run.run(suites=["serialization", "pools"], variants=["slab", "struct"], seed=1, out_dir=tmp_path)
    found = results.load(path)
    assert given == ["serialization", "pools"]
    assert [(block.suite, block.index) for block in found.blocks] == [
        *(("serialization", index) for index in (0, 1)),
        *(("pools", index) for index in (0, 1)),
    ]
    starts = {(block.suite, block.index): block.started for block in found.blocks}
    assert starts["serialization", 0] < starts["pools", 1] < starts["serialization", 1]
    assert found.complete
    assert not [note for note in found.notes if "incomplete" in note]
    assert len({case.id for case in found.cases}) == len(found.cases)
    lines = [(line.case, line.arm, line.block) for line in results.read_raw(path)]
    assert len(set(lines)) == len(lines)
    assert {block for case, _, block in lines if case.startswith("serialization")} == {0, 1}


def test_a_link_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    path = run.run(suites=["pools"], variants=["slab"], out_dir=tmp_path)
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()
    assert any("left alone" in note for note in results.load(path).notes)
