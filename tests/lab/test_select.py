"""Selection: conforming, fitting, best; ties to the simpler."""

from pathlib import Path

import msgspec
import pytest

from portask.config import Settings
from portask_lab import results, select
from portask_lab.leads import Leads
from portask_lab.objectives import OBJECTIVES
from portask_lab.results import Conformance, Failure, Run, Winner
from tests.lab.made import add, empty_run


def codecs(values: dict[str, float], floor: float = 0.03, voided: int = 0) -> Run:
    run = empty_run(voided=voided)
    for corpus in ("tiny", "flights"):
        add(
            run,
            "codec.roundtrip",
            "rate",
            dict(values),
            params={"corpus": corpus, "batch": 100},
            floor=floor if corpus == "tiny" else None,
        )
    return run


def winner(run: Run) -> Winner:
    (found,) = select.choose(run)
    return found


def test_the_best_wins_and_the_next_is_named() -> None:
    found = winner(codecs({"codec/cbor2": 1e6, "codec/struct": 2e6}))
    assert (found.variant, found.runner_up, found.tie) == ("codec/struct", "codec/cbor2", False)
    assert found.value == pytest.approx(2e6)
    assert found.runner_up_value == pytest.approx(1e6)


def test_a_tie_goes_to_the_simpler() -> None:
    found = winner(codecs({"codec/cbor2": 1.99e6, "codec/struct": 2e6}))
    assert (found.variant, found.tie) == ("codec/cbor2", True)
    assert "simplest" in found.reason


def test_simplicity() -> None:
    order = ["compression/never", "compression/always", "compression/lz4", "compression/adaptive"]
    assert sorted(set(order), key=select.simplicity) == order
    servers = ["server/asyncio-streams", "server/asyncio-protocol", "server/epoll", "server/uvloop"]
    assert sorted(set(servers), key=select.simplicity) == servers, (
        "a library costs more than lines of one's own"
    )


def test_lines_are_those_of_the_module_or_the_whole_package() -> None:
    one = select._lines("portask.reference.ring:DequeRing")
    assert 0 < one < select._lines("portask.storage:SegmentLog")
    assert select._lines("math:sqrt") == 0, "compiled code has no lines to count"


def test_what_fails_conformance_never_wins() -> None:
    run = codecs({"codec/cbor2": 1e6, "codec/struct": 9e6})
    run.conformance = [
        Conformance(variant="codec/struct", passed=4, failed=1, not_applicable=0, failures=["x: y"])
    ]
    found = winner(run)
    assert found.variant == "codec/cbor2"
    assert "codec/struct is better, but it fails conformance" in found.reason


def test_a_codec_that_nobody_else_reads_never_wins() -> None:
    found = winner(codecs({"codec/cbor2": 1e6, "codec/msgspec-msgpack": 9e6}))
    assert found.variant == "codec/cbor2"
    assert "wire id" in found.reason


def test_a_variant_that_lacks_a_case_is_no_candidate() -> None:
    run = codecs({"codec/cbor2": 1e6, "codec/struct": 9e6})
    run.summaries = [
        each for each in run.summaries if not (each.variant == "codec/struct" and "tiny" in each.case)
    ]
    assert winner(run).variant == "codec/cbor2"


def raw(run: Run, directory: Path, blocks: dict[str, list[float]]) -> Leads:
    """Samples of every case: the values by block, for each variant."""
    lines = [
        results.RawSample(case=case.id, variant=label, arm=label, block=block, process=block, values=[value])
        for case in run.cases
        for label, values in blocks.items()
        for block, value in enumerate(values)
    ]
    results.append_raw(directory / results.RAW, lines)
    return Leads(run, directory)


def test_a_lead_whose_interval_holds_1_is_a_tie_however_small_the_noise_floor(tmp_path: Path) -> None:
    run = codecs({"codec/cbor2": 1e6, "codec/struct": 1.4e6}, floor=0.001)
    unsure = raw(
        run, tmp_path, {"codec/cbor2": [1e6, 1e6, 1e6, 1e6], "codec/struct": [0.7e6, 2e6, 0.8e6, 3e6]}
    )
    (found,) = select.choose(run, unsure)
    assert (found.variant, found.tie) == ("codec/cbor2", True)
    assert "not to be told from codec/struct" in found.reason
    (tmp_path / results.RAW).unlink()
    sure = raw(
        run, tmp_path, {"codec/cbor2": [1e6, 1e6, 1e6, 1e6], "codec/struct": [1.4e6, 1.41e6, 1.39e6, 1.4e6]}
    )
    (found,) = select.choose(run, sure)
    assert (found.variant, found.tie) == ("codec/struct", False)


def test_noise_leaves_the_default_in_one_clear_sentence() -> None:
    found = winner(codecs({"codec/cbor2": 1e6, "codec/struct": 9e6}, voided=3))
    assert (found.variant, found.tie) == ("codec/cbor2", True)
    wanted = "Fewer than two blocks of suite serialization were quiet enough to compare anything, so the default stays."
    assert found.reason == wanted


def servers(values: dict[str, float], voided: int, void: str = "") -> Run:
    run = empty_run(suites=["latency"], voided=voided)
    add(
        run,
        "network.latency",
        "p99",
        dict(values),
        suite="latency",
        better="lower",
        params={"rate": 1_000},
        floor=0.05,
    )
    if void:
        run.failures = [
            Failure(
                variant=void,
                suite="latency",
                workload="network.latency",
                params={"rate": 1_000},
                block=0,
                detail="the generator was late",
                kind="void",
            )
        ]
    return run


def test_a_void_measurement_costs_the_default_nothing_where_nothing_was_compared() -> None:
    found = winner(servers({"server/epoll": 2_441.0}, 3, void="server/asyncio-streams"))
    assert found.variant == "server/asyncio-streams"
    assert found.value is None
    assert "the default stays" in found.reason


def test_the_default_stays_where_every_measurement_was_void() -> None:
    run = servers({"server/epoll": 2_441.0}, 0, void="server/asyncio-streams")
    run.summaries = []
    found = winner(run)
    assert found.variant == "server/asyncio-streams"
    assert found.reason == "the only candidate, no other variant has a figure for this."
    run.failures.append(msgspec.structs.replace(run.failures[0], variant="server/epoll"))
    found = winner(run)
    assert found.variant == "server/asyncio-streams"
    assert found.reason == "Every measurement of it was void in suite latency, so the default stays."


def test_a_variant_that_was_not_compared_because_its_measurements_were_void_is_named() -> None:
    found = winner(servers({"server/asyncio-streams": 100.0, "server/epoll": 50.0}, 0, void="server/uvloop"))
    assert found.variant == "server/epoll"
    assert "server/uvloop was not compared, its measurements were void." in found.reason
    control = servers({"server/epoll": 50.0, "server/uvloop": 90.0}, 0, void="server/epoll#again")
    assert "void" not in winner(control).reason


def test_the_only_candidate_needs_no_quiet_blocks() -> None:
    found = winner(servers({"server/epoll": 2_441.0}, 3))
    assert (found.variant, found.tie) == ("server/epoll", False)
    assert "only candidate" in found.reason


def test_the_second_objective_decides_where_noise_spoiled_the_first() -> None:
    run = servers({"server/asyncio-streams": 100.0, "server/epoll": 99.0}, 3)
    run.blocks += empty_run(["cpu"]).blocks
    values = {"server/asyncio-streams": 9.0, "server/epoll": 4.0}
    add(
        run,
        "network.cpu",
        "cpu",
        values,
        suite="cpu",
        better="lower",
        params={"rate": 50_000, "batch": 50},
        floor=0.05,
    )
    found = winner(run)
    assert (found.variant, found.tie) == ("server/epoll", False)
    assert "CPU at 50,000 msg/s decided among them" in found.reason


def compressions(worth: dict[str, tuple[float, float, float]]) -> Run:
    run = empty_run(suites=["compression"])
    for corpus in ("flights", "random"):
        params: dict[str, results.Scalar] = {"corpus": corpus, "batch": 100}
        for workload, metric, at in (
            ("compression.pack", "rate", 0),
            ("compression.pack", "ratio", 1),
            ("compression.unpack", "rate", 2),
        ):
            values = {label: each[at] for label, each in worth.items() if each[at]}
            add(run, workload, metric, dict(values), suite="compression", params=params, floor=0.01)
    return run


def test_compression_is_judged_by_the_time_a_byte_takes() -> None:
    run = compressions(
        {
            "compression/never": (1e5, 1.0, 0.0),
            "compression/lz4": (1_000.0, 2.0, 2_000.0),
            "compression/always": (500.0, 8.0, 1_000.0),
        }
    )
    values = OBJECTIVES["compression"][0].values(run)
    assert values["compression/never"] == pytest.approx(0.01 + 8)
    assert values["compression/lz4"] == pytest.approx(1 + 4 + 0.5)
    assert values["compression/always"] == pytest.approx(2 + 1 + 1)
    assert winner(run).variant == "compression/always"


def test_what_needs_options_of_the_user_is_not_selected() -> None:
    run = compressions(
        {"compression/never": (1e5, 1.0, 0.0), "compression/dictionary": (1_000.0, 9.0, 1_000.0)}
    )
    found = winner(run)
    assert found.variant == "compression/never"
    assert "options" in found.reason


def test_cpu_decides_between_servers_of_equal_latency() -> None:
    run = empty_run(suites=["latency", "cpu"])
    add(
        run,
        "network.latency",
        "p99",
        {"server/asyncio-streams": 100.0, "server/epoll": 99.0, "server/uvloop": 70.0 * 1.45},
        suite="latency",
        better="lower",
        params={"rate": 1_000},
        floor=0.05,
    )
    add(
        run,
        "network.cpu",
        "cpu",
        {"server/asyncio-streams": 9.0, "server/epoll": 4.0, "server/uvloop": 6.0},
        suite="cpu",
        better="lower",
        params={"rate": 50_000, "batch": 50},
        floor=0.05,
    )
    found = winner(run)
    assert found.variant == "server/epoll"
    assert "decided" in found.reason


def test_the_default_storage_stays_though_another_has_fewer_lines() -> None:
    labels = ("storage/lmdb", "storage/segment-log", "storage/sqlite")
    assert select.simplicity(labels[2]) < select.simplicity(labels[1])
    run = empty_run(("storage",), voided=3)
    add(
        run,
        "storage.append",
        "rate",
        dict.fromkeys(labels, 1e6),
        params={"durability": "os", "batch": 1, "turn": 1},
        suite="storage",
    )
    found = winner(run)
    assert found.variant == f"storage/{Settings().storage.variant}" == labels[1]
    assert "the default stays" in found.reason
