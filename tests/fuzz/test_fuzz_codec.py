"""A short run of the fuzz target, in a process of its own: it ends the process it runs in."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.fuzz_codec import MESSAGES, MSGPACK, STRUCT, one_input, outcome, seeds
from tests.fuzz.running import finds_nothing


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
    finds_nothing("tests.fuzz.fuzz_codec", seeds(), tmp_path)
