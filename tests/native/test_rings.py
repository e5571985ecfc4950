"""The compiled rings: what is theirs beside the contract: waiting, several of a side, references, strange arguments."""

from __future__ import annotations

import gc
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from portask import registry
from portask.contracts import WaitingRing
from portask.errors import RingClosed, RingEmpty, RingError, RingFull
from portask_lab.conformance.ring_traffic import numbered

NAMES = ["native-spsc", "native-mpmc", "native-shm"]


def made(name: str, capacity: int = 4096) -> Any:
    return registry.get("ring", name).make(capacity=capacity)


@pytest.fixture(params=NAMES)
def ring(request: pytest.FixtureRequest) -> Iterator[Any]:
    ring = made(request.param)
    yield ring
    ring.close()


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────


def test_they_can_be_waited_for(ring: Any) -> None:
    assert isinstance(ring, WaitingRing)


def test_what_is_there_is_not_waited_for(ring: Any) -> None:
    ring.put(b"x")
    assert ring.wait(0.0)
    assert ring.wait(math.inf)
    assert ring.wait(-1.0, math.inf)
    assert ring.get() == b"x"


@pytest.mark.parametrize("spin", [0.0, 0.01, math.inf])
def test_time_is_up(ring: Any, spin: float) -> None:
    start = time.monotonic()
    assert not ring.wait(0.03, spin)
    assert time.monotonic() - start >= 0.03
    assert not ring.wait(0.0, spin)
    assert not ring.wait(-5.0, spin)


def test_nan_is_no_time(ring: Any) -> None:
    with pytest.raises(ValueError, match="timeout is a number of seconds, not nan"):
        ring.wait(math.nan)
    with pytest.raises(ValueError, match="spin is a number of seconds, not nan"):
        ring.wait(1.0, math.nan)


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("spin", [0.0, math.inf])
def test_other_threads_run_while_one_waits_and_wake_it(ring: Any, spin: float) -> None:
    """A wait that held the interpreter would never end: the other thread could not put."""

    def produce() -> None:
        time.sleep(0.02)
        ring.put(b"there")

    producer = in_thread(produce)
    assert ring.wait(20.0, spin)
    assert ring.get() == b"there"
    producer.join()


@pytest.mark.parametrize("spin", [0.0, math.inf])
def test_closing_wakes_who_waits(ring: Any, spin: float) -> None:
    def close() -> None:
        time.sleep(0.02)
        ring.close()

    closer = in_thread(close)
    assert ring.wait(20.0, spin)
    with pytest.raises(RingClosed):
        ring.get()
    closer.join()


@pytest.mark.parametrize("spin", [0.0, math.inf])
def test_a_signal_is_heard_by_who_waits(ring: Any, spin: float) -> None:
    class Heard(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Heard

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Heard):
            ring.wait(20.0, spin)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_every_record_is_waited_for_in_turn() -> None:
    """A lost wake-up would cost a nap each time: thousands of round trips between sleepers would take minutes."""
    there, back = made("native-shm"), made("native-spsc")

    def echo() -> None:
        while there.wait(20.0):
            try:
                back.put(there.get())
            except RingClosed:
                return

    other = in_thread(echo)
    for number in range(3000):
        there.put(number.to_bytes(4, "big"))
        assert back.wait(20.0)
        assert int.from_bytes(back.get(), "big") == number
    there.close()
    other.join()


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────


def test_any_sequence_and_any_buffer(ring: Any) -> None:
    class Named(bytes):
        pass

    assert ring.put_many((b"tuple",)) == 1
    assert ring.put_many(deque([b"deque", bytearray(b"array")])) == 2
    assert ring.put_many(memoryview(b"ab")[at : at + 1] for at in range(2)) == 2
    assert ring.put_many([memoryview(b"a-b-c")[::2], memoryview(bytes(8)).cast("Q")]) == 2
    ring.put(memoryview(b"a-b-c")[::-1])
    ring.put(Named(b"subclass"))
    ring.put(bytearray())
    got = ring.get_many(100)
    assert got == [b"tuple", b"deque", b"array", b"a", b"b", b"abc", bytes(8), b"c-b-a", b"subclass", b""]
    assert all(type(record) is bytes for record in got)


@pytest.mark.parametrize("record", ["text", 5, None, [1]])
def test_what_is_no_buffer_is_refused(ring: Any, record: Any) -> None:
    puts: tuple[Callable[[], Any], ...] = (
        lambda: ring.put(record),
        lambda: ring.put_many([b"first", record]),
    )
    for put in puts:
        with pytest.raises(TypeError, match=f"a record is bytes, .* not {type(record).__name__}"):
            put()
    assert len(ring) == 0
    with pytest.raises(RingEmpty):
        ring.get()


def test_a_sequence_that_fails_puts_nothing(ring: Any) -> None:
    def records() -> Iterator[bytes]:
        yield b"first"
        raise LookupError("planted")

    with pytest.raises(LookupError, match="planted"):
        ring.put_many(records())
    with pytest.raises(TypeError):
        ring.put_many(7)
    assert len(ring) == 0
    ring.put(b"after")
    assert ring.get() == b"after"


def test_a_copy_is_made_of_what_may_change(ring: Any) -> None:
    record = bytearray(b"before")
    ring.put(record)
    ring.put_many([record, memoryview(record)])
    record[:] = b"after!"
    assert ring.get_many(3) == [b"before"] * 3


def test_a_side_is_told_when_there_are_two_of_it() -> None:
    ring = made("native-shm")

    def records() -> Iterator[bytes]:
        yield b"first"
        ring.put(b"in between")

    with pytest.raises(RingError, match="two producers at once"):
        ring.put_many(records())
    assert len(ring) == 0
    assert ring.put_many([b"now it is one"]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_capacity_that_no_machine_has_is_an_error(name: str) -> None:
    if name == "native-mpmc":
        assert made(name, 1 << 60).capacity == 1 << 60  # it takes memory as records need it
        return
    with pytest.raises(RingError, match="lower the capacity"):
        made(name, 1 << 50)


# ── references ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["native-spsc", "native-mpmc"])
def test_references_are_given_back(name: str) -> None:
    ring = made(name)
    record = bytes(range(50))
    before = sys.getrefcount(record)
    ring.put(record)
    ring.put_many([record] * 20)
    assert sys.getrefcount(record) == before + 21
    assert ring.get() is record
    assert sys.getrefcount(record) == before + 20
    for _ in range(15):
        ring.get()
    assert sys.getrefcount(record) <= before + 10, "a batch keeps at most as many as are left in it"
    assert all(each is record for each in ring.get_many(3))
    ring.get_many(100)
    assert sys.getrefcount(record) == before
    with pytest.raises(ValueError, match="never fits"):
        ring.put_many([record, bytes(1000)])
    assert sys.getrefcount(record) == before
    ring.put_many([record] * 5)
    ring.get()
    del ring
    gc.collect()
    assert sys.getrefcount(record) == before


def test_a_batch_that_fits_in_part_keeps_no_more() -> None:
    ring = made("native-spsc", 800)
    record = bytes(92)
    before = sys.getrefcount(record)
    batch = [record] * 30
    assert ring.put_many(batch) == 8
    assert len(batch) == 30
    del batch
    assert sys.getrefcount(record) == before + 8


def test_lists_are_the_callers_and_known_to_the_collector() -> None:
    ring = made("native-spsc")
    batch = [b"a", b"b"]
    ring.put_many(batch)
    got = ring.get_many(2)
    assert got == batch
    assert got is not batch
    assert gc.is_tracked(got)
    got.append(got)
    ring.put_many([b"c", b"d", b"e"])
    first, rest = ring.get_many(1), ring.get_many(9)
    assert (first, rest) == ([b"c"], [b"d", b"e"])
    assert gc.is_tracked(first)
    assert gc.is_tracked(rest)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_batches_of_one_size_come_out_in_another(size: int) -> None:
    ring = made("native-spsc", 1 << 16)
    records = [numbered(number) for number in range(100)]
    got: list[bytes] = []
    for start in range(0, 100, 10):
        ring.put_many(records[start : start + 9])
        ring.put(records[start + 9])
    while len(ring):
        got += ring.get_many(size)
        got.append(ring.get()) if len(ring) else None
    assert got == records


# ── several of a side ─────────────────────────────────────────────────────────────────────────────────────


def test_many_producers_and_consumers() -> None:
    """Nothing is lost or doubled, each consumer sees each producer's records in order, and all hear the end."""
    producers, consumers, each = 3, 3, 4000
    ring = made("native-mpmc", 8192)
    seen: list[list[bytes]] = [[] for _ in range(consumers)]

    def produce(producer: int) -> None:
        batch: list[bytes] = []
        for number in range(each):
            batch.append(bytes([producer]) + number.to_bytes(4, "big") + bytes(number % 40))
            if len(batch) == number % 13 + 1 or number == each - 1:
                while batch:
                    del batch[: ring.put_many(batch)]
                    if batch:
                        time.sleep(0)

    def consume(consumer: int) -> None:
        mine = seen[consumer]
        while ring.wait(20.0):
            try:
                mine += ring.get_many(5)
                mine.append(ring.get())
            except RingEmpty:
                continue
            except RingClosed:
                return

    consuming = [in_thread(lambda number=number: consume(number)) for number in range(consumers)]  # type: ignore[misc]
    producing = [in_thread(lambda number=number: produce(number)) for number in range(producers)]  # type: ignore[misc]
    for thread in producing:
        thread.join(60)
    ring.close()
    for thread in consuming:
        thread.join(60)
        assert not thread.is_alive()
    assert len(ring) == 0
    together: list[bytes] = []
    for mine in seen:
        for producer in range(producers):
            numbers = [record[1:5] for record in mine if record[0] == producer]
            assert numbers == sorted(numbers)
        together += mine
    assert sorted(record[:5] for record in together) == [
        bytes([producer]) + number.to_bytes(4, "big")
        for producer in range(producers)
        for number in range(each)
    ]
    with pytest.raises(RingClosed):
        ring.put(b"late")


def test_full_is_full_for_every_producer() -> None:
    ring = made("native-mpmc", 80)
    assert ring.put_many([b"12"] * 9) == 8
    outcomes: list[bool] = []

    def produce() -> None:
        try:
            ring.put(b"12")
        except RingFull:
            outcomes.append(False)
        else:
            outcomes.append(True)

    for thread in [in_thread(produce) for _ in range(4)]:
        thread.join()
    assert outcomes == [False] * 4
    assert len(ring) == 80
