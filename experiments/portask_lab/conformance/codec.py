"""What every codec must keep to: each message comes back as it was, and bad bytes are refused, whatever they are.

Codecs of wire id 1 are also held to their format (`codec_cbor`), and those that stream to streaming
(`codec_streaming`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from portask import registry
from portask.errors import CodecError
from portask.messages import Message
from portask.registry import Entry
from portask_lab.conformance import codec_cbor, codec_streaming
from portask_lab.conformance.codec_support import (
    BASE,
    SLACK,
    decoded,
    expected,
    make,
    peak_memory,
    require_refusal,
    require_round_trip,
    require_survival,
    shapes,
    small_batch,
)
from portask_lab.conformance.suite import Check, NotApplicable, Violation, check, require

GENERAL: list[Check] = []


@check(GENERAL)
def names_its_wire_format(entry: Entry) -> None:
    """``wire_id`` is a number from 1 to 255: one byte of the batch header."""
    wire_id = make(entry).wire_id
    require(type(wire_id) is int and 0 < wire_id < 256, f"wire_id is {wire_id!r}")


@check(GENERAL)
def round_trip_of_every_shape(entry: Entry) -> None:
    """Payload, key, headers, their order, and the absolute timestamp come back; 0 and {} as the contract says."""
    codec = make(entry)
    require_round_trip(codec, shapes(), "all shapes in one batch")
    for message in shapes():
        require_round_trip(codec, [message], "a batch of one")
    require(not bytes(codec.encode([], BASE)), "no messages gave bytes")
    require(not list(codec.decode(b"", 0, BASE)), "no bytes gave messages")


@check(GENERAL)
def round_trip_of_every_size(entry: Entry) -> None:
    """Payload lengths, deltas and batch sizes around every boundary of the length encodings come back."""
    codec = make(entry)
    edges = (
        0,
        1,
        15,
        16,
        17,
        22,
        23,
        24,
        25,
        31,
        32,
        33,
        254,
        255,
        256,
        257,
        4095,
        4096,
        65_534,
        65_535,
        65_536,
    )
    require_round_trip(codec, [Message(bytes(size), timestamp=BASE + 1) for size in edges], "payload sizes")
    for delta in (
        0,
        10,
        100,
        1_000,
        100_000,
        -10,
    ):  # a record's head changes with each, and the fast paths with it
        sized = [Message(b"%%%dd" % size % delta if size else b"", timestamp=BASE + delta) for size in edges]
        require_round_trip(codec, sized, f"payload sizes after a delta of {delta}")
    widths = (0, 4, 5, 7, 8, 12, 15, 16, 31, 32, 40, 62)
    deltas = [sign * ((1 << width) + step) for width in widths for step in (-1, 0, 1) for sign in (1, -1)]
    require_round_trip(codec, [Message(b"x", timestamp=BASE + delta) for delta in deltas], "deltas")
    for count in (1, 15, 16, 23, 24, 255, 256, 65_535, 65_536):
        messages = [Message(b"n")] * count
        body = codec.encode(messages, BASE)
        require(decoded(codec, body, count)[-1].payload == b"n", f"a batch of {count} lost its end")


@check(GENERAL)
def takes_and_gives_buffers(entry: Entry) -> None:
    """Payloads may be any bytes-like object, bodies too, and what was decoded outlives the body."""
    codec = make(entry)
    loose: list[Any] = [bytearray(b"bytearray"), memoryview(b"xviewx")[1:5], memoryview(b"a-b-c-")[::2]]
    found = decoded(codec, codec.encode([Message(payload, timestamp=BASE) for payload in loose], BASE), 3)
    want = [b"bytearray", b"view", b"abc"]
    require([m.payload for m in found] == want, f"bytes-like payloads came back as {found!r}")
    messages, body = small_batch(codec)
    for buffer in (bytearray(body), memoryview(bytearray(body)), memoryview(b"__" + body)[2:]):
        require(
            decoded(codec, buffer, 3) == messages, f"a {type(buffer).__name__} decodes differently from bytes"
        )
    reused = bytearray(body)
    for buffer in (reused, memoryview(reused), memoryview(reused).toreadonly()):
        reused[:] = body
        unseen = codec.decode(buffer, 3, BASE)
        reused[:] = bytes(len(reused))
        require(
            list(unseen) == messages,
            "messages changed when the body was overwritten: payloads must be copies",
        )


@check(GENERAL)
def gives_a_sequence(entry: Entry) -> None:
    """What decode returns can be indexed, sliced and gone through, again and again, whenever its messages are made."""
    codec = make(entry)
    messages = shapes()
    want = [expected(message) for message in messages]
    count = len(messages)
    found = codec.decode(bytes(codec.encode(messages, BASE)), count, BASE)
    require(isinstance(found, Sequence), f"decode gave a {type(found).__name__}, which is no Sequence")
    require(list(found) == want and list(found) == want, "going through it twice gives different messages")
    for index in range(-count, count):
        require(found[index] == want[index], f"message {index} is {found[index]!r:.200}")
    for index in (count, -count - 1):
        try:
            found[index]
        except IndexError:
            continue
        raise Violation(f"there are {count} messages, and [{index}] is no IndexError")
    edges = (None, 0, 1, 3, count - 1, count, count + 1, -1, -2, -count)
    for part in (slice(a, b, step) for a in edges for b in edges for step in (None, 2, -1)):
        found_part = found[part]
        require(
            len(found_part) == len(want[part]) and list(found_part) == want[part],
            f"[{part}] gives {list(found_part)!r:.200}",
        )
    require(list(found[2:9][1:4]) == want[3:6], "a slice of a slice gives other messages")
    require(want[3] in found and found.index(want[3]) == 3, "a message that is there is not found")
    require(list(reversed(found)) == want[::-1], "backwards it gives other messages")


@check(GENERAL)
def refuses_other_types(entry: Entry) -> None:
    """A field of a type that the wire does not carry is a CodecError that names the field and the message."""
    codec = make(entry)
    wrong: dict[str, list[Any]] = {
        "payload": ["text", None, 5, [1]],
        "key": ["text", 7],
        "headers": [
            ["a"],
            0,
            {"a": 1},
            {1: "a"},
            {"a": None},
            {"a": {"b": "c"}},
            {"a": "\ud800"},
            {"\udfff": "a"},
        ],
        "timestamp": [1.5, 0.0, "0", None, BASE + 2**64, BASE - 2**64 - 1],
    }
    good = Message(b"good", timestamp=BASE)
    for field, values in wrong.items():
        for value in values:
            bad = Message(**{"payload": b"x", "timestamp": BASE + 1, field: value})
            try:
                codec.encode([good, good, bad, good], BASE)
            except CodecError as error:
                before, named, _ = str(error).partition(field)
                require(named, f"{value!r} as {field}: the error does not name the field: {error}")
                require("2" in before, f"{value!r} as {field}: the error does not say which message: {error}")
            else:
                raise Violation(f"{value!r} was encoded as {field}")


@check(GENERAL)
def areas_can_be_joined(entry: Entry) -> None:
    """Two record areas with one base, end to end, are the area of both batches: storages join them undecoded."""
    codec = make(entry)
    first, second = shapes()[:7], shapes()[7:]
    joined = bytes(codec.encode(first, BASE)) + bytes(codec.encode(second, BASE))
    require(
        joined == bytes(codec.encode(first + second, BASE)),
        "joined areas differ from the area of the joined batch",
    )
    require(
        decoded(codec, joined, len(first) + len(second))[-1] == expected(second[-1]),
        "joined areas do not decode",
    )


@check(GENERAL)
def variants_read_each_other(entry: Entry) -> None:
    """Every other available variant with the same wire id decodes what this one encodes, and the other way round."""
    codec = make(entry)
    others = [other for other in registry.entries("codec") if other != entry and other.unavailable() is None]
    peers = {other.name: made for other in others if (made := make(other)).wire_id == codec.wire_id}
    if not peers:
        raise NotApplicable(f"no other codec here has wire id {codec.wire_id}")
    messages = shapes()
    want = [expected(message) for message in messages]
    for name, peer in peers.items():
        mine, theirs = codec.encode(messages, BASE), peer.encode(messages, BASE)
        require(decoded(peer, mine, len(messages)) == want, f"{name} reads other messages than were written")
        require(decoded(codec, theirs, len(messages)) == want, f"reads other messages than {name} wrote")


@check(GENERAL)
def refuses_truncated_bytes(entry: Entry) -> None:
    """A body cut at any byte is a CodecError with a position."""
    codec = make(entry)
    _, body = small_batch(codec)
    for end in range(len(body)):
        require_refusal(codec, body[:end], 3, f"cut at {end} of {len(body)}")
    large = bytes(
        codec.encode([Message(bytes(size), timestamp=BASE + 500) for size in (64, 300, 64, 70_000)], BASE)
    )
    for end in (*range(450), len(large) - 1):
        require_refusal(codec, large[:end], 4, f"cut at {end} of {len(large)}")


@check(GENERAL)
def survives_flipped_bits(entry: Entry) -> None:
    """A body with any one bit flipped is refused, or is a body of other valid messages."""
    codec = make(entry)
    _, body = small_batch(codec)
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        require_survival(codec, bytes(flipped), 3)


@check(GENERAL)
def survives_noise(entry: Entry) -> None:
    """Random bytes, and valid bytes with random damage, are refused or decoded; nothing else happens."""
    codec = make(entry)
    chance = random.Random(8949)
    _, body = small_batch(codec)
    for _ in range(1500):
        require_survival(codec, chance.randbytes(chance.randrange(40)), chance.randrange(4))
        damaged = bytearray(body)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        require_survival(codec, bytes(damaged), 3)


@check(GENERAL)
def refuses_what_follows(entry: Entry) -> None:
    """Bytes after the last record, whatever they are, are a CodecError."""
    codec = make(entry)
    _, body = small_batch(codec)
    for value in range(256):
        require_refusal(codec, body + bytes((value,)), 3, f"one more byte, {value:#04x}")
    require_refusal(codec, body + body, 3, "the same again")
    require_refusal(codec, b"\x00", 0, "a byte where no record is")


@check(GENERAL)
def refuses_a_wrong_count(entry: Entry) -> None:
    """A count that does not fit the body is a CodecError, found before memory is taken for it."""
    codec = make(entry)
    _, body = small_batch(codec)
    for count in (-1, 0, 1, 2, 4, 5, 100, 2**16, 2**31, 2**32 - 1, 2**63):
        refused = partial(require_refusal, codec, body, count, f"count {count} for 3 records")
        taken = peak_memory(refused)
        require(taken < SLACK, f"count {count} for {len(body)} bytes took {taken} bytes of memory")


@check(GENERAL)
def holds_no_state(entry: Entry) -> None:
    """After any error the same instance works on as before."""
    codec = make(entry)
    messages, body = small_batch(codec)
    require_refusal(codec, body[:-1], 3, "cut")
    with suppress(CodecError):
        codec.encode([messages[0], Message("text")], BASE)  # type: ignore[arg-type]
    require(bytes(codec.encode(messages, BASE)) == body, "encodes differently after an error")
    require(decoded(codec, body, 3) == messages, "decodes differently after an error")


SUITE = [*GENERAL, *codec_cbor.SUITE, *codec_streaming.SUITE]
