"""Any bytes are messages or a `CodecError`, and all codecs of wire id 1, batch and stream, make the same of them.

Run it for as long as you like: ``python tests/fuzz/fuzz_codec.py [-runs=N] [-max_total_time=60] [corpus folder]``.
"""

from __future__ import annotations

import sys
from inspect import isclass, isfunction
from types import ModuleType
from typing import Any

from portask import registry
from portask.contracts import Codec
from portask.errors import CodecError
from portask.messages import Message
from portask.reference import codec as cbor2_codec
from portask.reference import records, streaming
from portask.reference.codec import Cbor2Codec
from portask.reference.streaming import RecordDecoder
from portask_variants.codecs import msgspec_msgpack, struct_cbor
from portask_variants.codecs.msgspec_msgpack import MsgpackCodec
from portask_variants.codecs.struct_cbor import StructCodec

INSTRUMENTED: tuple[ModuleType, ...] = (cbor2_codec, records, streaming, msgspec_msgpack, struct_cbor)
CBOR2, STRUCT, MSGPACK = Cbor2Codec(), StructCodec(), MsgpackCodec()
# Compiled code is not instrumented: it is held to what the others make of the same bytes.
NATIVE: list[Codec] = [
    entry.make()
    for entry in registry.entries("codec")
    if "native" in entry.capabilities and entry.unavailable() is None
]
MESSAGES = [
    Message(b"plain", timestamp=300),
    Message(bytes(300), b"key", {"größe": "水", "raw": b"\x00"}, -70_000),
    Message(bytes(30), timestamp=5),
]


def outcome(codec: Codec, body: bytes, count: int) -> list[Message] | None:
    """The messages, or ``None`` for a CodecError; anything else ends the run."""
    try:
        found = list(codec.decode(body, count, 0))
    except CodecError:
        return None
    if list(codec.decode(bytes(codec.encode(found, 0)), count, 0)) != found:
        raise AssertionError(f"{type(codec).__name__} does not read what it wrote: {found!r}")
    return found


def streamed(body: bytes, cut: int) -> list[Message] | None:
    """One record through the stream decoder, in pieces of ``cut`` bytes."""
    decoder = RecordDecoder(0)
    payload = b""
    try:
        for start in range(0, len(body), cut):
            payload += b"".join(decoder.feed(body[start : start + cut]))
    except CodecError:
        return None
    head = decoder.message
    return [Message(payload, head.key, head.headers, head.timestamp)] if head and decoder.done else None


def one_input(data: bytes) -> None:
    """The first byte is the number of records, the second how the stream is cut, the rest the record area."""
    count, cut, body = data[:1], data[1:2], data[2:]
    records = count[0] % 8 if count else 1
    outcome(MSGPACK, body, records)
    want = outcome(STRUCT, body, records)
    if outcome(CBOR2, body, records) != want:
        raise AssertionError("cbor2 and struct differ")
    for native in NATIVE:
        if outcome(native, body, records) != want:
            raise AssertionError(f"struct and {type(native).__name__} differ")
    if outcome(STRUCT, body, 1) != streamed(body, cut[0] % 16 + 1 if cut else 1):
        raise AssertionError("batch and stream decoder differ")


def seeds() -> list[bytes]:
    """Valid inputs to start from: batches of both formats, and a streamed record."""
    bodies = [(len(MESSAGES), codec.encode(MESSAGES, 0)) for codec in (STRUCT, MSGPACK)]
    bodies += [(1, STRUCT.encode([message], 0)) for message in MESSAGES]
    bodies.append(
        (1, b"".join(STRUCT.encode_stream(Message(b"", b"key", {"a": "b"}), [b"first", bytes(30)], 0)))
    )
    bodies.append((1, bytes.fromhex("9f3805f6bf7f61616162ff5f417840ffff5f41615801625fff")))
    return [bytes((count, 3)) + body for count, body in bodies]


def functions(owner: Any) -> list[Any]:
    """Every function of our own in a module, methods included: what the fuzzer should watch."""
    found = []
    for value in vars(owner).values():
        if isfunction(value) and value.__module__ in {module.__name__ for module in INSTRUMENTED}:
            found.append(value)
        elif isclass(value) and isinstance(owner, ModuleType) and value.__module__ == owner.__name__:
            found += functions(value)
    return found


if __name__ == "__main__":
    import atheris

    for seed in seeds():
        one_input(seed)
    for module in INSTRUMENTED:  # the whole interpreter would take half a minute
        for function in functions(module):
            atheris.instrument_func(function)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
