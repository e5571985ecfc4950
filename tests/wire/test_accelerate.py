"""Helpers are found by entry point, can be switched off, and are never missing silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portask.wire import accelerate, batches, frames
from portask.wire.frames import FrameParser, Opcode, frame_header

PROGRAM = """
from portask.wire import accelerate
print(accelerate.status())
print([name for name in accelerate.NAMES if accelerate.helper(name)])
"""


def report(folder: Path, *, switch: str = "") -> list[str]:
    """What a process says in which only the packages of ``folder`` may bring helpers."""
    hide = "import importlib.metadata as m; m.MetadataPathFinder._search_paths = "
    hide += "classmethod(lambda c, n, p, f=m.MetadataPathFinder._search_paths.__func__: "
    hide += f"f(c, n, [q for q in p if q == {str(folder)!r}]));"
    done = subprocess.run(
        [sys.executable, "-c", hide + "\n" + PROGRAM],
        env={"PYTHONPATH": str(folder), accelerate.SWITCH: switch},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def install(folder: Path, code: str, contract: str = accelerate.CONTRACT) -> None:
    (folder / "quick.py").write_text(code)
    info = folder / "quick_wire-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quick-wire\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[{accelerate.GROUP}]\n{contract} = quick:HELPERS\n")


WHOLE = f"HELPERS = dict.fromkeys({accelerate.NAMES!r}, print)"


def test_helpers_are_found_by_entry_point(tmp_path: Path) -> None:
    install(tmp_path, WHOLE)
    assert report(tmp_path) == ["quick-wire 2.5", str(list(accelerate.NAMES))]


@pytest.mark.parametrize(
    ("code", "contract", "switch", "says"),
    [
        (WHOLE, accelerate.CONTRACT, "1", "none (PORTASK_NO_NATIVE is set)"),
        (WHOLE, "wire-99", "", "none (no package brings them)"),
        (
            "HELPERS = {'scan_frames': print}",
            accelerate.CONTRACT,
            "",
            "none (quick:HELPERS lacks parse_batch, split_batches, Coalescer, gather_batches)",
        ),
        (
            "import nowhere",
            accelerate.CONTRACT,
            "",
            "none (quick:HELPERS: ModuleNotFoundError: No module named 'nowhere')",
        ),
    ],
)
def test_what_cannot_be_used_is_left_out_with_the_reason(
    tmp_path: Path, code: str, contract: str, switch: str, says: str
) -> None:
    install(tmp_path, code, contract)
    assert report(tmp_path, switch=switch) == [says, "[]"]


def test_the_compiled_helpers_are_used_where_they_are(helpers: str) -> None:
    scan = FrameParser()._scan
    assert (scan is frames.scan_frames) is (helpers == "python")
    assert (accelerate.helper("parse_batch") is None) is (helpers == "python")


def test_a_helper_brings_the_batch_of_a_publish_and_nothing_unsound(helpers: str) -> None:
    batch = batches.build(b"record", 1, codec=1, base_timestamp=5, base_offset=7)
    damaged = batch[:-1] + b"\0"
    stream = b"".join(
        frame_header(opcode, len(body), 1) + body
        for opcode, body in (
            (Opcode.PUBLISH, batch),
            (Opcode.PUBLISH, damaged),
            (Opcode.PUBLISH, b""),
            (Opcode.DELIVER, batch),
        )
    )
    found = [frame.batch for frame in FrameParser().feed(stream)]
    assert found[1:] == [None, None, None]
    assert found[0] == (batches.parse(batch) if helpers == "native" else None)
