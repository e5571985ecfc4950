"""What the codec checks share: messages of every shape, and the three outcomes that a body may have."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Sequence
from types import MappingProxyType

from portask.contracts import Codec, StreamingCodec
from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.registry import Entry
from portask_lab.conformance.suite import NotApplicable, Violation, require

BASE = 1_700_000_000_000_000
"""Base timestamp of all batches, µs."""
SLACK = 1 << 20
"""Bytes that a codec may allocate over what its input justifies."""


def make(entry: Entry) -> Codec:
    """An instance with the default options."""
    codec: Codec = entry.make()
    return codec


def made_for_cbor(entry: Entry) -> Codec:
    """An instance, if its bytes are CBOR."""
    codec = make(entry)
    if codec.wire_id != 1:
        raise NotApplicable(f"wire id {codec.wire_id} is not CBOR")
    return codec


def made_for_streaming(entry: Entry) -> tuple[Codec, StreamingCodec]:
    """An instance, if it streams; twice, once under each contract."""
    codec = make(entry)
    if not isinstance(codec, StreamingCodec):
        raise NotApplicable("no StreamingCodec")
    return codec, codec


def expected(message: Message, base: int = BASE) -> Message:
    """What a message is after the way there and back."""
    headers = dict(message.headers) if message.headers else None
    return Message(bytes(message.payload), message.key, headers, message.timestamp or base)


def decoded(codec: Codec, body: Buffer, count: int) -> list[Message]:
    """The decoded messages; faults must show in `decode` itself, not when a message is looked at."""
    found = codec.decode(body, count, BASE)
    require(len(found) == count, f"decode gave {len(found)} messages instead of {count}")
    return list(found)


def require_round_trip(codec: Codec, messages: Sequence[Message], what: str) -> None:
    """Encodes, decodes, and compares: values, types, and the order of headers."""
    body = bytes(codec.encode(messages, BASE))
    found = decoded(codec, body, len(messages))
    for index, (message, got) in enumerate(zip(messages, found, strict=True)):
        want = expected(message)
        require(got == want, f"{what}: message {index} came back as {got!r:.200}, not {want!r:.200}")
        require(type(got.payload) is bytes, f"{what}: payload came back as {type(got.payload).__name__}")
        if want.headers is not None and got.headers is not None:
            require(
                list(got.headers.items()) == list(want.headers.items()),
                f"{what}: headers changed their order",
            )


def require_refusal(codec: Codec, body: Buffer, count: int, what: str) -> None:
    """`decode` must raise CodecError, and its text must give a byte position."""
    try:
        found = codec.decode(body, count, BASE)
    except CodecError as error:
        require(re.search(r"\bbyte \d+", str(error)), f"{what}: the error gives no byte position: {error}")
        return
    raise Violation(f"{what}: {bytes(body[:60]).hex()} was accepted as {list(found)!r:.200}")


def require_survival(codec: Codec, body: bytes, count: int) -> None:
    """The body is refused, or decoded into messages of the right types; anything else escapes and fails the check."""
    try:
        found = codec.decode(body, count, BASE)
    except CodecError:
        return
    for message in found:
        fields = (message.payload, message.key, message.headers, message.timestamp)
        require(
            type(message.payload) is bytes and type(message.timestamp) is int, f"wrong types: {fields!r:.200}"
        )
        require(message.key is None or type(message.key) is bytes, f"a key that is no bytes: {fields!r:.200}")
        headers: list[tuple[object, object]] = [*(message.headers or {}).items()]
        for name, value in headers:
            require(
                isinstance(name, str) and isinstance(value, str | bytes), f"wrong headers: {fields!r:.200}"
            )


def peak_memory(action: Callable[[], object]) -> int:
    """Bytes that ``action`` allocated at most, as Python's allocators see it."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not already:
            tracemalloc.stop()


def shapes() -> list[Message]:
    """Every field in every state that an application may give it."""
    return [
        Message(b""),
        Message(b"plain", timestamp=BASE + 5),
        Message(b"no time"),
        Message(bytes(range(256)), key=b"", timestamp=BASE),
        Message(b"keyed", key=b"customer-17", timestamp=BASE + 1_000),
        Message(b"long key", key=bytes(300), timestamp=BASE + 70_000),
        Message(b"headers", headers={"traceparent": "00-4bf9-01", "raw": b"\x00\xff"}, timestamp=BASE + 23),
        Message(b"unicode", headers={"größe": "水", "𐅑": "", "": "emoji 🦀"}, timestamp=BASE + 24),
        Message(b"both", key=b"k", headers={"long": "x" * 70_000, "bytes": bytes(300)}, timestamp=BASE + 255),
        Message(b"no headers", headers={}, timestamp=BASE + 256),
        Message(b"order", headers={"b": "1", "a": "2", "c": b"3"}, timestamp=BASE + 65_535),
        Message(b"many headers", headers={f"name-{i}": str(i) for i in range(300)}, timestamp=BASE + 65_536),
        Message(b"view", headers=MappingProxyType({"read": "only"}), timestamp=BASE - 1),
        Message(b"earlier", timestamp=BASE - 1_000_000),
        Message(b"epoch", timestamp=1),
        Message(b"before the epoch", timestamp=-1),
        Message(b"far", timestamp=2**62),
        Message(b"farther", timestamp=-(2**62)),
    ]


def small_batch(codec: Codec) -> tuple[list[Message], bytes]:
    """Three messages of different shapes, and their bytes: small enough to damage every bit of them."""
    messages = [
        Message(b"a", timestamp=BASE + 3),
        Message(b"payload of some length", key=b"key", timestamp=BASE + 300),
        Message(b"\xff" * 30, headers={"n": "ü", "m": b"\x01"}, timestamp=BASE - 7),
    ]
    return messages, bytes(codec.encode(messages, BASE))
