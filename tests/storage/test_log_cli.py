"""``portask log``: what an operator sees, and what a repair does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portask.cli.app import run
from portask.storage import groups
from portask.storage.segments import HEADER_SIZE
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

from .shims import copy_log, fill, payloads, small

FOLDER = f"topics/{KEY.topic}/{KEY.partition}"
Portask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def portask(capsys: pytest.CaptureFixture[str]) -> Portask:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run(["log", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, dict[int, bytes]]:
    """A log of several segments as a kill -9 leaves it, and what is in it."""
    storage = small(tmp_path / "live")
    acked = fill(storage, range(60))
    storage.save_group("billing", KEY, b"state", lambda error: None)
    storage.commit()
    copy_log(tmp_path / "live", tmp_path / "log", storage)
    storage.close()
    return tmp_path / "log", acked


def logs(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("*.log"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_inspect_shows_what_is_there(portask: Portask, killed: tuple[Path, dict[int, bytes]]) -> None:
    folder, acked = killed
    before = content(folder)
    code, out, err = portask("inspect", folder, "--segments")
    assert (code, err) == (0, "")
    row = out.splitlines()[1].split()
    assert row[:2] == [KEY.topic, str(KEY.partition)]
    assert row[2:5] == [str(len(logs(folder))), "0", str(len(acked))]
    assert "2023-11-14" in out
    assert "consumer groups: billing" in out
    assert all(str(path) in out for path in logs(folder))
    code, out, _ = portask("inspect", folder, "--json")
    shown = json.loads(out)
    (part,) = shown["partitions"]
    assert (part["first"], part["next"], part["quarantined"]) == (0, len(acked), [])
    assert part["bytes"] == sum(path.stat().st_size - HEADER_SIZE for path in logs(folder))
    assert (part["oldest_time"], part["newest_time"]) == (BASE, BASE + 59_000)
    assert shown["findings"] == []
    assert content(folder) == before


def test_a_whole_log_is_verified(portask: Portask, killed: tuple[Path, dict[int, bytes]]) -> None:
    folder, _ = killed
    size = sum(path.stat().st_size - HEADER_SIZE for path in logs(folder))
    code, out, _ = portask("verify", folder)
    assert (code, out) == (0, f"{size:,} bytes in 1 partitions: whole\n")
    code, out, _ = portask("repair", folder)
    assert (code, out) == (0, "nothing to repair\n")


def spoil_body(folder: Path) -> str:
    flip(logs(folder)[0], 1000)
    return "quarantined"


def spoil_tail(folder: Path) -> str:
    with logs(folder)[-1].open("ab") as file:
        file.write(b"half a batch")
    return "torn tail"


def spoil_header(folder: Path) -> str:
    flip(logs(folder)[1], 3)
    return "header"


def spoil_index(folder: Path) -> str:
    flip(next(iter(sorted((folder / FOLDER).glob("*.index")))), 30)
    return "index"


def spoil_entries(folder: Path) -> str:
    path = next(iter(sorted((folder / FOLDER).glob("*.index"))))
    flip(path, path.stat().st_size - 3)
    return "index"


def lose_segment(folder: Path) -> str:
    logs(folder)[1].unlink()
    return "quarantined"


def lose_end(folder: Path) -> str:
    storage = small(folder)
    storage.close()
    path = logs(folder)[-1]
    path.write_bytes(path.read_bytes()[:-1])
    return "index"


def spoil_groups(folder: Path) -> str:
    flip(folder / groups.NAME, 20)
    return "groups"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_body,
        spoil_tail,
        spoil_header,
        spoil_index,
        spoil_entries,
        lose_segment,
        lose_end,
        spoil_groups,
    ],
)
def test_damage_is_found_and_repaired(
    portask: Portask, killed: tuple[Path, dict[int, bytes]], spoil: Callable[[Path], str]
) -> None:
    folder, acked = killed
    kind = spoil(folder)
    before = content(folder)
    code, out, _ = portask("verify", folder)
    assert code == 1
    assert f"{kind}: " in out
    code, out, _ = portask("repair", folder, "--dry-run")
    assert code == 0
    assert out.endswith("would be repaired\n")
    assert content(folder) == before, "a dry run, or a verification, changed something"
    code, out, _ = portask("repair", folder)
    assert code == 0
    assert out.endswith("repaired\n")
    code, out, _ = portask("verify", folder, "--json")
    report = json.loads(out)
    assert code == 0, report["findings"]
    assert {finding["kind"] for finding in report["findings"]} <= {"known hole"}
    lost = {
        offset
        for hole in report["partitions"][0]["quarantined"]
        for offset in range(hole["first"], hole["next"])
    }
    assert bool(lost) == (spoil in {spoil_body, lose_segment, lose_end})
    storage = small(folder)
    assert payloads(storage) == {offset: payload for offset, payload in acked.items() if offset not in lost}
    assert Driver(storage).append(batch_of(b"next")) == len(acked)
    assert bool(list(storage.load_groups())) == (spoil is not spoil_groups)
    storage.close()


def test_a_folder_in_use_is_refused(portask: Portask, tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    for command in ("inspect", "verify", "repair"):
        code, out, err = portask(command, tmp_path / "log")
        assert (code, out) == (1, "")
        assert "is in use by the process" in err
    storage.close()


def test_a_folder_without_a_log_is_refused_and_left_alone(portask: Portask, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, _, err = portask("repair", folder)
        assert code == 1
        assert "holds no log of portask" in err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_log(portask: Portask, tmp_path: Path) -> None:
    small(tmp_path / "log").close()
    assert portask("inspect", tmp_path / "log") == (0, "", f"portask: {tmp_path}/log holds no records\n"[9:])
    assert portask("verify", tmp_path / "log")[0] == 0


def test_trimmed_records_do_not_count_as_lost(portask: Portask, tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    acked = fill(storage, range(60))
    storage.trim(KEY, before=70)
    first = Driver(storage).lookup(-2)
    storage.close()
    _, out, _ = portask("inspect", tmp_path / "log", "--json")
    part: Any = json.loads(out)["partitions"][0]
    assert (part["first"], part["next"]) == (first, len(acked))
    assert part["quarantined"] == []
