"""What a person reads when a message or the bytes are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from portask import registry
from portask.contracts import Codec, StreamingCodec
from portask.errors import CodecError
from portask.messages import Message

BASE = 1_700_000_000_000_000
CBOR2: Codec = registry.get("codec", "cbor2").make()
STRUCT: Codec = registry.get("codec", "struct").make()
MSGPACK: Codec = registry.get("codec", "msgspec-msgpack").make()
NATIVE = [entry.make() for entry in registry.entries("codec") if "native" in entry.capabilities]
GOOD = b"\x84\x00\xf6\xf6\x41a"


@pytest.mark.parametrize("codec", [CBOR2, STRUCT, MSGPACK, *NATIVE])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"payload": "text"}, r"^message 1: payload is str, which no record can carry: pass bytes"),
        ({"key": 5}, r"^message 1: key is int, .*: pass bytes or None$"),
        ({"headers": {"retries": 3}}, r"^message 1: headers\['retries'\] is int, .*: pass str or bytes$"),
        ({"headers": {"a": "\ud800"}}, r"^message 1: headers\['a'\] holds a lone surrogate"),
        ({"timestamp": 1.7e9}, r"^message 1: timestamp is float, .*: pass an int, µs since the epoch$"),
        ({"timestamp": 2**70}, r"^message 1: timestamp is \d+ µs from the batch's base"),
    ],
)
def test_a_wrong_field_is_named_with_its_message(codec: Codec, fields: dict[str, Any], text: str) -> None:
    batch = [Message(b"good"), Message(**{"payload": b"", **fields})]
    with pytest.raises(CodecError, match=text):
        codec.encode(batch, BASE)


@pytest.mark.parametrize("codec", [STRUCT, *NATIVE])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (GOOD + b"\x84\x00\xf6\xf6\x42b", r"^byte 10: the payload has 2 bytes, the data ends at byte 12$"),
        (GOOD + b"\x84\x1a\x00\x00", r"^byte 10: the data ends inside a record$"),
        (GOOD + b"\x84\x40\xf6\xf6\x40", r"^byte 7: the timestamp delta is a byte string, not an integer$"),
        (
            GOOD + b"\x84\x00\xf6\xa1\x01\x60\x40",
            r"^byte 10: a header's name is an integer, not a text string$",
        ),
        (GOOD + b"\x9f\x00\xf6\xf6\x40\x00", r"^byte 11: the record's array goes on after its fourth item$"),
        (GOOD + b"\x85\x00\xf6\xf6\x40", r"^byte 6: the record is an array of 5 items, not of four$"),
        (GOOD + b"\x84\x1c\xf6\xf6\x40", r"^byte 7: additional information 28 is reserved$"),
        (GOOD + b"\x84\x1f\xf6\xf6\x40", r"^byte 7: an integer has no indefinite length$"),
        (
            GOOD + b"\x84\x00\xf6\xf6\x5f\x5f\xff\xff",
            r"^byte 11: a chunk of the payload has no length of its own$",
        ),
        (GOOD + b"\x84\x00\xf6\xa1\x61\xff\x40\x40", r"^byte 10: .* is not UTF-8"),
    ],
)
def test_a_record_is_refused_where_it_is_wrong(codec: Codec, body: bytes, text: str) -> None:
    with pytest.raises(CodecError, match=text):
        codec.decode(body, 2, BASE)


@pytest.mark.parametrize(
    ("codec", "body", "text"),
    [
        (
            STRUCT,
            GOOD + b"\x84\x00\xf6\xf6\x58\x30" + bytes(40),
            r"^byte 6: the payload of this record ends at byte 60, the data at byte 52$",
        ),
        (STRUCT, GOOD * 3, r"^byte 18: the data ends after 3 records, and 2 were announced$"),
        *(
            (native, body, text)
            for native in NATIVE
            for body, text in (
                (
                    GOOD + b"\x84\x00\xf6\xf6\x58\x30" + bytes(40),
                    r"^byte 10: the payload has 48 bytes, the data ends at byte 52$",
                ),
                (GOOD * 3, r"^byte 12: 6 bytes after the last of 2 records$"),
                (
                    GOOD[:4] + b"\x46" + GOOD,
                    r"^byte 11: the data ends after 1 records, and 2 were announced$",
                ),
            )
        ),
    ],
)
def test_a_wrong_length_is_named(codec: Codec, body: bytes, text: str) -> None:
    with pytest.raises(CodecError, match=text):
        codec.decode(body, 2, BASE)


@pytest.mark.parametrize(
    ("codec", "good", "bad"),
    [
        (CBOR2, GOOD, b"\x84\x00\xf6\xf6\xf5\xf6"),
        (CBOR2, GOOD, b"\x84\x00\xf6\xf6\x45b"),
        (CBOR2, GOOD, b"\x85\x00\xf6\xf6\x40\x40"),
        (MSGPACK, b"\x94\x00\xc0\xc0\xc4\x00", b"\x94\x00\xc0\xc0\xa1a"),
        (MSGPACK, b"\x94\x00\xc0\xc0\xc4\x00", b"\x94\x00\xc0\x81\xa1a\x01\xc4\x00"),
        (MSGPACK, b"\x94\x00\xc0\xc0\xc4\x00", b"\x94\x00\xc0\x81\xa1\xff\xa0\xc4\x00"),
        (MSGPACK, b"\x94\x00\xc0\xc0\xc4\x00", b"\x94\x00\xc0\xc0\xc4\x05a"),
    ],
)
def test_library_backed_codecs_say_which_record(codec: Codec, good: bytes, bad: bytes) -> None:
    with pytest.raises(CodecError, match=rf"^record 2, which begins at byte {2 * len(good)}: "):
        codec.decode(good + good + bad, 3, BASE)


@pytest.mark.parametrize("codec", [CBOR2, STRUCT, MSGPACK, *NATIVE])
def test_a_count_that_cannot_be_is_refused_at_once(codec: Codec) -> None:
    with pytest.raises(CodecError, match=r"^byte 12: .* too short for the 4294967295 records announced$"):
        codec.decode(GOOD + GOOD, 2**32 - 1, BASE)


def test_messagepack_does_not_claim_to_stream() -> None:
    assert isinstance(STRUCT, StreamingCodec)
    assert not isinstance(MSGPACK, StreamingCodec)
