"""Criteria: verdicts follow from intervals, and a file that is wrong says where."""

from pathlib import Path

import pytest

from portask_lab import criteria, workloads
from portask_lab.criteria import CriteriaError, Measure, Rule
from portask_lab.results import Criterion, Scalar
from portask_lab.suites import SUITES
from tests.lab.made import add, empty_run

MEASURE = Measure("serialization", "rate", "codec.*", {"batch": 100})


def rule(better: str = "higher", *, existence: bool = False) -> Rule:
    return Rule("r", "R", 1_000.0, "msg/s", better, "words", [MEASURE], existence)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("better", "value", "low", "high", "expected"),
    [
        ("higher", 1_100, 1_010, 1_200, "pass"),
        ("higher", 1_100, 990, 1_200, "inconclusive"),
        ("higher", 900, 800, 990, "fail"),
        ("higher", 990, 800, 1_010, "inconclusive"),
        ("higher", 5_000, None, None, "inconclusive"),
        ("lower", 900, 800, 990, "pass"),
        ("lower", 900, 800, 1_010, "inconclusive"),
        ("lower", 1_100, 1_010, 1_200, "fail"),
        ("lower", 1, None, None, "inconclusive"),
        ("higher", 1_000, 1_000, 1_000, "fail"),
    ],
)
def test_the_whole_interval_decides(
    better: str, value: float, low: float | None, high: float | None, expected: str
) -> None:
    assert rule(better).judge(value, low, high) == expected


def test_existence_needs_one_success_and_no_interval() -> None:
    assert rule(existence=True).judge(1_001, None, None) == "pass"
    assert rule(existence=True).judge(999, None, None) == "fail"
    assert rule(existence=True).judge(900, 890, 910) == "fail"


def judged(*cases: dict[str, float], voided: int = 0) -> dict[str, Criterion]:
    run = empty_run(voided=voided)
    for number, values in enumerate(cases):
        add(run, "codec.encode", "rate", dict(values), params={"corpus": str(number), "batch": 100})
    found = criteria.judge(run, [rule()])
    assert sum(each.headline for each in found) == 1
    return {each.variant: each for each in found}


def test_the_worst_case_stands_for_all() -> None:
    found = judged({"codec/cbor2": 900, "codec/struct": 5_000}, {"codec/cbor2": 2_000, "codec/struct": 2_000})
    assert found["codec/cbor2"].verdict == "fail"
    assert found["codec/cbor2"].value == 900
    assert found["codec/struct"].verdict == "pass"
    assert found["codec/struct"].value == 2_000
    assert found["codec/struct"].headline
    assert len(found["codec/struct"].parts) == 2


def test_a_pass_beats_an_inconclusive_with_a_better_value() -> None:
    run = empty_run()
    values = {"codec/cbor2": (1_100.0, 1_050.0, 1_150.0), "codec/struct": (9_000.0, 500.0, 20_000.0)}
    add(run, "codec.encode", "rate", dict(values), params={"batch": 100})
    headline = next(each for each in criteria.judge(run, [rule()]) if each.headline)
    assert (headline.variant, headline.verdict) == ("codec/cbor2", "pass")


def test_a_missing_case_cannot_be_passed() -> None:
    found = judged({"codec/cbor2": 2_000, "codec/struct": 2_000}, {"codec/cbor2": 2_000})
    assert found["codec/cbor2"].verdict == "pass"
    assert found["codec/struct"].verdict == "inconclusive"
    assert "missing" in found["codec/struct"].explanation


def test_noise_leaves_nothing_to_judge() -> None:
    found = judged({"codec/cbor2": 2_000}, voided=3)
    assert found["codec/cbor2"].verdict == "inconclusive"
    assert judged({"codec/cbor2": 2_000}, voided=2)["codec/cbor2"].verdict == "pass"


def test_yardsticks_and_the_control_are_not_judged() -> None:
    found = judged(
        {"codec/cbor2": 900, "codec/cbor2#again": 2_000, "floor/empty-loop": 9_000, "peer/x": 9_000}
    )
    assert set(found) == {"codec/cbor2"}


def test_what_was_not_measured_says_so() -> None:
    run = empty_run(suites=["rings"])
    (found,) = criteria.judge(run, [rule()])
    assert (found.verdict, found.headline, found.value) == ("not measured", True, None)
    assert "was not run" in found.explanation
    (found,) = criteria.judge(empty_run(), [rule()])
    assert "No variant" in found.explanation


def test_scale_turns_units() -> None:
    run = empty_run()
    add(run, "codec.encode", "rate", {"codec/cbor2": 2.0}, params={"batch": 100})
    scaled = Rule(
        "r", "R", 1_000.0, "msg/s", "higher", "w", [Measure("serialization", "rate", scale=1_000.0)]
    )
    (found,) = criteria.judge(run, [scaled])
    assert (found.value, found.verdict) == (2_000.0, "pass")


def test_where_takes_values_and_lists() -> None:
    run = empty_run()
    for batch in (1, 10, 100):
        add(run, "codec.encode", "rate", {"codec/cbor2": 2_000.0}, params={"batch": batch})
    wanted: list[tuple[dict[str, Scalar | list[Scalar]], int]]
    wanted = [({"batch": 1}, 1), ({"batch": [1, 100]}, 2), ({}, 3), ({"nothing": 1}, 0)]
    for where, count in wanted:
        measure = Measure("serialization", "rate", "*", where)
        assert sum(map(measure.matches, run.cases)) == count


def test_the_built_in_five() -> None:
    rules = criteria.load()
    assert [each.id for each in rules] == ["serialization", "memory", "connections", "latency", "cpu"]
    assert [each.mark for each in rules] == [1_000_000, 10, 100_000, 100, 5]
    names = {
        workload.name: {metric.name for metric in workload.metrics} for workload in workloads.workloads()
    }
    for each in rules:
        for measure in each.measure:
            assert measure.suite in SUITES
            if "*" not in measure.workload:
                assert measure.metric in names[measure.workload]


GOOD = """
[[criterion]]
id = "mine"
title = "Mine"
mark = 5
unit = "x"
better = "lower"
measured_on = "words"
[[criterion.measure]]
suite = "rings"
metric = "cost"
"""
BAD = {
    "no toml": ("[[criterion", "no TOML"),
    "empty": ("", "criterion"),
    "none": ("criterion = []", "at least one"),
    "unknown key": (GOOD + "sweet = 1", "sweet"),
    "typo": (GOOD.replace("mark", "marc"), "'mine'"),
    "type": (GOOD.replace("mark = 5", 'mark = "5"'), "'mine'"),
    "direction": (GOOD.replace("lower", "sideways"), "'mine'"),
    "suite": (GOOD.replace('"rings"', '"wings"'), "rings"),
    "nothing measured": (GOOD.partition("[[criterion.measure]]")[0] + "measure = []", "measures nothing"),
    "twice": (GOOD + GOOD, "rename one"),
}


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    (found,) = criteria.load(path)
    assert found.id == "mine"


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_says_what_and_where(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(CriteriaError) as caught:
        criteria.load(path)
    assert words in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CriteriaError, match="No such file"):
        criteria.load(tmp_path / "none.toml")
