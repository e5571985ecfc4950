"""What is particular to the byte ring: its edges, and memory that somebody else wrote into."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.errors import RingError
from portask_variants.rings.byte_ring import CAPACITY, HEAD, PUT, ByteRing, size_of


def test_a_batch_around_the_end_stays_whole() -> None:
    for start in range(160):
        ring = ByteRing(capacity=160)
        for _ in range(start):  # 9 bytes at a time, modulo 160, comes to every offset
            ring.put(b"x")
            ring.get()
        batch = [bytes([start, n]) * n for n in (0, 10, 3, 9, 10, 1)]
        assert ring.put_many(batch) == 6
        assert ring.get_many(4) + ring.get_many(4) == batch
        uniform = [bytes([start, n]) * 4 for n in range(10)]
        assert ring.put_many(uniform) == 10
        assert ring.get_many(99) == uniform
        assert len(ring) == 0


def test_the_first_the_second_and_the_last_alike_do_not_make_a_table() -> None:
    # rows of 16 bytes: the third record is longer, and its bytes pretend to be rows
    row = (8).to_bytes(8, "little") + b"pretend!"
    batch = [b"12345678", b"abcdefgh", b"short", row * 5, b"12345678", b"last"]
    ring = ByteRing(capacity=4096)
    ring.put_many(batch)
    assert ring.get_many(8) == batch


def test_large_records_pass_in_batches() -> None:
    ring = ByteRing(capacity=1 << 16)
    batch = [random.Random(n).randbytes(1 << 13) for n in range(7)]
    for _ in range(20):
        assert ring.put_many(batch) == 7
        assert ring.get_many(7) == batch


def test_views_that_are_not_of_bytes_do_not_corrupt() -> None:
    ring = ByteRing(capacity=1024)
    wide = memoryview(bytearray(16)).cast("Q")  # two items, sixteen bytes
    with pytest.raises(ValueError, match="memoryview"):
        ring.put(wide)
    with pytest.raises(ValueError, match="memoryview"):
        ring.put_many([b"one", wide])
    assert len(ring) == 0
    ring.put(b"fine")
    assert ring.get() == b"fine"


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 64), min_size=1, max_size=10),
    damage=st.lists(
        st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
    ),
    batch=st.booleans(),
)
def test_any_damage_to_the_data_is_records_or_an_error(
    sizes: list[int], damage: list[tuple[int, bytes]], batch: bool
) -> None:
    ring = ByteRing(capacity=512)
    ring.put_many([bytes(size) for size in sizes])
    put = ring._words[PUT]
    for where, what in damage:
        at = min(where, len(ring._data) - len(what))
        ring._data[at : at + len(what)] = what
    try:
        while len(ring):
            if batch:
                ring.get_many(3)
            else:
                ring.get()
            assert len(ring) <= put
    except RingError as error:
        assert "overwritten" in str(error)  # noqa: PT017 - records are as good an outcome


def test_the_memory_is_no_larger_than_it_says() -> None:
    ring = ByteRing(capacity=1000)
    assert ring.capacity == ring._words[CAPACITY] == 1000
    assert len(ring._data) + HEAD == size_of(1000) == HEAD + 1000 + 125 + 8
