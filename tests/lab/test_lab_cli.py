"""`portask lab …`: what it prints, what it refuses, and that a machine can read it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portask import registry
from portask.cli.app import run as portask
from portask.errors import PortaskError, UnknownVariant
from portask.registry import Entry
from portask_lab import confirm, profiler, results, selftest
from portask_lab.cli import COMMANDS, common
from portask_lab.cli.watching import watching
from portask_lab.results import Confirmation, ConfirmedFigure
from tests.lab.made import add
from tests.lab.report_runs import full_run


def lab(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = portask(["lab", *arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    run = full_run()
    run.cases, run.summaries, run.points, run.curves = [], [], [], []  # drawn elsewhere
    results.save(run, tmp_path / "reports" / run.id)
    (tmp_path / "reports" / "latest").symlink_to(run.id)
    return tmp_path / "reports"


class EagerRing:
    """Breaks the contract: forgets what was put."""

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.capacity = capacity

    def put(self, record: bytes) -> None:
        del record

    def get(self) -> bytes:
        return b""

    def __len__(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody's package: a broken ring, one that lacks a library, and a name that two families then have."""
    offered = (
        Entry("ring", "eager", f"{__name__}:EagerRing", "forgets"),
        Entry(
            "ring", "far", "nowhere:Ring", "needs what is not there", needs=("no_such_module=no-such-dist",)
        ),
        Entry("workers", "slab", f"{__name__}:EagerRing", "shares its name with a pool"),
    )

    class Point:
        name = "stranger"
        value = "stranger:VARIANTS"

        def __init__(self, broken: bool) -> None:
            self.broken = broken

        def load(self) -> Any:
            if self.broken:
                raise RuntimeError("boom")
            return offered

    real = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [*real(group=group), Point(False), Point(True)]
    )
    registry.refresh()
    yield
    monkeypatch.undo()
    registry.refresh()


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lab(capsys, "--help")
    assert code == 0
    for name, line in COMMANDS.items():
        assert name in out
        assert line in out
        code, detail, _ = lab(capsys, name, "--help")
        assert code == 0
        assert detail.startswith(f"Usage: portask lab {name}")


def test_help_imports_neither_statistics_nor_drawing() -> None:
    code = (
        "import sys; from portask.cli.app import run; run(['lab', '--help']); run(['lab', 'variants']);"
        "print([name for name in ('numpy', 'matplotlib', 'portask_lab.blocks') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_variants_lists_all_with_the_reference_marked(
    capsys: pytest.CaptureFixture[str], stranger: None
) -> None:
    code, out, _ = lab(capsys, "variants")
    assert code == 0
    for entry in registry.entries():
        assert entry.name in out
    assert "* cbor2" in out
    assert "needs no-such-dist: pip install no-such-dist" in " ".join(out.split())
    assert "broken entry point stranger:VARIANTS: RuntimeError: boom" in out
    assert "\x1b" not in out, "no colours when nobody sees them"


def test_variants_for_machines(capsys: pytest.CaptureFixture[str], stranger: None) -> None:
    code, out, _ = lab(capsys, "variants", "--json", "--family", "ring")
    found = json.loads(out)
    assert code == 0
    by_name = {item["name"]: item for item in found["variants"]}
    assert {item["family"] for item in found["variants"]} == {"ring"}
    assert by_name["deque"]["reference"]
    assert not by_name["far"]["available"]
    assert found["broken"] == [{"entry_point": "stranger:VARIANTS", "reason": "RuntimeError: boom"}]


def test_conform_says_each_sentence_and_its_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lab(capsys, "conform", "pool/none")
    assert code == 0
    assert out.count("✓") >= 3
    assert "pool/none conforms" in out


def test_conform_fails_a_broken_variant(capsys: pytest.CaptureFixture[str], stranger: None) -> None:
    code, out, _ = lab(capsys, "conform", "eager")
    assert code == 1
    assert "✗" in out
    assert "ring/eager does not conform" in out
    code, out, _ = lab(capsys, "conform", "--json", "ring/eager")
    assert code == 1
    found = json.loads(out)
    assert not found["conforms"]
    assert all(item["detail"] for item in found["checks"] if item["status"] == "failed")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slab", ("ambiguous", "pool/slab", "workers/slab")),
        ("dequ", ("did you mean deque",)),
        ("ring/nope", ("there are: deque",)),
        ("rings/deque", ("families are codec",)),
        ("far", ("pip install no-such-dist",)),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], stranger: None, name: str, words: tuple[str, ...]
) -> None:
    code, out, err = lab(capsys, "conform", name)
    assert code == 1
    assert not out
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_bare_name_is_enough_where_it_is_unique() -> None:
    assert common.find_variant("cbor2").label == common.find_variant("codec/cbor2").label == "codec/cbor2"
    with pytest.raises(UnknownVariant):
        common.find_variant("")


def test_report_writes_again_and_prints_the_verdicts(
    capsys: pytest.CaptureFixture[str], reports: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")
    code, out, _ = lab(capsys, "report", "latest", "--reports", str(reports))
    assert code == 0
    assert "✗ fail" in out
    assert "– not measured" in out
    assert "1 measuring job failed (1 gave wrong results): ring/broken." in out
    assert "1 measurement is void" in out
    assert out.rstrip().endswith(f"report: {reports / 'latest' / 'index.html'}")
    assert (reports / "latest" / "report.md").exists()


def test_runs_are_found_by_id_path_and_file(reports: Path) -> None:
    name = full_run().id
    for given in (name, "latest", str(reports / name), str(reports / name / "results.json")):
        assert common.run_directory(given, reports).resolve() == (reports / name).resolve()
    with pytest.raises(PortaskError, match=rf"there are: {name}$"):
        common.run_directory("20000101", reports)
    with pytest.raises(PortaskError, match="portask lab run"):
        common.run_directory("latest", reports / "elsewhere")


@pytest.mark.parametrize("content", ["", "{", '{"schema": 99}'])
def test_damaged_results_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    code, _, err = lab(capsys, "report", str(tmp_path))
    assert code == 1
    assert err.count("\n") == 1


def test_a_missing_library_says_the_pip_line() -> None:
    with pytest.raises(PortaskError, match=r"pip install 'portask\[lab\]'"):
        common.needs("json", "no_such_module")
    common.needs("json")


# ── run, select, check, selftest ──


def test_a_run_ends_with_verdicts_and_feeds_select_and_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="a run ends with a report")
    reports = tmp_path / "reports"
    arguments = ("--suite", "pools", "--variant", "freelist", "--seed", "3", "--reports", str(reports))
    code, out, err = lab(capsys, "run", *arguments)
    assert code == 0, err
    assert "Serialize and deserialize" in out
    assert "– not measured" in out
    page = Path(out.rstrip().rpartition("report: ")[2])
    assert page.exists()
    assert "0:00 conformance" in err
    run = results.load(page.parent)
    assert run.seed == 3
    assert {summary.variant for summary in run.summaries} >= {"pool/none", "pool/freelist"}

    chosen = tmp_path / "portask.toml"
    where = ("--reports", str(reports))
    code, out, _ = lab(capsys, "select", "latest", "--no-confirm", "-o", str(chosen), *where)
    assert code == 0
    assert "pool/" in out
    assert "skipped: It was not asked for" in out
    receipt = tomllib.loads(chosen.read_text("utf-8"))["receipt"]
    assert receipt["run"] == run.id
    assert receipt["confirmation"]["outcome"] == "skipped"
    code, out, err = lab(capsys, "select", "-o", str(chosen), *where)
    assert code == 2
    assert "--force" in err
    code, out, _ = lab(capsys, "select", "--no-confirm", "--json", *where)
    assert json.loads(out)["winners"][0]["family"] == "pool"

    assert lab(capsys, "check", str(chosen))[0] == 0
    elsewhere = chosen.read_text("utf-8").replace(f"cores = {run.machine.cores}", "cores = 4096")
    chosen.write_text(elsewhere, "utf-8")
    code, out, _ = lab(capsys, "check", str(chosen))
    assert code == 1
    assert "4096" in out
    code, out, _ = lab(capsys, "check", "--json", str(chosen))
    assert json.loads(out)["matches"] is False


@pytest.fixture
def measured(reports: Path) -> Path:
    """Reports whose run has winners."""
    run = results.load(reports / "latest")
    add(run, "codec.roundtrip", "rate", {"codec/cbor2": 1e6, "codec/struct": 2e6}, params={"batch": 100})
    results.save(run, reports / run.id)
    return reports


def _outcome(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    """Confirming has tests of its own; here is what is made of its outcome."""
    figure = ConfirmedFigure(
        name="cpu", words="CPU at 50,000 msg/s", unit="%", better="lower", winners=5.0, reference=10.0, ratio=0.5,
        low=0.4, high=0.6, floor=0.02, verdict="better",
    )  # fmt: skip
    found = Confirmation(
        outcome=outcome, reason="So it is.", rounds=4, figures=[figure], notes=["Mind this."]
    )
    monkeypatch.setattr(confirm, "confirm", lambda *_, **__: found)


@pytest.mark.parametrize("outcome", ["confirmed", "not confirmed"])
def test_select_says_what_was_confirmed_and_writes_it_down(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, measured: Path, outcome: str
) -> None:
    _outcome(monkeypatch, outcome)
    chosen = measured / "portask.toml"
    code, out, _ = lab(capsys, "select", "-o", str(chosen), "--reports", str(measured))
    assert code == 0, "what is not confirmed is written all the same, with that in its receipt"
    assert f"\n{outcome} (4 fresh rounds, 0 of them voided): So it is." in out
    assert "Mind this." in out
    assert "0.50× [0.40, 0.60]" in out
    said = tomllib.loads(chosen.read_text("utf-8"))["receipt"]["confirmation"]
    assert said["outcome"] == outcome
    assert said["cpu"]["ratio"] == 0.5
    code, out, _ = lab(capsys, "select", "--json", "--reports", str(measured))
    assert json.loads(out)["confirmation"]["figures"][0]["verdict"] == "better"


def test_select_can_refuse_what_is_not_confirmed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, measured: Path
) -> None:
    _outcome(monkeypatch, "not confirmed")
    chosen = measured / "portask.toml"
    arguments = ("select", "--require-confirmed", "-o", str(chosen), "--reports", str(measured))
    code, _, err = lab(capsys, *arguments)
    assert code == 1
    assert "nothing was written: not confirmed. So it is." in err
    assert not chosen.exists()
    _outcome(monkeypatch, "confirmed")
    assert lab(capsys, *arguments)[0] == 0
    assert chosen.exists()
    code, _, err = lab(capsys, *arguments, "--no-confirm", "--force")
    assert code == 2
    assert "exclude each other" in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--suite", "nope"), "the suites are"),
        (("--variant", "nope"), "there is no variant"),
        (("--corpus", "nowhere.ndjson"), "nowhere.ndjson"),
        (("--criteria", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    code, out, err = lab(capsys, "run", *arguments, "--reports", str(tmp_path / "reports"))
    assert code == 1
    assert not out
    assert word in err
    assert err.count("\n") == 1
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("content", ["", "x = [", "[codec]\nvariant = 'struct'\n"])
def test_a_config_without_a_receipt_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "portask.toml"
    path.write_text(content)
    code, _, err = lab(capsys, "check", str(path))
    assert code == 1
    assert str(path) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("groups", [3, 0])
def test_selftest_tells_what_it_planted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    """The self-test has tests of its own; here is what is said of its outcome."""
    nothing = math.nan
    power = selftest.Power(
        blocks=5, groups=groups, voided=2, quiet=bool(groups), floor=0.031 if groups else nothing,
        detected={"2% slower": 1 / 3 if groups else nothing, "10% slower": 1.0 if groups else nothing},
        false_alarms=0.0 if groups else nothing, effects={"2% slower": 1.02, "10% slower": 1.1}, seconds=61.2,
    )  # fmt: skip
    monkeypatch.setattr(selftest, "selftest", lambda **_: power)
    code, out, _ = lab(capsys, "selftest")
    assert code == (0 if groups else 1)
    for words in ("2% slower     33%", "1.020", "false alarms: 0%", "±3.1%") if groups else ("--seconds",):
        assert words in out
    code, out, _ = lab(capsys, "selftest", "--json")
    assert code == 0
    assert json.loads(out)["floor"] == (0.031 if groups else None)


def test_progress_is_a_line_a_stage_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(quiet=False) as show:
        show("rings: block 1, ring/deque", 0.1, 61.0)
        show("rings: block 2, ring/deque", 0.2, 50.0)
        show("done", 1.0, 0.0)
    assert capsys.readouterr().err == "0:00 rings, about 1:01 left\n"
    with watching(quiet=True) as show:
        show("rings", 0.1, 61.0)
    assert capsys.readouterr().err == ""


# ── profile ──


def test_the_work_to_profile_is_the_familys(capsys: pytest.CaptureFixture[str]) -> None:
    work = profiler.choose(registry.get("codec", "struct"), "codec.decode", "weather")
    assert work.workload == "codec.decode"
    assert work.params["corpus"] == "weather"
    code, _, err = lab(capsys, "profile", "struct", "--workload", "ring.put")
    assert code == 1
    assert "its workloads are: " in err
    assert "codec.encode" in err


def _spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    fake = tmp_path / "py-spy"
    fake.write_text(f"#!{sys.executable}\nimport subprocess, sys\n{script}")
    fake.chmod(0o755)
    monkeypatch.setattr(profiler, "_find", lambda: str(fake))
    return tmp_path / "out.svg"


_CHILD = "subprocess.run(sys.argv[sys.argv.index('--') + 1:], check=True)\n"


def test_a_refused_trace_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "sys.exit('Error: Permission Denied: Try running again with elevated permissions')"
    output = _spy(tmp_path, monkeypatch, refusal)
    entry = registry.get("codec", "struct")
    with pytest.raises(profiler.ProfileError, match="SYS_PTRACE"):
        profiler.record(entry, profiler.choose(entry), output, seconds=0.1)


def test_a_failing_workload_is_not_a_flame_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: None
) -> None:
    output = _spy(tmp_path, monkeypatch, _CHILD + "print('Samples: 12 Errors: 0', file=sys.stderr)")
    entry = registry.get("ring", "eager")
    with pytest.raises(profiler.ProfileError, match="ring/eager could not do"):
        profiler.record(entry, profiler.choose(entry), output, seconds=0.1)


def test_no_samples_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = _spy(tmp_path, monkeypatch, _CHILD + "print('Samples: 0 Errors: 3', file=sys.stderr)")
    entry = registry.get("codec", "struct")
    with pytest.raises(profiler.ProfileError, match="took no samples"):
        profiler.record(entry, profiler.choose(entry), output, seconds=0.1)


def test_missing_py_spy_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    entry = registry.get("codec", "struct")
    with pytest.raises(profiler.ProfileError, match=r"pip install 'portask\[lab\]'"):
        profiler.record(entry, profiler.choose(entry), Path(os.devnull))


def test_a_flame_graph_of_a_real_variant(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "flame.svg"
    code, out, err = lab(capsys, "profile", "codec/struct", "--seconds", "0.5", "-o", str(output), "--json")
    if code and ("SYS_PTRACE" in err or "py-spy" in err):
        pytest.skip(err.strip())
    assert code == 0, err
    found = json.loads(out)
    assert found["samples"] > 0
    text = output.read_text("utf-8")
    assert "<svg" in text
    assert "struct_cbor" in text


@pytest.mark.parametrize("drill", ["stall", "siege"])
def test_a_server_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str], drill: str) -> None:
    code, _, err = lab(capsys, drill, "--server", "nope")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("portask: there is no server named 'nope'; there are: ")
