"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from portask.errors import BatchError
from portask.wire.compression import decompress
from tests.fuzz.fuzz_decompress import DICTIONARIES, one_input, seeds
from tests.fuzz.running import finds_nothing


def test_the_seeds_are_valid_batches() -> None:
    for seed in seeds():
        attributes, length = int.from_bytes(seed[:2], "little"), int.from_bytes(seed[2:6], "little")
        assert len(decompress(attributes, seed[6:], length, DICTIONARIES)) == length
        one_input(seed)
        with pytest.raises(BatchError):
            decompress(attributes, seed[6:-1], length, DICTIONARIES)


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    finds_nothing("tests.fuzz.fuzz_decompress", seeds(), tmp_path, seconds=5)
