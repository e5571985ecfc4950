"""Frames come out as they went in, however they are cut; damage is refused, and nothing is buffered on its word."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.errors import FrameTooLarge, RemoteProtocolError
from portask.wire.frames import (
    HEADER_SIZE,
    MAGIC,
    REPLY,
    VERSION,
    FrameParser,
    Opcode,
    frame_header,
)
from tests.wire.feeding import FRAMES, WAYS, Fields, feed, fields, pieces, wire

EXAMPLES: list[Fields] = [
    (Opcode.PUBLISH, 0, 1, 2, b"a batch"),
    (Opcode.PING, 0, 3, 0, b""),
    (Opcode.OPEN, REPLY, 0xFFFF_FFFF, 0x7FFF_FFFF, b"x" * 300),
]


def test_the_header_is_laid_out_as_documented() -> None:
    header = frame_header(Opcode.PUBLISH, 5, 6, 7, REPLY)
    unpacked = struct.unpack("<4sBBHIIII", header)
    assert unpacked == (MAGIC, 2, 17, 1, 5, 6, 7, crc32c(header[:20]))
    assert len(header) == HEADER_SIZE


@pytest.mark.parametrize("way", WAYS)
def test_frames_come_out_as_they_went_in(way: str) -> None:
    parser = FrameParser()
    assert feed(parser, WAYS[way](b"".join(map(wire, EXAMPLES)))) == EXAMPLES
    assert parser.failed is None
    assert parser.buffered == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_trails_waits_for_its_rest(way: str) -> None:
    data = wire(EXAMPLES[0])
    for size in (1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 3):
        parser = FrameParser()
        assert feed(parser, WAYS[way](wire(EXAMPLES[2]) + data[:size])) == [EXAMPLES[2]]
        assert parser.buffered == size
        assert feed(parser, [data[size:]]) == [EXAMPLES[0]]
        assert parser.buffered == 0


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_frames_cut_anywhere(sent: list[Fields], cuts: list[int]) -> None:
    parser = FrameParser()
    assert feed(parser, pieces(b"".join(map(wire, sent)), cuts)) == sent
    assert parser.failed is None


def test_frames_that_lie_whole_are_views_into_what_was_fed() -> None:
    data = b"".join(map(wire, EXAMPLES))
    for frame in FrameParser().feed(data):
        assert memoryview(frame.body).obj is data


@settings(max_examples=60)
@given(FRAMES, st.data())
def test_a_flipped_bit_in_the_header_is_always_seen(sent: Fields, data: st.DataObject) -> None:
    damaged = bytearray(wire(sent))
    bit = data.draw(st.integers(0, HEADER_SIZE * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    for cut in (0, 10, HEADER_SIZE):
        parser = FrameParser()
        assert feed(parser, [wire(EXAMPLES[0]), *pieces(bytes(damaged), [cut])]) == [EXAMPLES[0]]
        assert isinstance(parser.failed, RemoteProtocolError)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_are_parsed_or_refused(data: bytes, cuts: list[int]) -> None:
    parser = FrameParser()
    feed(parser, pieces(data, cuts))
    assert parser.failed is None or isinstance(parser.failed, RemoteProtocolError)
    if parser.failed is not None:
        assert parser.feed(wire(EXAMPLES[0])) == []
        assert parser.buffered == 0


def resealed(**changes: int | bytes) -> bytes:
    """A header whose checksum is right and a field of which is wrong."""
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "opcode": 4,
        "flags": 0,
        "length": 0,
        "correlation": 1,
        "channel": 0,
    }
    head = struct.pack("<4sBBHIII", *(values | changes).values())
    return head + struct.pack("<I", crc32c(head))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (resealed(magic=b"HTTP"), "not a Portask frame"),
        (resealed(version=1), "version 1"),
        (resealed(flags=2), "reserved frame flags"),
        (resealed(length=8193), "limit of 8,192"),
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "not a Portask frame"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_each_wrong_field_is_named(header: bytes, says: str, way: str) -> None:
    parser = FrameParser()
    assert feed(parser, WAYS[way](wire(EXAMPLES[0]) + header)) == [EXAMPLES[0]]
    assert says in str(parser.failed)


def test_a_large_announcement_costs_nothing() -> None:
    parser = FrameParser(limit=1 << 30)
    parser.feed(resealed(length=1 << 30))
    assert parser.failed is None
    assert parser.buffered == HEADER_SIZE
    parser = FrameParser(limit=100)
    parser.feed(resealed(length=101))
    assert isinstance(parser.failed, FrameTooLarge)
    assert parser.buffered == 0


def test_the_limit_may_be_raised_between_frames() -> None:
    parser = FrameParser(limit=4)
    small, large = (Opcode.PONG, 0, 1, 0, b"1234"), (Opcode.PONG, 0, 1, 0, b"12345")
    assert feed(parser, [wire(small)]) == [small]
    parser.limit = 5
    assert feed(parser, [wire(large)]) == [large]


def test_fields_are_read_from_the_frame() -> None:
    (frame,) = FrameParser().feed(wire(EXAMPLES[2]))
    assert fields(frame) == EXAMPLES[2]
