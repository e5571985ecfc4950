"""What is particular to `native-shm`: names, what is left behind, and the deaths of its sides.

More deaths: ``PORTASK_RING_KILLS=1000 .venv/bin/python -m pytest tests/native/test_shared_ring.py -k killed_at_any``.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from portask import registry
from portask.errors import RingClosed, RingEmpty, RingError, RingFull
from portask_lab.conformance.ring_traffic import numbered

KILLS = int(os.environ.get("PORTASK_RING_KILLS", "300"))
"""How often each side is killed."""


def made(capacity: int = 4096) -> Any:
    return registry.get("ring", "native-shm").make(capacity=capacity)


@pytest.fixture
def ring() -> Iterator[Any]:
    ring = made()
    yield ring
    ring.close()


def descriptors() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found.add(str(path.readlink()))
    return found


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_attached_ring_is_the_same_ring(ring: Any) -> None:
    other = type(ring).attach(ring.name)
    assert other.name == ring.name
    assert other.capacity == ring.capacity == 4096
    ring.put_many([b"a", b"b"])
    assert len(other) == len(ring) == 18
    assert other.get_many(5) == [b"a", b"b"]
    assert len(ring) == 0
    other.close()
    with pytest.raises(RingClosed):
        ring.put(b"c")


def test_closing_keeps_what_is_inside_for_those_who_are_attached(ring: Any) -> None:
    other = type(ring).attach(ring.name)
    ring.put(b"last words")
    ring.close()
    ring.close()
    with pytest.raises(RingClosed, match="its maker closed it"):
        type(ring).attach(ring.name)
    del ring
    gc.collect()
    assert other.get() == b"last words"
    with pytest.raises(RingClosed):
        other.get()


def test_only_the_maker_takes_the_name_away(ring: Any) -> None:
    other = type(ring).attach(ring.name)
    other.close()
    del other
    gc.collect()
    assert type(ring).attach(ring.name).name == ring.name


def test_a_dropped_ring_leaves_nothing() -> None:
    ring = made()
    token = ring.name.rpartition("-")[2]
    maps = Path("/proc/self/maps")
    assert any(token in target for target in descriptors())
    assert token in maps.read_text()
    del ring
    gc.collect()
    assert not any(token in target for target in descriptors())
    assert token not in maps.read_text()


def test_a_forked_child_leaves_the_name_to_its_parent(ring: Any) -> None:
    child = os.fork()
    if child == 0:
        try:
            ring.put(b"from the child")
            del ring
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert type(ring).attach(ring.name).get() == b"from the child"


def test_an_attached_program_ends_quietly_and_takes_nothing_away(ring: Any) -> None:
    script = (
        "from portask_native._native import SharedRing; import sys; SharedRing.attach(sys.argv[1]).put(b'x')"
    )
    done = run(script, ring.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert type(ring).attach(ring.name).get() == b"x"


def test_the_name_of_a_killed_maker_is_gone_at_once_and_the_memory_is_not() -> None:
    script = (
        "from portask_native._native import SharedRing\n"
        "ring = SharedRing(capacity=4096); ring.put(b'legacy'); print(ring.name, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        name = maker.stdout.readline().strip()
        attach = registry.get("ring", "native-shm").load().attach
        other = attach(name)
        maker.kill()
        maker.wait()
    with pytest.raises(RingClosed, match="or is gone"):
        attach(name)
    assert other.get() == b"legacy"
    with pytest.raises(RingEmpty):
        other.get()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "no-such-ring", "../../etc/passwd", "portask-ring-1-2", "portask-ring-1-2-3"]
)
def test_names_lead_nowhere_else(ring: Any, name: str) -> None:
    with pytest.raises(RingError, match="a ring's name looks different"):
        type(ring).attach(name)


def test_a_descriptor_that_is_something_else_now_is_no_ring(ring: Any) -> None:
    with Path("/dev/null").open() as other:
        stale = f"portask-ring-{os.getpid()}-{other.fileno()}-{'0' * 16}"
        with pytest.raises(RingClosed):
            type(ring).attach(stale)


def test_too_large_for_the_machine_is_an_error_and_leaves_nothing() -> None:
    before = descriptors()
    with pytest.raises(RingError, match="lower the capacity"):
        made(1 << 50)
    assert descriptors() == before


def test_garbage_in_the_memory_is_found_out(ring: Any) -> None:
    """A stray write of another process: reads end in an error that says so, and stay inside of the ring."""
    ring.put_many([b"first", b"second"])
    process, descriptor = ring.name.split("-")[2:4]
    with Path(f"/proc/{process}/fd/{descriptor}").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    at = memory.find(b"second") - 8
    memory[at : at + 8] = (1 << 62).to_bytes(8, sys.byteorder)
    assert ring.get_many(10) == [b"first"]
    with pytest.raises(RingError, match="memory was overwritten"):
        ring.get_many(10)
    with pytest.raises(RingError, match="memory was overwritten"):
        ring.get()


# ── deaths ────────────────────────────────────────────────────────────────────────────────────────────────


def forked(work: Callable[[], None]) -> int:
    """A child that does nothing but ``work``, until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def killed(child: int) -> bool:
    """Kills the child; whether it lived until then."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_producer_killed_at_any_moment_leaves_whole_records_in_order() -> None:
    """Each successor goes on where the last one stopped, over whatever that one left half-written."""
    rng = random.Random(9)
    ring = made(16_384)
    attach, name = type(ring).attach, ring.name
    count = deaths = 0

    def produce() -> None:
        ours, number = attach(name), count
        while True:
            records = [numbered(n) for n in range(number, number + 60)]
            at = 0
            while at < len(records):
                if at % 7:
                    at += ours.put_many(records[at : at + at % 60])
                else:
                    try:
                        ours.put(records[at])
                        at += 1
                    except RingFull:
                        pass
            number += len(records)

    def check(records: list[bytes]) -> int:
        assert records == [numbered(n) for n in range(count, count + len(records))]
        return len(records)

    for turn in range(KILLS):
        child = forked(produce)
        try:
            assert ring.wait(20.0), "the producer put nothing"
            moment = time.monotonic() + rng.random() * 0.003
            while time.monotonic() < moment:
                if turn % 3:  # else it fills up, and dies with the ring full
                    count += check(ring.get_many(rng.randrange(1, 200)))
        finally:
            deaths += killed(child)
        while records := ring.get_many(rng.randrange(1, 200)):
            count += check(records)
        assert len(ring) == 0
        with pytest.raises(RingEmpty):
            ring.get()
    assert deaths == KILLS
    assert count > 20 * KILLS, "hardly anything was put: nothing was shown"


def test_a_consumer_killed_at_any_moment_leaves_the_rest_whole_and_in_order() -> None:
    """Its successor takes the record behind the last that it took: of these, one call's at most died with it."""
    rng = random.Random(10)
    ring = made(16_384)
    attach, name = type(ring).attach, ring.name
    word = Struct("=Q")
    told = mmap.mmap(-1, 4096)  # shared with the children: how many records were taken, and found right
    most = 50

    def consume() -> None:
        ours = attach(name)
        while True:
            ours.wait(20.0)
            records = ours.get_many(most)
            first = int.from_bytes(records[0][:8], "little") if records else 0
            if records != [numbered(n) for n in range(first, first + len(records))]:
                return  # ends before it is killed
            (last,) = word.unpack_from(told)
            if records and not last <= first <= last + most:
                return
            if records:
                word.pack_into(told, 0, first + len(records))

    number = deaths = 0
    for _ in range(KILLS):
        child = forked(consume)
        try:
            (before,) = word.unpack_from(told)
            end = time.monotonic() + 20
            moment = 0.0
            while not moment or time.monotonic() < moment:
                assert time.monotonic() < end, "the consumer took nothing"
                batch = [numbered(n) for n in range(number, number + rng.randrange(1, 60))]
                number += ring.put_many(batch)
                if not moment and word.unpack_from(told)[0] > before:
                    moment = time.monotonic() + rng.random() * 0.003
        finally:
            deaths += killed(child)
    rest = ring.get_many(1 << 20)
    (taken,) = word.unpack_from(told)
    assert deaths == KILLS, "a consumer found something wrong and ended"
    assert rest == [numbered(n) for n in range(number - len(rest), number)]
    assert taken <= number - len(rest) <= taken + most
    assert number > 20 * KILLS, "hardly anything was taken: nothing was shown"


def test_a_producer_that_is_killed_before_it_wakes_the_consumer_costs_a_nap(ring: Any) -> None:
    """Nobody sleeps longer than 20 ms without looking; here the wake-up never comes."""

    def produce() -> None:
        time.sleep(0.02)
        _publish_silently(ring.name, b"unannounced")

    child = forked(produce)
    start = time.monotonic()
    assert ring.wait(20.0)
    assert time.monotonic() - start < 10
    assert ring.get() == b"unannounced"
    os.waitpid(child, 0)


def _publish_silently(name: str, record: bytes) -> None:
    """What a producer does until just before it wakes: the record, then the counter."""
    process, descriptor = name.split("-")[2:4]
    with Path(f"/proc/{process}/fd/{descriptor}").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    memory[512 : 512 + 8 + len(record)] = len(record).to_bytes(8, sys.byteorder) + record
    memory[128:136] = (8 + len(record)).to_bytes(8, sys.byteorder)


def test_a_dead_consumer_is_a_ring_that_fills(ring: Any) -> None:
    def consume() -> None:
        while True:
            ring.get_many(10)

    child = forked(consume)
    end = time.monotonic() + 20
    ring.put(b"first")
    while len(ring):
        assert time.monotonic() < end
    assert killed(child)
    batch = [n.to_bytes(4, "big") for n in range(1000)]
    count = ring.put_many(batch)
    assert count == 4096 // 12
    with pytest.raises(RingFull):
        ring.put(b"more")
    assert type(ring).attach(ring.name).get_many(1000) == batch[:count]
