"""asv finds a benchmark for every workload and every variant, and keeps finding them when a library is missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from portask import registry
from portask_lab import instruments, workloads
from tests.instruments.hiding import run_without

pytest.importorskip("asv_runner", reason="needs asv: pip install asv")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"
DISCOVER = f"""
import sys
from asv_runner.discovery import list_benchmarks
list_benchmarks({str(FOLDER)!r}, sys.stdout)
"""


def parse(output: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(output)}


def workload_of(benchmark: dict[str, Any]) -> workloads.Workload:
    return workloads.get(benchmark["version"].split()[0])


def names(benchmark: dict[str, Any]) -> list[str]:
    return [value.strip("'") for value in benchmark["params"][0]]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", DISCOVER], capture_output=True, text=True, check=True, timeout=60
    )
    return parse(done.stdout)


def test_every_workload_has_a_benchmark(found: dict[str, dict[str, Any]]) -> None:
    covered = {workload_of(each).name for each in found.values()}
    planned = {each.name for each in workloads.workloads() if instruments.cases(each.name)}
    assert planned <= covered, "add a class for these to experiments/benchmarks"


def test_every_available_variant_is_a_parameter(found: dict[str, dict[str, Any]]) -> None:
    for each in found.values():
        family = workload_of(each).family
        available = [entry.name for entry in registry.entries(family) if not entry.unavailable()]
        assert names(each) == available, each["name"]
        assert each["params"][1], f"{each['name']} has no case"


def test_a_figure_belongs_to_a_definition_of_the_work(
    found: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found["codec.Encode.time_run"]["version"] == instruments.definition("codec.encode")
    (tmp_path / "codec.py").write_text("# the work is another one\n")
    monkeypatch.setattr(workloads, "__path__", [str(tmp_path)])
    assert found["codec.Encode.time_run"]["version"] != instruments.definition("codec.encode")


@pytest.mark.parametrize("library", ["zstandard", "lz4", "uvloop"])
def test_a_missing_library_takes_its_variants_and_no_more(
    found: dict[str, dict[str, Any]], library: str, tmp_path: Path
) -> None:
    done = run_without(library, [sys.executable, "-c", DISCOVER], tmp_path)
    assert done.returncode == 0, done.stderr
    left = parse(done.stdout)
    assert left.keys() == found.keys()
    needing = {entry.label for entry in registry.entries() if library in entry.needs}
    assert needing, "this test hides a library that no variant needs"
    for name, each in found.items():
        family = workload_of(each).family
        kept = [variant for variant in names(each) if f"{family}/{variant}" not in needing]
        assert names(left[name]) == kept, name


ONCE = f"""
import sys
from asv_runner.discovery import get_benchmark_from_name
for name in sys.argv[1:]:
    once = {{"repeat": 1, "number": 1, "rounds": 1, "warmup_time": 0}}
    benchmark = get_benchmark_from_name({str(FOLDER)!r}, name, once)
    skipped = benchmark.do_setup()
    print(name, "n/a" if skipped else benchmark.do_run())
    benchmark.do_teardown()
"""


def test_every_kind_of_benchmark_gives_a_figure() -> None:
    chosen = [
        "codec.Encode.time_run-0",
        "codec.Size.track_value-0",
        "ring.Threads.track_value-0",
        "storage.Append.time_run-0",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ONCE, *chosen], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == chosen
    assert "n/a" not in done.stdout


def test_what_makes_no_sense_is_not_applicable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONCE, "compression.Unpack.time_run-0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "compression.Unpack.time_run-0 n/a", done.stderr
    assert "compression/never leaves all these batches as they are" in done.stderr


def test_a_corpus_that_cannot_be_read_is_not_applicable(tmp_path: Path) -> None:
    """Without zstandard the real corpora stay closed; the generated ones still give figures."""
    tiny, flights = "codec.Size.track_value-0", "codec.Size.track_value-1"
    done = run_without("zstandard", [sys.executable, "-c", ONCE, tiny, flights], tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if line.startswith("codec."))
    assert "n/a" not in first
    assert second == f"{flights} n/a"
    assert "zstandard" in done.stderr
