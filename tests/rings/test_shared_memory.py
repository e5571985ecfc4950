"""What is particular to shared memory: names, deaths, and what is left behind."""

from __future__ import annotations

import gc
import mmap
import os
import platform
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from portask.errors import RingClosed, RingEmpty, RingError, RingFull
from portask_lab.conformance.ring_traffic import numbered
from portask_variants.rings.shared_memory import SharedMemoryRing, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"the shared-memory ring {why_not()}")

SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory


def path_of(ring: SharedMemoryRing) -> Path:
    return SHM / ring.name


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def ring() -> Iterator[SharedMemoryRing]:
    ring = SharedMemoryRing(capacity=4096)
    yield ring
    ring.close()


def test_two_handles_are_one_ring(ring: SharedMemoryRing) -> None:
    other = SharedMemoryRing.attach(ring.name)
    assert other.capacity == ring.capacity == 4096
    ring.put_many([b"a", b"b"])
    assert len(other) == len(ring) == 18
    assert other.get_many(5) == [b"a", b"b"]
    assert len(ring) == 0
    other.close()
    with pytest.raises(RingClosed):
        ring.put(b"c")


def test_closing_keeps_what_is_inside_for_those_who_are_attached(ring: SharedMemoryRing) -> None:
    other = SharedMemoryRing.attach(ring.name)
    ring.put(b"last words")
    ring.close()
    ring.close()
    assert not path_of(ring).exists()
    with pytest.raises(RingClosed, match="its maker closed it"):
        SharedMemoryRing.attach(ring.name)
    assert other.get() == b"last words"
    with pytest.raises(RingClosed):
        other.get()


def test_only_the_maker_removes_the_name(ring: SharedMemoryRing) -> None:
    other = SharedMemoryRing.attach(ring.name)
    other.close()
    del other
    gc.collect()
    assert path_of(ring).exists()


def test_a_dropped_ring_leaves_nothing() -> None:
    ring = SharedMemoryRing(capacity=4096)
    path = path_of(ring)
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o600
    maps = Path("/proc/self/maps")
    assert path.name in maps.read_text()
    del ring
    gc.collect()
    assert not path.exists()
    assert path.name not in maps.read_text()


def test_a_name_that_somebody_removed_does_not_disturb_closing(ring: SharedMemoryRing) -> None:
    path_of(ring).unlink()
    ring.put(b"still here")
    ring.close()
    assert ring.get() == b"still here"


def test_a_forked_child_leaves_the_name_to_its_parent(ring: SharedMemoryRing) -> None:
    child = os.fork()
    if child == 0:
        try:
            ring.put(b"from the child")
            ring._remove_name()  # type: ignore[misc]  # what its end would do
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path_of(ring).exists()
    assert ring.get() == b"from the child"


def test_a_program_that_forgets_to_close_leaves_nothing_and_says_nothing() -> None:
    done = run(
        "from portask_variants.rings.shared_memory import SharedMemoryRing\n"
        "ring = SharedMemoryRing(capacity=4096); other = SharedMemoryRing.attach(ring.name)\n"
        "ring.put(b'x'); print(ring.name)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (SHM / done.stdout.strip()).exists()


def test_an_attached_program_ends_quietly_and_takes_nothing_away(ring: SharedMemoryRing) -> None:
    done = run(
        "from portask_variants.rings.shared_memory import SharedMemoryRing; import sys\n"
        "SharedMemoryRing.attach(sys.argv[1]).put(b'x')",
        ring.name,
    )
    assert (done.returncode, done.stderr) == (0, "")
    time.sleep(0.1)  # for a resource tracker that thought otherwise
    assert path_of(ring).exists()
    assert ring.get() == b"x"


def test_the_name_of_a_killed_maker_is_removed() -> None:
    script = (
        "from portask_variants.rings.shared_memory import SharedMemoryRing\n"
        "ring = SharedMemoryRing(capacity=4096); print(ring.name, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as maker:
        assert maker.stdout is not None
        path = SHM / maker.stdout.readline().strip()
        other = SharedMemoryRing.attach(path.name)
        maker.kill()
        maker.wait()
    for _ in range(500):
        if not path.exists():
            break
        time.sleep(0.01)
    assert not path.exists()
    with pytest.raises(RingEmpty):
        other.get()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 4096], ids=["empty", "short", "foreign"])
def test_memory_that_is_no_ring_is_refused(content: bytes) -> None:
    path = SHM / f"portask-test-{secrets.token_hex(8)}"
    path.write_bytes(content)
    try:
        with pytest.raises(RingError, match=r"no ring|cannot be opened"):
            SharedMemoryRing.attach(path.name)
    finally:
        path.unlink()


def test_a_ring_cut_short_is_refused(ring: SharedMemoryRing) -> None:
    path = SHM / f"portask-test-{secrets.token_hex(8)}"
    path.write_bytes(path_of(ring).read_bytes()[:-1])
    try:
        with pytest.raises(RingError, match="no ring"):
            SharedMemoryRing.attach(path.name)
    finally:
        path.unlink()


@pytest.mark.parametrize("name", ["", ".", "..", "no-such-ring", "../../etc/passwd", "/etc/passwd"])
def test_names_lead_nowhere_else(name: str) -> None:
    with pytest.raises(RingError):
        SharedMemoryRing.attach(name)


def test_too_large_for_the_machine_is_an_error_and_leaves_nothing() -> None:
    before = set(SHM.iterdir())
    with pytest.raises(RingError, match="lower its capacity"):
        SharedMemoryRing(capacity=1 << 50)
    assert not {path for path in set(SHM.iterdir()) - before if path.name.startswith("portask-ring-")}


def test_room_that_vanishes_is_an_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    token = secrets.token_hex(8)
    monkeypatch.setattr(secrets, "token_hex", lambda _: token)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RingError, match="No space left on device; lower the capacity"):
        SharedMemoryRing(capacity=4096)
    assert not (SHM / f"portask-ring-{token}").exists()


def test_other_machines_are_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    reason = why_not()
    assert reason
    assert "aarch64" in reason
    with pytest.raises(RingError, match="needs Linux on x86-64"):
        SharedMemoryRing()
    with pytest.raises(RingError, match="needs Linux on x86-64"):
        SharedMemoryRing.attach("any")


def test_the_counters_are_aligned_and_apart() -> None:
    ring = SharedMemoryRing(capacity=4096)
    view = SharedMemory(ring.name)
    try:
        ring.put(b"12345678")
        ring.get()
        assert view.buf is not None
        assert mmap.PAGESIZE % 64 == 0
        assert view.buf[64:72] == view.buf[128:136] == (16).to_bytes(8, sys.byteorder)
    finally:
        view.close()
        ring.close()


_PRODUCER = """
import sys
from portask.errors import RingFull
from portask_lab.conformance.ring_traffic import numbered
from portask_variants.rings.shared_memory import SharedMemoryRing

ring, number = SharedMemoryRing.attach(sys.argv[1]), int(sys.argv[2])
records = [numbered(n) for n in range(number, number + 20_000)]
at = 0
while at < len(records):
    if at % 7:
        at += ring.put_many(records[at : at + at % 60])
    else:
        try:
            ring.put(records[at])
            at += 1
        except RingFull:
            pass
"""


def test_a_producer_killed_at_any_moment_leaves_whole_records_in_order() -> None:
    rng = random.Random(9)
    ring = SharedMemoryRing(capacity=65_536)
    count, killed = 0, 0

    def drain() -> int:
        """What is there, checked: the records from ``count`` on."""
        records = ring.get_many(rng.randrange(1, 200))
        assert records == [numbered(n) for n in range(count, count + len(records))]
        return len(records)

    for _ in range(10):
        # each successor goes on where the last one stopped, over whatever that one left half-written
        producer = subprocess.Popen([sys.executable, "-c", _PRODUCER, ring.name, str(count)])
        try:
            end = time.monotonic() + 20
            while not (got := drain()):
                assert time.monotonic() < end
                assert producer.poll() is None
            count += got
            moment = time.monotonic() + rng.random() * 0.01
            while time.monotonic() < moment:
                count += drain()
        finally:
            producer.send_signal(signal.SIGKILL)
            killed += producer.wait() == -signal.SIGKILL
        while got := drain():
            count += got
        with pytest.raises(RingEmpty):
            ring.get()
    ring.close()
    assert killed >= 8, "the producers ended before they were killed: nothing was shown"
    assert count > 1000


def test_a_consumer_killed_leaves_the_producer_a_ring_that_fills(ring: SharedMemoryRing) -> None:
    script = (
        "from portask_variants.rings.shared_memory import SharedMemoryRing; import sys\n"
        "ring = SharedMemoryRing.attach(sys.argv[1])\n"
        "while True: ring.get_many(10)"
    )
    consumer = subprocess.Popen([sys.executable, "-c", script, ring.name])
    try:
        end = time.monotonic() + 20
        ring.put(b"first")
        while len(ring):
            assert time.monotonic() < end
    finally:
        consumer.kill()
        consumer.wait()
    batch = [n.to_bytes(4, "big") for n in range(1000)]
    count = ring.put_many(batch)
    assert count == 4096 // 12
    with pytest.raises(RingFull):
        ring.put(b"more")
    successor = SharedMemoryRing.attach(ring.name)
    assert successor.get_many(1000) == batch[:count]
