"""What every ring must do. Where it claims threads or processes, real ones move records (`ring_traffic`)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from portask.contracts import RECORD_OVERHEAD, BatchRing, Ring
from portask.errors import RingClosed, RingEmpty, RingFull
from portask.messages import Buffer
from portask.registry import Entry
from portask_lab.conformance import ring_traffic
from portask_lab.conformance.ring_traffic import NOISE, PATIENCE, check_all, put_all
from portask_lab.conformance.suite import Check, NotApplicable, Violation, check, require

SUITE: list[Check] = []

_SIZES = (0, 1, 7, 8, 9, 63, 64, 128)
_THREAD_RECORDS, _PROCESS_RECORDS = 20_000, 10_000


@check(SUITE)
def takes_what_the_contract_says(entry: Entry) -> None:
    """A ring has the contract's methods and at least the capacity that was asked for."""
    ring = entry.make(capacity=4096)
    require(isinstance(ring, Ring), f"{type(ring).__name__} is no Ring: a method or `capacity` is missing")
    require(ring.capacity >= 4096, f"asked for 4096 bytes, got a capacity of {ring.capacity}")


@check(SUITE)
def first_in_first_out(entry: Entry) -> None:
    """Records come out as bytes, whole and in order, whatever kind of buffer they came in."""
    ring = entry.make(capacity=4096)
    put: list[bytes] = []
    for size in _SIZES:
        record = NOISE[size : 2 * size]
        put.append(record)
        ring.put((record, bytearray(record), memoryview(record))[size % 3])
    got = [ring.get() for _ in put]
    require(got == put, f"put {put!r}, got {got!r}")
    require(all(type(record) is bytes for record in got), "get returned something else than bytes")


@check(SUITE)
def empty_is_typed(entry: Entry) -> None:
    """An empty ring raises RingEmpty, before and after it was used, and is not in use."""
    ring = entry.make(capacity=4096)
    _raises(RingEmpty, ring.get, "get on a new ring")
    ring.put(b"x")
    ring.get()
    _raises(RingEmpty, ring.get, "get on an emptied ring")
    require(len(ring) == 0, f"an emptied ring says that {len(ring)} bytes are in use")


@check(SUITE)
def full_hands_back(entry: Entry) -> None:
    """A full ring raises RingFull that carries the record, loses nothing, and takes records again after a get."""
    ring = entry.make(capacity=1024)
    record = b"r" * 100
    count = _fill(ring, record)
    extra = bytearray(b"e" * 100)
    try:
        ring.put(extra)
    except RingFull as full:
        require(full.record is extra, "RingFull does not carry the very record that did not fit")
    else:
        require(False, "the second put into a full ring was taken")
    require(ring.get() == record, "the oldest record is not the first one")
    ring.put(b"last")
    rest = [ring.get() for _ in range(count)]
    require(rest == [record] * (count - 1) + [b"last"], "a record was lost or changed when the ring was full")


@check(SUITE)
def capacity_is_kept(entry: Entry) -> None:
    """Of records of any one size up to capacity/8 at least half the capacity is accepted, never more than all."""
    for capacity in (1024, 4096):
        for size in (*_SIZES, capacity // 8):
            ring = entry.make(capacity=capacity)
            inside = 0
            for lap in range(4):
                inside += _fill(ring, b"c" * size)
                require(
                    2 * inside * (size + RECORD_OVERHEAD) >= capacity,
                    f"lap {lap}: full with {inside} records of {size} bytes, under half of {capacity}",
                )
                require(
                    inside * size <= len(ring) <= ring.capacity,
                    f"lap {lap}: {inside} records of {size} bytes, {len(ring)} in use of {ring.capacity}",
                )
                for _ in range(inside // 2 + 1):
                    ring.get()
                    inside -= 1


@check(SUITE)
def length_is_what_records_cost(entry: Entry) -> None:
    """A record occupies its length and the stated overhead (rounded up to 8), and gives them back."""
    for size in _SIZES:
        ring = entry.make(capacity=4096)
        ring.put(b"l" * size)
        most = -(-(size + RECORD_OVERHEAD) // 8) * 8
        require(size < len(ring) <= most, f"a record of {size} bytes occupies {len(ring)}, not up to {most}")
        ring.get()
        require(len(ring) == 0, f"{len(ring)} bytes in use after the only record was taken")


@check(SUITE)
def too_large_is_an_error(entry: Entry) -> None:
    """A record over an eighth of the capacity is a ValueError, alone and in a batch, and nothing else changes."""
    ring = entry.make(capacity=1024)
    limit = ring.capacity // 8
    ring.put(b"first")
    _raises(ValueError, lambda: ring.put(bytes(limit + 1)), "put of a record that never fits")
    if isinstance(ring, BatchRing):
        batch = [b"second", bytes(limit + 1)]
        _raises(ValueError, lambda: ring.put_many(batch), "put_many with a record that never fits")
    ring.put(bytes(limit))
    require([ring.get(), ring.get()] == [b"first", bytes(limit)], "the ring lost or gained a record")
    _raises(RingEmpty, ring.get, "get after everything was taken")


@check(SUITE)
def wraps_at_every_offset(entry: Entry) -> None:
    """Records of every size pass whole when they start at every offset of the ring."""
    ring = entry.make(capacity=256)
    for size in range(33):
        record, filler = NOISE[size : 2 * size], b"?"[size % 2 :]
        for _ in range(
            257
        ):  # both together cost an odd number of bytes: after 256 rounds all offsets were used
            ring.put(filler)
            ring.put(record)
            require(ring.get() == filler, f"a record of {len(filler)} bytes changed")
            require(ring.get() == record, f"a record of {size} bytes changed")


@check(SUITE)
def closing_is_final(entry: Entry) -> None:
    """After close puts are refused, what is inside can be taken, then RingClosed; closing twice is once."""
    for batch in (False, True):
        ring = entry.make(capacity=1024)
        if batch and not isinstance(ring, BatchRing):
            continue
        ring.put(b"one")
        ring.put(b"two")
        ring.close()
        ring.close()
        _raises(RingClosed, partial(ring.put, b"three"), "put on a closed ring")
        if batch:
            _raises(RingClosed, partial(ring.put_many, [b"three"]), "put_many on a closed ring")
            got = ring.get_many(10)
            _raises(RingClosed, partial(ring.get_many, 10), "get_many on a closed, empty ring")
        else:
            got = [ring.get(), ring.get()]
        require(got == [b"one", b"two"], f"put one and two, closed, and got {got!r}")
        _raises(RingClosed, ring.get, "get on a closed, empty ring")


@check(SUITE)
def batches_are_singles(entry: Entry) -> None:
    """put_many and get_many do what as many puts and gets do: the same records fit, in the same order."""
    one, many = entry.make(capacity=1024), entry.make(capacity=1024)
    can = isinstance(many, BatchRing)
    if not can:
        raise NotApplicable("it is no BatchRing")
    rng = random.Random(7049)
    for step in range(400):
        batch: list[Buffer] = list(_some_records(rng, ring=one))
        taken = many.put_many(batch)
        fitted = 0
        with suppress(RingFull):
            for record in batch:
                one.put(record)
                fitted += 1
        require(taken == fitted, f"step {step}: {fitted} single puts fit, put_many took {taken}")
        require(
            len(one) == len(many), f"step {step}: {len(one)} bytes in use by singles, {len(many)} in batches"
        )
        limit = rng.choice((0, 1, 3, 100))
        got = many.get_many(limit)
        expected = list(_take(one, limit))
        require(got == expected, f"step {step}: gets gave {expected!r}, get_many({limit}) gave {got!r}")
    require(many.put_many([]) == 0, "put_many of nothing put something")


@check(SUITE)
def random_walk_against_a_deque(entry: Entry) -> None:
    """Over a seeded random walk the ring does what an unbounded deque does, except that it may be full."""
    for seed in range(4):
        rng = random.Random(seed)
        ring = entry.make(capacity=rng.choice((128, 1000, 4096)))
        model: deque[bytes] = deque()
        for step in range(600):
            where = f"seed {seed}, step {step}"
            if rng.random() < 0.55:
                record = next(_some_records(rng, ring))
                try:
                    ring.put(record)
                except RingFull:
                    require(
                        2 * len(ring) > ring.capacity // 2,
                        f"{where}: full with {len(ring)} of {ring.capacity} bytes",
                    )
                else:
                    model.append(record)
            elif model:
                expected = model.popleft()
                require((got := ring.get()) == expected, f"{where}: expected {expected!r}, got {got!r}")
            else:
                _raises(RingEmpty, ring.get, f"{where}: get on an empty ring")
            require(
                bool(model) == bool(len(ring)),
                f"{where}: {len(model)} records inside, {len(ring)} bytes in use",
            )


@check(SUITE)
def two_threads(entry: Entry) -> None:
    """Two threads move 20,000 checksummed records: none is lost, changed, doubled or reordered."""
    if not entry.capabilities & {"threads", "processes"}:
        raise NotApplicable("it does not claim threads")
    ring = entry.make(capacity=16_384)
    failures: list[BaseException] = []

    def produce() -> None:
        try:
            put_all(ring, _THREAD_RECORDS)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)
        finally:
            ring.close()

    producer = threading.Thread(target=produce, name="ring-producer", daemon=True)
    producer.start()
    try:
        count = check_all(ring)
    finally:
        ring.close()
        producer.join(PATIENCE)
    if failures:
        raise failures[0]
    require(count == _THREAD_RECORDS, f"{_THREAD_RECORDS} records were put, {count} arrived")


@check(SUITE)
def two_processes(entry: Entry) -> None:
    """Another process echoes 10,000 checksummed records through a ring each way: all whole and in order."""
    if "processes" not in entry.capabilities:
        raise NotApplicable("it does not claim processes")
    there, back = entry.make(capacity=65_536), entry.make(capacity=65_536)
    require(
        hasattr(there, "name") and hasattr(entry.load(), "attach"), "it claims processes and is no SharedRing"
    )
    script = f"from {ring_traffic.__name__} import echo; import sys; echo(*sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", script, entry.target, there.name, back.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
    )
    failures: list[BaseException] = []

    def produce() -> None:
        try:
            put_all(there, _PROCESS_RECORDS, alive=lambda: child.poll() is None)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)
        finally:
            there.close()

    producer = threading.Thread(target=produce, name="ring-producer", daemon=True)
    producer.start()
    count = 0
    try:
        count = check_all(back, alive=lambda: child.poll() is None or len(back) > 0)
        child.wait(PATIENCE)
    except Violation as violation:
        failures.insert(0, violation)
    finally:
        child.kill()
        complaint = child.communicate()[1].strip()[-500:]
        producer.join(PATIENCE)
        back.close()
    require(not complaint, f"the other process complained: {complaint}")
    if failures:
        raise failures[0]
    require(child.returncode == 0, f"the other process ended with {child.returncode}")
    require(count == _PROCESS_RECORDS, f"{_PROCESS_RECORDS} records were sent, {count} came back")


def _some_records(rng: random.Random, ring: Any) -> Iterator[bytes]:
    """One to twelve records; now and then all of one length."""
    largest = ring.capacity // 8
    size = rng.choice((0, 1, largest, rng.randrange(largest + 1)))
    alike = rng.random() < 0.4
    for _ in range(rng.randrange(1, 13)):
        yield rng.randbytes(size if alike else rng.randrange(largest + 1))


def _take(ring: Any, limit: int) -> Iterator[bytes]:
    with suppress(RingEmpty):
        for _ in range(limit):
            yield ring.get()


def _fill(ring: Any, record: bytes) -> int:
    """Puts ``record`` until the ring is full; returns how many fitted."""
    count = 0
    with suppress(RingFull):
        while count * (len(record) + 1) <= 2 * ring.capacity:
            ring.put(record)
            count += 1
        require(False, f"{count} records of {len(record)} bytes went into {ring.capacity} bytes")
    return count


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        result = call()
    except kind:
        return
    require(False, f"{what} raised nothing and returned {result!r}, where {kind.__name__} was due")
