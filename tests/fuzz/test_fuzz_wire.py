"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

from pathlib import Path

from portask.wire.frames import FrameParser
from tests.fuzz.fuzz_wire import one_input, seeds
from tests.fuzz.running import finds_nothing


def test_the_seeds_hold() -> None:
    for seed in seeds():
        one_input(seed)
    parser = FrameParser(1 << 16)
    assert len(parser.feed(seeds()[0][1:])) == 7
    assert parser.failed is None


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    finds_nothing("tests.fuzz.fuzz_wire", seeds(), tmp_path)
