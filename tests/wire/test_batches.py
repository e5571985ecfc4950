"""Batches keep every field, and no damaged one is taken for whole."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.errors import BatchCorrupt, BatchError, BatchTooLarge
from portask.wire import batches

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
BATCHES: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    body=st.binary(min_size=1, max_size=60),
    count=st.just(1),
    codec=st.integers(0, 255),
    base_timestamp=U64,
    ttl=U32,
    producer=U64,
    epoch=U16,
    sequence=U32,
    base_offset=U64,
    append_time=U64,
)


def build(**fields: Any) -> bytes:
    plain: dict[str, Any] = {"body": b"record", "count": 1, "codec": 1, "base_timestamp": 5}
    return batches.build(**(plain | fields))


def repaired(data: bytes, at: int, value: bytes) -> bytes:
    """A field changed, and the checksum made right again."""
    changed = bytearray(data)
    changed[at : at + len(value)] = value
    changed[20:24] = crc32c(bytes(changed[24:])).to_bytes(4, "little")
    return bytes(changed)


@given(BATCHES)
def test_every_field_comes_back(given_fields: dict[str, Any]) -> None:
    data = batches.build(**given_fields)
    parsed = batches.parse(data)
    assert bytes(parsed.body) == given_fields.pop("body")
    for name, value in given_fields.items():
        assert getattr(parsed, name) == value, name
    assert parsed.raw_length == len(data) - 64
    assert parsed.data is data
    stamps = (parsed.base_offset, parsed.append_time, parsed.count, parsed.ttl)
    assert batches.peek(data) == stamps


def test_the_header_is_laid_out_as_documented() -> None:
    body = b"12345"
    data = build(
        body=body, count=3, codec=2, attributes=0x0101, raw_length=9, ttl=7, base_timestamp=8, producer=9,
        epoch=10, sequence=11, base_offset=12, append_time=13,
    )  # fmt: skip
    header = struct.unpack("<QQIIBBHIIIQQHHI", data[:64])
    assert header == (12, 13, 69, crc32c(data[24:]), 1, 2, 0x0101, 3, 9, 7, 8, 9, 10, 0, 11)
    assert data[64:] == body


def test_the_brokers_stamp_is_outside_the_checksum() -> None:
    data = build()
    stamped = batches.stamp(77, 88) + data[16:]
    parsed = batches.parse(stamped)
    assert (parsed.base_offset, parsed.append_time) == (77, 88)


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_flipped_bit_behind_the_stamp_is_always_seen(body: bytes, data: st.DataObject) -> None:
    whole = bytearray(build(body=body))
    bit = data.draw(st.integers(16 * 8, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BatchCorrupt):
        batches.parse(bytes(whole))


@given(st.integers(0, 69))
def test_a_cut_batch_is_refused(size: int) -> None:
    with pytest.raises(BatchCorrupt):
        batches.parse(build()[:size])


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (24, b"\x02", "version 2"),
        (26, b"\x10", "reserved attributes"),
        (28, b"\0\0\0\0", "no records"),
        (28, b"\x07\0\0\0", "cannot fit"),
        (32, b"\x07\0\0\0", "declares 7 raw bytes"),
        (58, b"\x01", "reserved field"),
    ],
)
def test_each_wrong_field_is_named(at: int, value: bytes, says: str) -> None:
    with pytest.raises(BatchCorrupt, match=says):
        batches.parse(repaired(build(), at, value))


def test_a_batch_that_unfolds_too_far_is_refused_by_its_header() -> None:
    data = build(attributes=1, raw_length=1001)
    assert batches.parse(data, 1001).raw_length == 1001
    with pytest.raises(BatchTooLarge, match="1,001"):
        batches.parse(data, 1000)


@given(st.lists(BATCHES, max_size=4))
def test_batches_back_to_back_are_split(many: list[dict[str, Any]]) -> None:
    parts = [batches.build(**fields) for fields in many]
    split = batches.split(b"".join(parts))
    assert [bytes(batch.data) for batch in split] == parts


@pytest.mark.parametrize("trailing", [b"\0", b"x" * 63, b"\xff" * 64])
def test_bytes_after_the_last_batch_are_refused(trailing: bytes) -> None:
    with pytest.raises(BatchCorrupt):
        batches.split(build() + trailing)


@given(st.binary(max_size=200))
def test_any_bytes_are_batches_or_refused(data: bytes) -> None:
    for read in (batches.parse, batches.split):
        try:
            read(data)
        except BatchError:
            continue


def test_a_batch_expires_after_its_append() -> None:
    assert batches.expires_at(1_000, 0) == 0
    assert batches.expires_at(1_000, 5) == 6_000
