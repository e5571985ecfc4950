"""Figures over something that grows are drawn from what was measured, and say what is missing."""

from __future__ import annotations

import pytest

from portask_lab.report import chapters, colours, growth
from portask_lab.results import Failure, Run
from tests.lab.made import add, empty_run

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")

SERVERS = {"server/asyncio-streams": 100_000.0, "server/epoll": 400_000.0}


def grown(axis: str, places: list[int], run: Run | None = None) -> Run:
    made = run or empty_run(["scaling"])
    for at in places:
        for workload, metric, better in (
            ("network.scaling", "rate", "higher"),
            ("network.scaling_latency", "p99", "lower"),
        ):
            unit = "msg/s" if metric == "rate" else "µs"
            values = {label: value / at for label, value in SERVERS.items()}
            add(made, workload, metric, values, suite="scaling", better=better, params={axis: at}, unit=unit)  # type: ignore[arg-type]
    return made


def test_each_thing_that_grew_has_a_row() -> None:
    run = grown("topics", [1, 10, 100])
    grown("workers", [1, 2, 4], run)
    picture = growth.scaling(run, colours.assign(run))
    assert picture is not None
    assert picture.svg.startswith("<svg")
    for text in ("over topics", "over broker processes", "epoll", "asyncio-streams"):
        assert text in picture.alt
    assert "void" not in picture.caption


def test_one_point_is_no_curve_but_stands_in_a_table() -> None:
    run = grown("subscribers", [4])
    assert growth.scaling(run, colours.assign(run)) is None
    document = chapters.build(run, {})
    (section,) = [section for section in document.sections if section.anchor == "scaling"]
    assert len(section.parts) == 3, "words, and a table for each workload"


def test_void_points_are_counted() -> None:
    run = grown("topics", [1, 100])
    reason = "the load generator was too slow"
    run.failures.append(
        Failure(
            variant="server/epoll",
            suite="scaling",
            workload="network.scaling",
            params={"size": 65_536},
            block=0,
            detail=reason,
            kind="void",
        )
    )
    picture = growth.scaling(run, colours.assign(run))
    assert picture is not None
    assert "1 measurements were void" in picture.caption


def test_latency_is_drawn_over_the_rates_that_all_share() -> None:
    run = empty_run(["latency"])
    for rate in (1_000, 10_000, "80% of the most"):
        for metric in ("p50", "p99"):
            params = {"rate": rate, "size": 64, "schedule": "constant"}
            add(
                run,
                "network.latency",
                metric,
                SERVERS,
                suite="latency",
                better="lower",
                params=params,
                unit="µs",
            )
    picture = growth.latency_over_rate(run, colours.assign(run), 100)
    assert picture is not None
    assert "10,000" in picture.svg
    assert "80%" not in picture.svg
