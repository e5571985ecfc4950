"""`portask lab crash`: a broker that is killed loses nothing, and one that does lose something is caught."""

from __future__ import annotations

import json
import os
import random
from array import array
from pathlib import Path
from typing import Any

import pytest

from portask.cli.app import run as portask
from portask.errors import ConfigError
from portask_lab.crash import broker, course, drill, payloads
from portask_lab.crash.judge import Log, judge


@pytest.mark.parametrize("mode", ["os", "synced"])
def test_a_killed_broker_loses_nothing(mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    code = portask(
        ["lab", "crash", "--rounds", "3", "--mode", mode, "--seed", "5", "--json", "--keep", str(kept)]
    )
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["passed"]
    assert found["mode"] == mode
    assert found["restarts"] == 3
    assert found["acked"] > 500
    assert found["delivered"] == found["stored"] >= found["acked"]
    assert found["verdict"]["lost"] == found["verdict"]["disordered"] == 0
    assert len((kept / "acked.csv").read_text().splitlines()) == found["acked"]
    assert (kept / "broker.log").stat().st_size > 0


@pytest.mark.parametrize("mode", ["os", "synced"])
def test_nor_does_one_of_several_workers(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = str(tmp_path / "kept")
    code = portask(
        ["lab", "crash", "--rounds", "4", "--workers", "3", "--mode", mode, "--seed", "7", "--json", "--keep", kept]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["passed"]
    assert (found["workers"], found["rounds"]) == (3, 4)
    assert found["workers_killed"] >= len(found["successions"]) > 0
    assert found["restarts"] >= len(found["recoveries"]) > 0
    assert found["acked"] > 500
    assert found["delivered"] == found["stored"] >= found["acked"]


def test_a_worker_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What one of them wrote last is taken away once it was killed."""
    kill = broker.Victim.kill_worker

    def forgetful(self: broker.Victim, chance: random.Random) -> bool:
        killed = kill(self, chance)
        for segment in tmp_path.glob("kept/log/worker-*/topics/*/*/*.log"):
            os.truncate(segment, max(64, segment.stat().st_size // 2))
        return killed

    monkeypatch.setattr(broker.Victim, "kill_worker", forgetful)
    monkeypatch.setattr(course, "CATCH_UP_SECONDS", 0.5)
    found = drill(rounds=2, workers=2, seed=3, keep=tmp_path / "kept")
    assert not found.passed
    assert found.verdict.lost + found.verdict.missing > 0


def test_a_log_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was written last is taken away while the broker is down, as by a disk that lied."""
    spawn = broker.Victim.spawn

    def forget() -> None:
        for segment in tmp_path.glob("kept/log/topics/*/*/*.log"):
            with segment.open("r+b") as file:
                file.truncate(max(64, segment.stat().st_size // 2))

    async def forgetful(self: broker.Victim) -> None:
        forget()
        await spawn(self)

    monkeypatch.setattr(broker.Victim, "spawn", forgetful)
    monkeypatch.setattr(course, "CATCH_UP_SECONDS", 0.5)
    found = drill(rounds=2, seed=3, keep=tmp_path / "kept")
    assert not found.passed
    assert found.verdict.lost > 0
    assert found.verdict.taken_back > 0
    assert found.verdict.examples


def test_what_cannot_be_drilled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="forgets when its process ends"):
        drill(rounds=1, storage="memory")
    with pytest.raises(ConfigError, match="sqlite cannot be shared by 2 workers"):
        drill(rounds=1, storage="sqlite", workers=2)
    (tmp_path / "something").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        drill(rounds=1, keep=tmp_path)


# ── the judge, on logs made by hand ───────────────────────────────────────────────────────────────────────────────────

PLAIN, NUMBERED = 0, 1


def ident(number: int, writer: int = PLAIN) -> int:
    return payloads.ident(writer, number)


def judged(
    tmp_path: Path,
    ids: list[int],
    acked: list[tuple[int, int]],
    seen: list[int] | None = None,
    group: bytes | None = None,
) -> dict[str, Any]:
    """The counts that are not 0, for one partition; ``acked`` are (id, offset)."""
    path = tmp_path / "acked.csv"
    lines = [
        f"{payloads.writer_of(identity)},{identity - payloads.ident(payloads.writer_of(identity), 0)},0,{offset}\n"
        for identity, offset in acked
    ]
    path.write_text("".join(lines))
    verdict = judge(
        Log({0: array("q", ids)}),
        path,
        {NUMBERED},
        {0: array("q", ids if seen is None else seen)},
        {0: bytearray(b"\1" * len(ids) if group is None else group)},
    )
    counts = {name: getattr(verdict, name) for name in verdict.__struct_fields__ if name != "examples"}
    assert bool(verdict.examples) == any(
        count for name, count in counts.items() if name not in {"duplicated", "redelivered_group"} and count
    )
    return {name: count for name, count in counts.items() if count}


THREE = [ident(0), ident(1), ident(2)]
ACKED = [(ident(0), 0), (ident(1), 1), (ident(2), 2)]


def test_a_log_that_holds_everything_passes(tmp_path: Path) -> None:
    assert judged(tmp_path, THREE, ACKED) == {}
    assert judged(tmp_path, [*THREE, ident(3)], ACKED) == {}, "stored without an ack is no fault"
    assert judged(tmp_path, THREE, [*ACKED[:2], (ident(2), -1)]) == {}, "an ack may not know the offset"


def test_what_is_lost_or_elsewhere_is_counted(tmp_path: Path) -> None:
    assert judged(tmp_path, THREE[:2], ACKED) == {"lost": 1}
    assert judged(tmp_path, THREE, [(ident(0), 1), *ACKED[1:]]) == {"misplaced": 1}


def test_order_and_duplicates(tmp_path: Path) -> None:
    swapped = [ident(1), ident(0), ident(2)]
    assert judged(tmp_path, swapped, [(ident(0), 1), (ident(1), 0), (ident(2), 2)]) == {"disordered": 1}
    again = [*THREE, ident(1), ident(2), ident(3)]
    assert judged(tmp_path, again, ACKED) == {"duplicated": 2}, "sent again, in order: no disorder"
    twice = [ident(0, NUMBERED), ident(1, NUMBERED), ident(0, NUMBERED)]
    assert judged(tmp_path, twice, []) == {"duplicated_numbered": 1}
    other = [ident(5), ident(0, NUMBERED), ident(6)]
    assert judged(tmp_path, other, []) == {}, "producers are not ordered among each other"


def test_what_consumers_were_given(tmp_path: Path) -> None:
    assert judged(tmp_path, THREE, ACKED, seen=THREE[:2]) == {"undelivered": 1}
    assert judged(tmp_path, THREE, ACKED, group=b"\1\0\1") == {"undelivered_group": 1}
    assert judged(tmp_path, THREE, ACKED, group=b"\1\3\1") == {"redelivered_group": 2}
    assert judged(tmp_path, THREE, [], seen=[ident(0), ident(9), ident(2)]) == {"taken_back": 1}
    assert judged(tmp_path, THREE, [], seen=[*THREE, ident(3)]) == {"taken_back": 1}


def test_payloads_say_who_they_are() -> None:
    for number in range(600):
        payload = payloads.make(2, 1, number)
        assert payloads.identity(payload, 1) == payloads.ident(2, number)
        assert payloads.identity(payload, 0) is None
        for at in {0, len(payload) // 2, len(payload) - 1}:
            altered = bytearray(payload)
            altered[at] ^= 1
            assert payloads.identity(bytes(altered), 1) is None
    assert payloads.identity(b"", 0) is None
    assert payloads.identity(b"not one of ours at all", 0) is None
