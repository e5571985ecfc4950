"""Lost power: what a database acknowledged as synced is there, whatever the device kept of the rest."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from portask.messages import TopicPartition
from portask_lab.conformance.storage_support import BASE, Driver, batch_of

from .databases import DATABASES, database
from .power import Trace
from .shims import payloads

KEYS = (TopicPartition("a", 0), TopicPartition("b", 7))
CUTS = 120


def write_and_tell(folder: str, variant: str, turns: int, mode: str = "synced") -> None:
    """Appends numbered records, and writes to the file ``said`` what is acknowledged."""
    storage = database(variant, Path(folder), mode)
    if variant == "sqlite":  # so that there are checkpoints in a short run
        storage._database._writing.execute("PRAGMA wal_autocheckpoint = 15").fetchall()
    said = os.open(f"{folder}/said", os.O_WRONLY | os.O_CREAT)
    chance = random.Random(3)
    number = dict.fromkeys(KEYS, 0)
    waiting = [0]

    def told(what: str) -> Any:
        def done(*result: Any) -> None:
            assert result[-1] is None
            waiting[0] -= 1
            os.write(said, f"{what}\n".encode())

        return done

    for turn in range(turns):
        for _ in range(chance.choice((1, 2, 6))):
            key = chance.choice(KEYS)
            start, count = number[key], chance.choice((1, 1, 4))
            number[key] += count
            records = [b"%d" % at + bytes(chance.choice((0, 90, 3000))) for at in range(start, start + count)]
            waiting[0] += 1
            storage.append(key, batch_of(*records), BASE + turn, told(f"{key.partition} {start + count}"))
        waiting[0] += 1
        storage.save_group("g", KEYS[0], b"%d" % turn, told(f"g {turn}"))
        if turn == turns // 2:
            storage.trim(KEYS[0], before=number[KEYS[0]] // 2)
        storage.commit()
        Driver(storage)._pump(lambda: waiting[0] <= chance.choice((0, 5)))
    Driver(storage).flush()
    storage.close()


def traced(folder: Path, variant: str, mode: str) -> Trace:
    database(variant, folder.parent / "other", mode).close()  # skips where it cannot run
    return Trace(
        folder, f"from {__name__} import *; write_and_tell({str(folder)!r}, {variant!r}, 30, {mode!r})"
    )


def acknowledged(trace: Trace, moment: int) -> dict[str, int]:
    """What was told before a moment: by partition the next offset, and the newest state of the group."""
    return {what: int(value) for when, text in trace.said if when <= moment for what, value in [text.split()]}


def found_in(folder: Path, variant: str) -> dict[str, int]:
    """What is in the folder, likewise; it must be whole and go on."""
    storage = database(variant, folder, "synced")
    found = {}
    for key in KEYS:
        records = payloads(storage, key) if key in storage.partitions() else {}
        numbers = [int(payload.rstrip(b"\0")) for payload in records.values()]
        assert list(records) == numbers
        assert numbers == list(range(numbers[0], numbers[-1] + 1) if numbers else ())
        end = found[str(key.partition)] = numbers[-1] + 1 if numbers else 0
        assert Driver(storage).append(batch_of(b"again"), BASE + 100, key) == end
    for *_, state in storage.load_groups():
        found["g"] = int(state)
    storage.close()
    return found


@pytest.mark.parametrize("variant", DATABASES)
def test_what_was_synced_survives_the_power(tmp_path: Path, variant: str) -> None:
    trace = traced(tmp_path / "log", variant, "synced")
    assert len(trace.said) > 80
    chance = random.Random(11)
    for cut in range(CUTS):
        moment = chance.randrange(trace.moments) if cut % 4 == 0 else chance.choice(trace.said)[0]
        left = tmp_path / f"cut-{cut}"
        trace.lose_power(moment, chance, left)
        found = found_in(left, variant)
        lost = {
            what: value for what, value in acknowledged(trace, moment).items() if value > found.get(what, -1)
        }
        assert not lost
        shutil.rmtree(left)


@pytest.mark.parametrize("variant", DATABASES)
def test_this_would_be_seen_if_it_were_not_synced(tmp_path: Path, variant: str) -> None:
    trace = traced(tmp_path / "log", variant, "os")
    moment = trace.said[-1][0]
    trace.lose_power(moment, random.Random(1), tmp_path / "left", share=0.0)
    found = found_in(tmp_path / "left", variant)
    assert found["7"] < acknowledged(trace, moment)["7"]


def test_sqlite_is_whole_after_a_power_loss_also_where_commits_are_not_synced(tmp_path: Path) -> None:
    trace = traced(tmp_path / "log", "sqlite", "os")
    chance = random.Random(12)
    for cut in range(CUTS):
        left = tmp_path / f"cut-{cut}"
        trace.lose_power(chance.randrange(trace.moments), chance, left)
        found_in(left, "sqlite")
        shutil.rmtree(left)
