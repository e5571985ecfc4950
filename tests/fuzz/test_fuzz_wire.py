"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portask.wire.frames import FrameParser
from tests.fuzz.fuzz_wire import one_input, seeds

ROOT = Path(__file__).parents[2]


def test_the_seeds_hold() -> None:
    for seed in seeds():
        one_input(seed)
    parser = FrameParser(1 << 16)
    assert len(parser.feed(seeds()[0][1:])) == 7
    assert parser.failed is None


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed here: pip install atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_wire", "-runs=20000", "-max_total_time=4",
         "-rss_limit_mb=2048", "-seed=1", f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert "Done " in child.stderr, child.stderr[-3000:]
