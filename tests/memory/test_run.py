"""``make memory``: a row for every variant that can be used, a reason for every other one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from portask_lab import instruments
from tests.instruments.hiding import run_without

RUN = str(Path(__file__).parents[2] / "experiments" / "memory" / "run.py")
PACK = ["--family", "compression", "--case", "compression.pack corpus=tiny,batch=10"]


def needs_memray() -> None:
    pytest.importorskip("memray", reason="needs memray (Linux, macOS): pip install memray")


def test_every_variant_has_a_row_and_the_table_is_aligned() -> None:
    needs_memray()
    done = subprocess.run(
        [sys.executable, RUN, "--family", "pool", "--case", "sizes=small"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == [f"pool/{name}" for name in instruments.variants("pool")]
    assert {row.index("take_give") for row in rows} == {head.index("workload") + len("pool.")}
    assert all(float(row.split()[4]) > 0 for row in rows)


def test_a_missing_library_is_named_and_breaks_nothing(tmp_path: Path) -> None:
    needs_memray()
    done = run_without("lz4", [sys.executable, RUN, "--json", *PACK], tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "lz4" not in {row["variant"] for row in answer["rows"]}
    assert {"never", "always", "dictionary"} <= {row["variant"] for row in answer["rows"]}
    assert answer["unavailable"] == {"compression/lz4": "needs lz4: pip install lz4"}


def test_a_flame_graph_is_drawn(tmp_path: Path) -> None:
    needs_memray()
    done = subprocess.run(
        [
            sys.executable,
            RUN,
            "--flamegraphs",
            "--out",
            str(tmp_path),
            "--variant",
            "freelist",
            "--case",
            "sizes=small",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("*.html")
    assert str(page) in done.stdout
    assert "freelist.py" in page.read_text(), "the variant's own code is not in its flame graph"


def test_the_profile_function_of_memray_is_not_counted(tmp_path: Path) -> None:
    """With it, every call makes a frame object: thousands of allocations that are the instrument's."""
    needs_memray()
    done = subprocess.run(
        [
            sys.executable,
            RUN,
            "--json",
            "--variant",
            "floor/empty-loop",
            "--case",
            "codec.encode corpus=tiny,batch=1",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["case"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["corpus=tiny,batch=1"]["allocations"] < 1.5, "the empty loop makes one integer a message"


CALLS = """
import sys
sys.path.insert(0, sys.argv[1])
from contextlib import nullcontext
from itertools import repeat
from pathlib import Path
import uvloop
from memory.recording import blindfolded, mark, read, tracker

def called():
    return None

def work():
    mark()
    for _ in repeat(None, 1000):
        called()
    mark()

async def main():
    import asyncio
    asyncio.get_running_loop().call_later(0.01, work)
    await asyncio.sleep(0.05)

capture = Path(sys.argv[2])
with blindfolded() if sys.argv[3] == "blindfolded" else nullcontext(), tracker(capture):
    uvloop.run(main())
print(read(capture)[0])
"""


@pytest.mark.parametrize(("sight", "least", "most"), [("blindfolded", 0, 50), ("seeing", 1000, 5000)])
def test_the_profile_function_stays_away_when_c_calls_python(
    sight: str, least: int, most: int, tmp_path: Path
) -> None:
    """memray sets it again for each event of uvloop; the second case shows that there is something to count."""
    needs_memray()
    pytest.importorskip("uvloop", reason="needs uvloop: pip install uvloop")
    command = [sys.executable, "-c", CALLS, str(Path(RUN).parents[1]), str(tmp_path / "capture.bin"), sight]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert least <= int(done.stdout) <= most


def test_a_broker_is_recorded_while_it_works() -> None:
    needs_memray()
    done = subprocess.run(
        [
            sys.executable,
            RUN,
            "--json",
            "--family",
            "server",
            "--variant",
            "asyncio-protocol",
            "--case",
            "batch=100,",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["units"] > 1_000
    assert 0 < row["allocations"] < 10
    assert 64 < row["peak_unit"] < 1_000, "100 bytes a message stay in the storage"


def test_without_memray_it_says_what_to_install(tmp_path: Path) -> None:
    done = run_without("memray", [sys.executable, RUN], tmp_path)
    assert done.returncode == 2
    assert "pip install memray" in done.stderr


def test_an_option_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    needs_memray()
    done = subprocess.run(
        [sys.executable, RUN, "--variant", "nonesuch"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "see --help" in done.stderr
