"""What the conformance suite cannot know of: how the native codec reads messages, and where it leaves Rust."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask import registry
from portask.contracts import Codec
from portask.errors import CodecError
from portask.messages import Buffer, Message
from tests.codec.shapes import BASE, RELAXED, batches, expected, messages, record_forms

REFERENCE: Codec = registry.get("codec", "cbor2").make()


@pytest.fixture(scope="module", params=["native", "native-lazy"])
def native(request: pytest.FixtureRequest) -> Codec:
    codec: Codec = registry.get("codec", request.param).make()
    return codec


def test_messages_are_read_where_their_fields_lie() -> None:
    """If this fails, msgspec lays its structs out in another way: the codec works on, at a fraction of its speed."""
    from portask_native import _native

    assert _native.reads_fields()


@RELAXED
@given(batch=batches, tail=st.lists(st.just(Message(bytes(5000), timestamp=BASE)), max_size=3))
def test_large_payloads_are_put_in_their_place(batch: list[Message], tail: list[Message]) -> None:
    native: Codec = registry.get("codec", "native").make()
    for mixed in (batch + tail, tail + batch):
        assert native.encode(mixed, BASE) == REFERENCE.encode(mixed, BASE)


def test_any_sequence_of_messages_is_encoded(native: Codec) -> None:
    messages = [Message(b"a", timestamp=BASE), Message(b"b", timestamp=BASE + 1)]
    want = REFERENCE.encode(messages, BASE)
    assert native.encode(tuple(messages), BASE) == want
    assert native.encode(type("Messages", (list,), {})(messages), BASE) == want
    with pytest.raises(TypeError):
        native.encode(5, BASE)  # type: ignore[arg-type]


def test_messages_of_other_classes_are_encoded(native: Codec) -> None:
    class Tagged(Message, frozen=True, gc=False):
        tag: int = 0

    class Duck:
        payload, key, headers, timestamp = b"duck", b"k", {"a": "b"}, BASE + 9

    strange: list[Any] = [Tagged(b"payload", timestamp=BASE + 1, tag=3), Duck()]
    plain = [Message(b"payload", timestamp=BASE + 1), Message(b"duck", b"k", {"a": "b"}, BASE + 9)]
    assert native.encode(strange, BASE) == REFERENCE.encode(plain, BASE)
    with pytest.raises(AttributeError):
        native.encode([object()], BASE)  # type: ignore[list-item]


class Meddling(Mapping[str, str]):
    """Headers whose reading changes the very list that is encoded, and encodes something itself."""

    def __init__(self, messages: list[Message], codec: Codec) -> None:
        self.messages, self.codec = messages, codec

    def __getitem__(self, name: str) -> str:
        self.messages.clear()
        gc.collect()
        self.codec.encode([Message(bytes(3000)), Message(bytes(6000))], BASE)
        return "value"

    def __iter__(self) -> Iterator[str]:
        return iter(("name",))

    def __len__(self) -> int:
        return 1


def test_code_that_runs_in_between_may_do_what_it_likes(native: Codec) -> None:
    messages: list[Message] = []
    large = bytes(range(256)) * 20
    messages += [
        Message(large, timestamp=BASE),
        Message(b"x", headers=Meddling(messages, native)),
        Message(b"gone"),
    ]
    want = [Message(large, timestamp=BASE), Message(b"x", headers={"name": "value"})]
    assert native.encode(messages, BASE) == REFERENCE.encode(want, BASE)


@pytest.mark.parametrize("base", [0, -1, 2**63 - 1, -(2**63), 2**63, 2**70, -(2**70)])
def test_any_base_is_a_base(native: Codec, base: int) -> None:
    messages = [
        Message(b"p", timestamp=base + delta) for delta in (1, -1, 2**64 - 1, -(2**64)) if base + delta
    ]
    body = native.encode(messages, base)
    assert body == REFERENCE.encode(messages, base)
    assert list(native.decode(body, len(messages), base)) == messages


def test_a_base_or_a_count_of_another_type_is_a_type_error(native: Codec) -> None:
    body = REFERENCE.encode([Message(b"")], BASE)
    strange: list[tuple[Any, Any, Any]] = [(body, "1", BASE), (body, 1, "0"), ("text", 1, BASE)]
    for arguments in strange:
        with pytest.raises(TypeError):
            native.decode(*arguments)
    (message,) = native.decode(body, 1, True)
    assert type(message.timestamp) is int


WRAPS: list[Callable[[Buffer], Buffer]] = [
    bytes,
    bytearray,
    memoryview,
    lambda data: memoryview(bytearray(data)).toreadonly(),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_references_are_given_back(native: Codec, wrap: Callable[[Buffer], Buffer]) -> None:
    key, value, payload = b"a key of its own", b"a value of its own", b"a payload" * 1000
    messages = [
        Message(payload, key, {"n": value}, BASE + 1),
        Message(memoryview(payload), key, MappingProxyType({"n": value}), BASE + 2),  # type: ignore[arg-type]
    ] * 10
    body = wrap(native.encode(messages, BASE))
    objects = (key, value, payload, body, messages[0], messages[1], None, CodecError, Message)
    before = [sys.getrefcount(thing) for thing in objects]
    for _ in range(50):
        native.encode(messages, BASE)
        native.decode(body, 20, BASE)
        for bad in (body[:-1], bytes(body) + b"\0"):
            with pytest.raises(CodecError):
                native.decode(bad, 20, BASE)
        with pytest.raises(CodecError):
            native.encode([*messages, Message("text")], BASE)  # type: ignore[arg-type]
    del bad
    after = [sys.getrefcount(thing) for thing in objects]
    assert [b - a for a, b in zip(before, after, strict=True) if abs(b - a) > 20] == []


def test_equal_timestamps_are_one_object() -> None:
    body = REFERENCE.encode([Message(b"x", timestamp=BASE + 700)] * 3, BASE)
    first, _, last = registry.get("codec", "native").make().decode(body, 3, BASE)
    assert first.timestamp is last.timestamp


# ── lazily ────────────────────────────────────────────────────────────────────────────────────────────────────


LAZY = registry.get("codec", "native-lazy")


@RELAXED
@given(data=st.data(), batch=st.lists(messages, min_size=1, max_size=4))
def test_views_are_payloads_of_the_same_bytes(data: st.DataObject, batch: list[Message]) -> None:
    """However the record was written: in chunks, too, which lie in no one place."""
    body = b"".join(data.draw(record_forms(message)) for message in batch)
    for buffer in (body, memoryview(b"##" + body)[2:], bytearray(body)):
        found = LAZY.make(views=True).decode(buffer, len(batch), BASE)
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))
        assert [(bytes(m.payload), m.key, m.headers, m.timestamp) for m in found] == [
            (m.payload, m.key, m.headers, m.timestamp) for m in map(expected, batch)
        ]
        assert all(type(m.payload) is memoryview and m.payload.readonly for m in found)


def test_a_view_is_no_copy_and_keeps_the_area_alive() -> None:
    body = REFERENCE.encode([Message(bytes(9000)), Message(b"x" * 9000)], BASE)
    payload = LAZY.make(views=True).decode(body, 2, BASE)[1].payload
    assert payload.obj is body
    del body
    gc.collect()
    assert payload == b"x" * 9000


def test_a_small_part_of_a_large_buffer_is_copied() -> None:
    """A hundred bytes must not keep a receive buffer of a quarter of a megabyte alive."""
    body = bytes(REFERENCE.encode([Message(b"payload")], BASE))
    for size, copied in ((1000, True), (2, False)):
        whole = bytes(size) + body
        part = memoryview(whole)[size:]
        before = sys.getrefcount(whole)
        found = LAZY.make().decode(part, 1, BASE)
        assert (sys.getrefcount(whole) == before) is copied
        part.release()  # nothing is exported
        assert found[0].payload == b"payload"


def test_lazy_messages_compare_as_lists_do() -> None:
    codec = LAZY.make()
    body = REFERENCE.encode([Message(b"a"), Message(b"b")], BASE)
    found = codec.decode(body, 2, BASE)
    assert (
        found
        == codec.decode(bytearray(body), 2, BASE)
        == [Message(b"a", timestamp=BASE), Message(b"b", timestamp=BASE)]
    )
    assert found != found[:1]
    assert found != "ab"
    assert found.count(Message(b"a", timestamp=BASE)) == 1
    assert repr(found) == "<2 messages, decoded when looked at>"
    with pytest.raises(TypeError):
        hash(found)
    with pytest.raises(TypeError):
        found["0"]
    with pytest.raises(ValueError, match="not in list"):
        found.index(Message(b"c"))
