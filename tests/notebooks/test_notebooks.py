"""The notebooks run from top to bottom, say what the results say, and are committed without outputs.

``tests/data/codec-run`` is a real run, as `portask lab run --suite serialization --corpus weather --seed 7` left it
(its ``results.json``, nothing else). To make a new one, run that on a quiet machine and copy the file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from portask_lab.results import Run, load, save

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install ipykernel")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODEC = ROOT / "notebooks" / "choosing_a_codec.ipynb"
SAMPLE = ROOT / "tests" / "data" / "codec-run"


def execute(path: Path) -> tuple[str, int]:
    """What the notebook prints, and how many pictures it draws."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(
        output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"
    )
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs"), "strip the outputs: jupyter nbconvert --clear-output --inplace"
        assert not cell.get("execution_count")


def test_the_sample_is_a_run_of_the_lab() -> None:
    run = load(SAMPLE)
    assert "lab run --suite serialization" in run.command
    assert {block.suite for block in run.blocks} == {"serialization"}
    assert {"reference", "control", "variant", "floor"} <= {summary.role for summary in run.summaries}


def test_it_says_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTASK_RUN", str(SAMPLE))
    run = load(SAMPLE)
    text, pictures = execute(CODEC)
    assert pictures == 3
    assert run.id in text
    for ticket in run.conformance:
        assert ticket.variant in text
    assert text.count("DECISION: ") == 1


# ── the decision, on the same run with one thing changed; as a plain script, because a kernel takes seconds ──────


@pytest.fixture
def decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[Run], None]], str]:
    monkeypatch.setenv("PORTASK_RUN", str(tmp_path))
    monkeypatch.chdir(CODEC.parent)
    cells = nbformat.read(CODEC, as_version=4).cells
    script = "\n".join(cell.source for cell in cells if cell.cell_type == "code")

    def run_changed(change: Callable[[Run], None]) -> str:
        from matplotlib import pyplot as plt

        run = load(SAMPLE)
        run.complete = True
        change(run)
        save(run, tmp_path)
        plt.switch_backend("agg")
        monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
        exec(compile(script, str(CODEC), "exec"), {})  # noqa: S102 - our own notebook
        return capsys.readouterr().out

    return run_changed


Decide = Callable[[Callable[[Run], None]], str]


def judge(run: Run, variant: str, verdict: Any, low: float) -> None:
    for summary in run.summaries:
        if summary.variant == variant and summary.case.endswith("/rate"):
            summary.verdict, summary.ratio_low, summary.ratio, summary.ratio_high = (
                verdict,
                low,
                low * 1.1,
                low * 1.2,
            )


def test_beyond_doubt_faster_is_chosen(decide: Decide) -> None:
    def change(run: Run) -> None:
        judge(run, "codec/struct", "faster", 1.5)

    text = decide(change)
    assert "DECISION: codec/struct. Its guaranteed gain is the largest." in text
    assert "codec/msgspec-msgpack: it writes a wire format of its own" in text


def test_indistinguishable_keeps_the_reference(decide: Decide) -> None:
    def change(run: Run) -> None:
        judge(run, "codec/struct", "indistinguishable", 0.98)

    assert "DECISION: codec/cbor2. No other codec is better beyond doubt." in decide(change)


def test_wrong_work_is_out_however_fast(decide: Decide) -> None:
    def change(run: Run) -> None:
        judge(run, "codec/struct", "faster", 9.0)
        (ticket,) = (ticket for ticket in run.conformance if ticket.variant == "codec/struct")
        ticket.failed = 1

    text = decide(change)
    assert "codec/struct: it did not do right work" in text
    assert "DECISION: codec/cbor2." in text


def test_an_incomplete_run_decides_nothing(decide: Decide) -> None:
    def change(run: Run) -> None:
        run.complete = False
        judge(run, "codec/struct", "faster", 9.0)

    assert "DECISION: none." in decide(change)


def test_a_run_without_codecs_says_what_to_run(decide: Decide) -> None:
    def change(run: Run) -> None:
        run.cases = [msgspec.structs.replace(case, workload="ring.single") for case in run.cases]

    with pytest.raises(SystemExit, match="measured no codec; make such a run: portask lab run --suite"):
        decide(change)
