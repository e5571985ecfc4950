"""Selection: conforming, fitting, best; ties to the simpler; and a file that the broker takes."""

import tomllib
from pathlib import Path

import pytest

from portask.config import load as load_config
from portask.errors import ConfigError
from portask_lab import results, select
from portask_lab.objectives import OBJECTIVES
from portask_lab.results import Conformance, Run, Winner
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
    order = ["compression/never", "compression/adaptive", "compression/always", "compression/lz4"]
    assert sorted(set(order), key=select.simplicity) == order


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


def test_noise_leaves_the_simplest() -> None:
    found = winner(codecs({"codec/cbor2": 1e6, "codec/struct": 9e6}, voided=3))
    assert (found.variant, found.tie) == ("codec/cbor2", True)
    assert "noisy" in found.reason


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
        params={"rate": 50_000},
        floor=0.05,
    )
    found = winner(run)
    assert found.variant == "server/epoll"
    assert "decided" in found.reason


def test_the_file_is_a_config_with_a_receipt(tmp_path: Path) -> None:
    run = codecs({"codec/cbor2": 1e6, "codec/struct": 2e6})
    results.save(run, tmp_path / "run")
    text = select.select(tmp_path / "run")
    path = tmp_path / "portask.toml"
    path.write_text(text)
    document = tomllib.loads(text)
    assert document["codec"] == {"variant": "struct"}
    assert document["receipt"]["run"] == run.id
    assert document["receipt"]["codec"]["runner_up"] == "codec/cbor2"
    assert load_config(path).codec.variant == "struct"
    assert select.check(path).matches


def test_another_machine_is_noticed(tmp_path: Path) -> None:
    run = codecs({"codec/cbor2": 1e6, "codec/struct": 2e6})
    run.machine.cpu = 'A "quoted" CPU\\'
    path = tmp_path / "portask.toml"
    path.write_text(select.render(run, select.choose(run)))
    found = select.check(path)
    assert not found.matches
    assert any("cpu_model" in difference for difference in found.differences)


def test_an_incomplete_run_says_so_in_the_file() -> None:
    run = codecs({"codec/cbor2": 1e6})
    run.complete = False
    assert "incomplete" in select.render(run, select.choose(run))


def test_nothing_to_select_is_an_error(tmp_path: Path) -> None:
    results.save(empty_run(), tmp_path)
    with pytest.raises(ConfigError, match="no winner"):
        select.select(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "select latest"), ("[[", "no TOML"), ("[codec]\nvariant = 'struct'\n", "no receipt")],
)
def test_checking_what_is_no_receipt(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "portask.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        select.check(path)
