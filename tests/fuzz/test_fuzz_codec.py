"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.fuzz_codec import MESSAGES, MSGPACK, STRUCT, one_input, outcome, seeds

HERE = Path(__file__).parent


def test_the_seeds_are_batches() -> None:
    assert outcome(STRUCT, seeds()[0][2:], len(MESSAGES)) == MESSAGES
    assert outcome(MSGPACK, seeds()[1][2:], len(MESSAGES)) == MESSAGES


def test_random_damage_finds_nothing() -> None:
    chance = random.Random(8742)
    for seed in seeds() * 60:
        damaged = bytearray(seed)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        one_input(bytes(damaged))


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed here: pip install atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    child = subprocess.run(
        [sys.executable, str(HERE / "fuzz_codec.py"), "-runs=20000", "-max_total_time=4", "-rss_limit_mb=2048",
         "-seed=1", f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert "Done " in child.stderr, child.stderr[-3000:]
