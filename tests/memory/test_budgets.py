"""What a message may allocate. Each budget is at least 1.5 and at most 2 times what was measured when it was set.

Counts do not depend on the machine's speed, so these may be tests; timings may not. The figures are those of ``make
memory``; a variant that gets better should get a smaller budget, so that the gain is kept.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portask_lab import instruments

pytest.importorskip("memray", reason="needs memray (Linux, macOS): pip install memray")
pytest.importorskip("pytest_memray", reason="needs pytest-memray: pip install pytest-memray")
RUN = Path(__file__).parents[2] / "experiments" / "memory" / "run.py"
NOT_COMPILED = "portask-native is not compiled: make native"
BATCHED = {"corpus": "tiny", "batch": 100}

# allocations, and bytes alive at the worst moment, for each 64-byte message in batches of 100
CODECS = {
    ("codec.encode", "cbor2"): (6, 480),
    ("codec.encode", "struct"): (2.1, 620),
    ("codec.encode", "msgspec-msgpack"): (2.3, 490),
    ("codec.encode", "native"): (0.02, 140),
    ("codec.decode", "cbor2"): (13, 790),
    ("codec.decode", "struct"): (16, 360),
    ("codec.decode", "msgspec-msgpack"): (6.8, 530),
    ("codec.decode", "native"): (5, 320),
    ("codec.decode", "native-lazy"): (5, 380),
}
STORAGES = {("storage.append", "memory"): (45, 170)}
"""Messages stored one at a time; the bytes are those that stay: a record, its share of a batch, and slack."""


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, str], dict[str, Any]]:
    found = {}
    for family, case in (
        ("codec", "corpus=tiny,batch=100"),
        ("storage", "storage.append corpus=tiny,batch=1,turn=1,durability=memory"),
    ):
        command = [sys.executable, str(RUN), "--json", "--family", family, "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        for row in json.loads(done.stdout)["rows"]:
            found[row["workload"], row["variant"], row["case"].partition(",turn")[0]] = row
    return found


@pytest.mark.parametrize(("workload", "variant"), [*CODECS, *STORAGES])
def test_a_message_stays_within_its_budget(
    rows: dict[tuple[str, str, str], dict[str, Any]], workload: str, variant: str
) -> None:
    case, budgets = (
        ("corpus=tiny,batch=100", CODECS)
        if workload.startswith("codec")
        else ("corpus=tiny,batch=1", STORAGES)
    )
    if variant.startswith("native") and variant not in instruments.variants(workload.partition(".")[0]):
        pytest.skip(NOT_COMPILED)
    allocations, peak = budgets[workload, variant]
    row = rows[workload, variant, case]
    assert row["allocations"] <= allocations
    assert row["peak_unit"] <= peak
    assert row["allocations"] > allocations / 4, "far below its budget: set a smaller one"
    assert row["peak_unit"] > peak / 4, "far below its budget: set a smaller one"


# ── leaks and peaks, by pytest-memray's own markers ───────────────────────────────────────────────────────────


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Iterator[Any]:
    workload, variant, params, iterations = request.param
    if variant not in instruments.variants(workload.partition(".")[0]):
        pytest.skip(instruments.unavailable().get(f"{workload.partition('.')[0]}/{variant}", NOT_COMPILED))
    with instruments.prepared(workload, variant, params) as prepared:
        instruments.perform(prepared, iterations)
        yield lambda: prepared.run(iterations)


# compression/adaptive is not among them: it makes a context for a level when it first tries it, and keeps it
LOOPS = [
    *(
        ("codec.roundtrip", name, BATCHED, 50)
        for name in ("cbor2", "struct", "msgspec-msgpack", "native", "native-lazy")
    ),
    *(
        ("ring.single", name, {"corpus": "tiny"}, 5_000)
        for name in ("deque", "simplequeue", "bytearray", "shared-memory")
    ),
    *(("pool.take_give", name, {"sizes": "mixed"}, 300) for name in ("none", "freelist", "slab")),
    *(
        ("compression.pack", name, {"corpus": "flights", "batch": 100}, 50)
        for name in ("always", "batch", "dictionary", "lz4")
    ),
]


@pytest.mark.limit_leaks("30 KB")
@pytest.mark.parametrize("work", LOOPS, indirect=True, ids=lambda case: f"{case[0]}-{case[1]}")
def test_thousands_of_messages_leave_nothing_behind(work: Any) -> None:
    """A place that kept 16 bytes for every message would be over the limit."""
    assert work() >= 4_800


@pytest.mark.limit_memory("2 MB")
@pytest.mark.parametrize("work", LOOPS, indirect=True, ids=lambda case: f"{case[0]}-{case[1]}")
def test_thousands_of_messages_need_little_at_once(work: Any) -> None:
    """All that goes to ``malloc``: large buffers and what libraries in C allocate."""
    assert work() >= 4_800


def test_the_limit_notices_a_leak(tmp_path: Path) -> None:
    """The same limit on work that does keep a little of each message."""
    test = tmp_path / "test_leaking.py"
    test.write_text("""
import pytest
kept = []

@pytest.mark.limit_leaks("30 KB")
def test_leaks():
    for number in range(5_000):
        kept.append(bytearray(16))
""")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "MEMORY PROBLEMS test_leaking.py::test_leaks - Test was allowed to leak 30.0K" in done.stdout
