"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portask.errors import BatchError
from portask.wire.compression import decompress
from tests.fuzz.fuzz_decompress import DICTIONARIES, one_input, seeds

ROOT = Path(__file__).parents[2]


def test_the_seeds_are_valid_batches() -> None:
    for seed in seeds():
        attributes, length = int.from_bytes(seed[:2], "little"), int.from_bytes(seed[2:6], "little")
        assert len(decompress(attributes, seed[6:], length, DICTIONARIES)) == length
        one_input(seed)
        with pytest.raises(BatchError):
            decompress(attributes, seed[6:-1], length, DICTIONARIES)


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed here: pip install atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_decompress", "-runs=20000", "-max_total_time=5",
         "-rss_limit_mb=2048", "-seed=1", f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert "Done " in child.stderr, child.stderr[-3000:]
