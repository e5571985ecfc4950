"""Runs a fuzz target in a process of its own: it ends the process it runs in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def finds_nothing(module: str, seeds: Iterable[bytes], folder: Path, seconds: int = 4) -> None:
    """Fails with the fuzzer's last words if it finds something."""
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed here: pip install atheris")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    # A program starts with the peak of memory of the process that it replaces (Linux, getrusage), and that would be
    # pytest's, which says nothing of the target. A shell that waits for it is small.
    child = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", module, "-runs=20000", "-seed=1",
         f"-max_total_time={seconds}", "-rss_limit_mb=512", f"-artifact_prefix={folder}/", str(corpus)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert "Done " in child.stderr, child.stderr[-3000:]
