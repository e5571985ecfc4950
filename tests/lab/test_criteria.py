"""Criteria: verdicts follow from intervals, and a file that is wrong says where."""

from pathlib import Path

import msgspec
import pytest

from portask_lab import criteria, workloads
from portask_lab.criteria import CriteriaError, Measure, Rule
from portask_lab.report import verdicts
from portask_lab.results import Criterion, Run, Scalar
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


@pytest.mark.parametrize(
    ("better", "best", "low", "high", "expected"),
    [
        ("lower", 2_000, None, None, "fail"),
        ("lower", 1_999, None, None, "inconclusive"),
        ("lower", 2_000, 900, 9_000, "fail"),
        ("lower", 999, 900, 9_000, "inconclusive"),
        ("lower", 1, None, None, "inconclusive"),
        ("higher", 500, None, None, "fail"),
        ("higher", 501, None, None, "inconclusive"),
        ("higher", 500, 400, 1_100, "fail"),
        ("higher", 900_000, None, None, "inconclusive"),
    ],
)
def test_when_every_single_process_misses_by_the_margin_it_is_a_fail(
    better: str, best: float, low: float | None, high: float | None, expected: str
) -> None:
    """One side only: no number of lucky processes is a pass without an interval."""
    assert rule(better).judge(best, low, high, best) == expected
    assert rule(better).judge(best, low, high) == "inconclusive"


def test_the_margin_looks_at_the_best_process_and_says_so() -> None:
    run = empty_run()
    add(run, "codec.encode", "rate", {"codec/cbor2": (300.0, 90.0, 2_000.0)}, params={"batch": 100})
    summary = run.summaries[0]
    summary.least, summary.most = 200.0, 500.0
    (found,) = criteria.judge(run, [rule()])
    assert found.verdict == "fail"
    assert "each of 4 processes missed the mark by 2 times or more" in found.explanation
    summary.most = 501.0
    (found,) = criteria.judge(run, [rule()])
    assert found.verdict == "inconclusive"
    assert "straddles" in found.explanation


def test_the_headline_carries_the_labels_that_the_criterion_wants() -> None:
    run = empty_run()
    values = {"storage/a": 900.0, "storage/b": 2_000.0, "storage/c": 3_000.0}
    held = {"storage/a": "in RAM", "storage/b": "in files", "storage/c": "in files"}
    labels = {label: {"held": where} for label, where in held.items()}
    add(run, "codec.encode", "rate", dict(values), params={"batch": 100}, labels=labels)
    wanted = msgspec.structs.replace(rule(), headline={"held": "in RAM"})
    found = criteria.judge(run, [wanted])
    assert [each.variant for each in found] == ["storage/c", "storage/b", "storage/a"]
    assert [each.headline for each in found] == [False, False, True]
    assert [each.apart for each in found] == ["held in files", "held in files", ""]
    assert found[2].verdict == "fail"
    rows = [[cell.text for cell in row] for row in verdicts.verdicts(_with(run, found)).rows]
    assert [(row[0], row[5]) for row in rows] == [("R", "storage/a"), ("apart: held in files", "storage/c")]
    assert "held in RAM" in rows[0][3]
    assert "held in files" in rows[1][3]


def test_without_any_variant_that_carries_them_the_best_one_stands_there() -> None:
    run = empty_run()
    labels = {"storage/a": {"held": "in files"}}
    add(run, "codec.encode", "rate", {"storage/a": 2_000.0}, params={"batch": 100}, labels=labels)
    (found,) = criteria.judge(run, [msgspec.structs.replace(rule(), headline={"held": "in RAM"})])
    assert found.headline
    assert found.apart == "held in files"
    (row,) = verdicts.verdicts(_with(run, [found])).rows
    assert "held in files" in row[3].text


def test_figures_are_told_apart_by_what_they_count() -> None:
    run = empty_run()
    for metric in ("p50", "p99"):
        add(run, "network.latency", metric, {"server/a": 2_000.0}, suite="latency", params={"rate": 1_000})
    measures = [Measure("latency", metric) for metric in ("p50", "p99")]
    (found,) = criteria.judge(run, [msgspec.structs.replace(rule(), measure=measures)])
    titles = [part.title for part in found.parts]
    assert titles == ["network.latency, rate 1,000: p50", "network.latency, rate 1,000: p99"]
    assert "Network.latency, rate 1,000: p50" in found.explanation


def _with(run: Run, found: list[Criterion]) -> Run:
    return msgspec.structs.replace(run, criteria=found)


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


def test_a_missed_mark_that_a_floor_misses_too_names_the_floors() -> None:
    slow: dict[str, float | tuple[float, float | None, float | None]] = {
        "server/a": (2_000.0, 1_500.0, 2_500.0),
        "floor/relay": (1_900.0, 700.0, 2_100.0),
        "floor/relay-spin": 500.0,
    }
    run = empty_run()
    add(run, "codec.encode", "rate", slow, params={"batch": 100})
    (found,) = criteria.judge(run, [rule("lower")])
    assert found.explanation.endswith(
        " The floors of the same case: floor/relay 1,900 [700, 2,100] msg/s; floor/relay-spin 500 [495, 505] msg/s."
    )
    run = empty_run()
    add(run, "codec.encode", "rate", {**slow, "floor/relay": 600.0}, params={"batch": 100})
    (found,) = criteria.judge(run, [rule("lower")])
    assert "floor" not in found.explanation
    run = empty_run()
    add(run, "codec.encode", "rate", {**slow, "server/a": 900.0}, params={"batch": 100})
    (found,) = criteria.judge(run, [rule("lower")])
    assert found.verdict == "pass"
    assert "floor" not in found.explanation


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


def test_the_suites_of_the_criteria_come_first() -> None:
    """On a machine so slow that not all suites are reached, verdicts are what is left."""
    judged = {measure.suite for rule_ in criteria.load() for measure in rule_.measure}
    assert set(list(SUITES)[: len(judged)]) == judged


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
