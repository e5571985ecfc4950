"""Streaming: the same record in pieces, however it is cut, and no more memory than a chunk."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask import registry
from portask.errors import CodecError
from portask.messages import Message
from portask.reference import streaming
from portask.reference.streaming import HEAD_LIMIT, RecordDecoder
from tests.codec.shapes import BASE, RELAXED, damaged, expected, messages, record_forms

REFERENCE = registry.get("codec", "cbor2").make()


def fed(record: bytes, cuts: list[int]) -> Message | None:
    """The message put together from pieces, ``None`` while it is incomplete."""
    decoder = RecordDecoder(BASE)
    edges = [0, *sorted(cuts), len(record)]
    payload = b""
    for start, end in pairwise(edges):
        payload += b"".join(decoder.feed(record[start:end]))
    if not decoder.done:
        return None
    head = decoder.message
    assert head is not None
    return Message(payload, head.key, head.headers, head.timestamp)


@settings(RELAXED, max_examples=100)
@given(
    data=st.data(),
    message=messages,
    chunks=st.lists(st.binary(max_size=40) | st.just(bytes(300)), max_size=5),
)
def test_streamed_records_are_records(data: st.DataObject, message: Message, chunks: list[bytes]) -> None:
    head = Message(b"", message.key, message.headers, message.timestamp)
    record = b"".join(streaming.encode(head, chunks, BASE))
    want = expected(Message(b"".join(chunks), message.key, message.headers, message.timestamp))
    assert REFERENCE.decode(record, 1, BASE) == [want]
    assert fed(record, data.draw(st.lists(st.integers(0, len(record)), max_size=6))) == want


@settings(RELAXED, max_examples=150)
@given(data=st.data(), message=messages)
def test_stream_and_batch_decoder_agree_on_damage(data: st.DataObject, message: Message) -> None:
    record = data.draw(damaged(data.draw(record_forms(message))))
    try:
        want = REFERENCE.decode(record, 1, BASE)[0]
    except CodecError:
        want = None
    try:
        found = fed(record, data.draw(st.lists(st.integers(0, len(record)), max_size=4)))
    except CodecError:
        found = None
    assert found == want


@given(data=st.binary(max_size=60))
@settings(RELAXED, max_examples=150)
def test_any_bytes_are_pieces_or_a_codec_error(data: bytes) -> None:
    decoder = RecordDecoder(BASE)
    try:
        for byte in data:
            list(decoder.feed(bytes((byte,))))
    except CodecError:
        with pytest.raises(CodecError, match="byte "):
            decoder.feed(b"")


def test_positions_count_from_the_first_byte_of_the_record() -> None:
    decoder = RecordDecoder(BASE)
    decoder.feed(b"\x84\x00")
    decoder.feed(b"\xf6")
    with pytest.raises(CodecError, match=r"^byte 3: the headers is a text string, not a map$"):
        decoder.feed(b"\x60")


@pytest.mark.parametrize(
    "opening",
    [
        b"\x84\x00\x5a\xff\xff\xff\xff",
        b"\x84\x00\xf6\xba\xff\xff\xff\xff",
        b"\x84\x00\xf6\xa1\x7a\xff\xff\xff\xff",
    ],
)
def test_a_giant_head_is_refused_before_it_arrives(opening: bytes) -> None:
    with pytest.raises(CodecError, match="may have"):
        RecordDecoder(BASE).feed(opening)


def test_a_giant_head_in_small_chunks_is_refused() -> None:
    decoder = RecordDecoder(BASE)
    decoder.feed(b"\x84\x00\x5f")
    chunk = b"\x59\x10\x00" + bytes(4096)
    for _ in range(HEAD_LIMIT // len(chunk)):
        decoder.feed(chunk)
    with pytest.raises(CodecError, match="may have"):
        decoder.feed(chunk)


def test_a_chunk_of_another_type_is_refused_when_its_turn_comes() -> None:
    pieces = streaming.encode(Message(b""), [b"first", "text"], BASE)  # type: ignore[list-item]
    assert next(pieces).endswith(b"\x5f")
    assert next(pieces) + next(pieces) == b"\x45first"
    with pytest.raises(CodecError, match="chunk 1 is str"):
        next(pieces)
