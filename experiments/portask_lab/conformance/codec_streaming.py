"""Codecs that stream: the same records, cut anywhere, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from portask.contracts import StreamingCodec
from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.registry import Entry
from portask_lab.conformance.codec_cbor import record_of
from portask_lab.conformance.codec_support import (
    BASE,
    SLACK,
    decoded,
    expected,
    made_for_streaming,
    peak_memory,
    require_refusal,
    shapes,
)
from portask_lab.conformance.suite import Check, Violation, check, require

SUITE: list[Check] = []


def _streamed(codec: StreamingCodec, message: Message, chunks: Sequence[Buffer]) -> list[bytes]:
    return list(codec.encode_stream(message, chunks, BASE))


def _feed(codec: StreamingCodec, pieces: Sequence[bytes]) -> tuple[Message | None, bytes, bool]:
    decoder = codec.stream_decoder(BASE)
    payload = b"".join(part for piece in pieces for part in decoder.feed(piece))
    return decoder.message, payload, decoder.done


@check(SUITE)
def streams_are_records(entry: Entry) -> None:
    """Streaming: what is encoded in pieces is a record like any other: `decode` reads it, next to plain ones."""
    codec, streaming = made_for_streaming(entry)
    chunks: list[Buffer] = [
        b"first ",
        bytearray(b"second "),
        b"",
        memoryview(b"third "),
        bytes(300),
        bytes(70_000),
    ]
    whole = b"".join(chunks)
    for message in shapes():
        head = Message(b"", message.key, message.headers, message.timestamp)
        body = b"".join(_streamed(streaming, head, chunks))
        want = expected(Message(whole, message.key, message.headers, message.timestamp))
        require(
            decoded(codec, body, 1) == [want], f"the streamed record of {head!r:.100} is read differently"
        )
    plain = bytes(codec.encode([Message(b"plain")], BASE))
    require(
        [m.payload for m in decoded(codec, plain + body + plain, 3)] == [b"plain", whole, b"plain"],
        "not a record",
    )
    require(
        decoded(codec, b"".join(_streamed(streaming, Message(b""), [])), 1)[0].payload == b"",
        "no chunks, no record",
    )
    if codec.wire_id == 1:
        got = b"".join(
            _streamed(streaming, Message(b"", timestamp=BASE + 1000), [b"\x01\x02", b"\x03\x04\x05"])
        )
        require(
            got == record_of("1903e8", payload="5f42010243030405ff"),
            f"not the bytes of RFC 8949 §3.2.3: {got.hex()}",
        )
    for bad in (Message(b"not empty"), Message(b"", key="text")):  # type: ignore[arg-type]
        try:
            _streamed(streaming, bad, [b"x"])
        except CodecError:
            continue
        raise Violation(f"{bad!r} was streamed")


@check(SUITE)
def streams_may_be_cut_anywhere(entry: Entry) -> None:
    """Streaming: the decoder gives the same message and payload however its input is cut."""
    codec, streaming = made_for_streaming(entry)
    head = Message(b"", b"key", {"größe": "水", "b": b"\x00"}, BASE + 70_000)
    body = b"".join(_streamed(streaming, head, [b"first", bytes(300), b"", b"third"]))
    definite = bytes(
        codec.encode(
            [Message(b"definite payload, longer than 23 bytes", b"key", head.headers, BASE - 9)], BASE
        )
    )
    for record in (body, definite):
        want = decoded(codec, record, 1)[0]
        bare = Message(b"", want.key, want.headers, want.timestamp)
        cuts = [[record[:at], record[at:]] for at in range(len(record) + 1)]
        cuts += [
            [bytes((byte,)) for byte in record],
            [part for byte in record for part in (bytes((byte,)), b"")],
        ]
        for pieces in cuts:
            found = _feed(streaming, pieces)
            require(found == (bare, want.payload, True), f"cut after {len(pieces[0])}: {found!r:.300}")
        for end in range(len(record)):
            _, payload, done = _feed(streaming, [record[:end]])
            require(not done, f"done after {end} of {len(record)} bytes")
            require(want.payload.startswith(payload), f"after {end} bytes the payload is {payload!r}")
    decoder = streaming.stream_decoder(BASE)
    seen = b"".join(decoder.feed(body[: body.index(b"first") + 2]))
    require(seen == b"fi", f"payload bytes are held back: {seen!r} of b'fi'")
    require(
        decoder.message == Message(b"", head.key, head.headers, head.timestamp),
        "the message is not known before the end",
    )


@check(SUITE)
def streams_refuse_bad_bytes(entry: Entry) -> None:
    """Streaming: bytes after the end, damage and endless heads are CodecErrors, also at the next call."""
    codec, streaming = made_for_streaming(entry)
    body = b"".join(
        _streamed(streaming, Message(b"", b"key", {"a": "b"}, BASE + 70_000), [b"first", b"second"])
    )
    for late in ([body + b"\x00"], [body, b"\x00"], [body, b"", body]):
        decoder = streaming.stream_decoder(BASE)
        _stream_refused(decoder.feed, late, "bytes after the record")
        _stream_refused(decoder.feed, [b"\x00"], "after an error")
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        try:
            message, payload, done = _feed(streaming, [bytes(flipped)])
        except CodecError:
            require_refusal(codec, flipped, 1, f"the stream decoder refused bit {bit}, decode did not")
            continue
        if done and message is not None:
            whole = Message(payload, message.key, message.headers, message.timestamp)
            require(
                decoded(codec, bytes(flipped), 1) == [whole], f"bit {bit}: stream and batch decoder differ"
            )


def _stream_refused(feed: Callable[[bytes], Iterator[bytes]], pieces: Iterable[bytes], what: str) -> None:
    try:
        for piece in pieces:
            list(feed(piece))
    except CodecError:
        return
    raise Violation(f"{what}: accepted")


@check(SUITE)
def streams_in_bounded_memory(entry: Entry) -> None:
    """Streaming: 16 MiB pass in 64 KiB chunks through less than 1 MiB, and a head without end is refused."""
    codec, streaming = made_for_streaming(entry)
    size, count = 1 << 16, 256
    pulled = 0

    def source() -> Iterator[bytes]:
        nonlocal pulled
        for _ in range(count):
            pulled += 1
            yield bytes(size)  # a new object each time: whoever keeps them, keeps 16 MiB

    def pass_through() -> None:
        decoder = streaming.stream_decoder(BASE)
        passed = 0
        for piece in streaming.encode_stream(Message(b"", b"key"), source(), BASE):
            passed += sum(len(part) for part in decoder.feed(piece))
            require(
                passed + 2 * size >= pulled * size, f"{pulled} chunks were taken and {passed} bytes came out"
            )
        require(decoder.done and passed == count * size, f"{passed} bytes of {count * size} came out")

    taken = peak_memory(pass_through)
    require(taken < SLACK, f"16 MiB in chunks of 64 KiB took {taken} bytes of memory")

    if codec.wire_id != 1:
        return  # how a head goes on for ever is known for CBOR only
    opening = record_of(key="5b0000010000000000")[:12]  # a key of 2^40 bytes
    endless = streaming.stream_decoder(BASE)

    def never_ends() -> None:
        _stream_refused(endless.feed, chain([opening], source()), "a head of 16 MiB")

    taken = peak_memory(never_ends)
    require(taken < 8 * SLACK, f"a head that never ends took {taken} bytes of memory")
