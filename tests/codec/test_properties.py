"""Whatever the messages, they come back; whatever the bytes, all codecs of wire id 1 make the same of them."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask import registry
from portask.contracts import Codec
from portask.errors import CodecError
from portask.messages import Message
from portask.registry import Entry
from tests.codec.shapes import BASE, RELAXED, batches, damaged, expected, messages, record_forms

REFERENCE: Codec = registry.get("codec", "cbor2").make()
ENTRIES = registry.entries("codec")
CBOR = [
    entry for entry in ENTRIES if entry.unavailable() is None and entry.make().wire_id == REFERENCE.wire_id
]


def available(entry: Entry) -> Codec:
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    codec: Codec = entry.make()
    return codec


def outcome(codec: Codec, body: bytes, count: int) -> list[Message] | None:
    """The messages, or None for a CodecError that says where; anything else escapes."""
    try:
        return list(codec.decode(body, count, BASE))
    except CodecError as error:
        if "byte " not in str(error):
            raise
        return None


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@settings(RELAXED, max_examples=60)
@given(batch=batches)
def test_messages_come_back(entry: Entry, batch: list[Message]) -> None:
    codec = available(entry)
    body = bytes(codec.encode(batch, BASE))
    assert list(codec.decode(body, len(batch), BASE)) == [expected(message) for message in batch]


@settings(RELAXED, max_examples=80)
@given(batch=batches)
def test_all_write_the_same_bytes(batch: list[Message]) -> None:
    want = bytes(REFERENCE.encode(batch, BASE))
    for entry in CBOR:
        assert bytes(entry.make().encode(batch, BASE)) == want, entry.name


@settings(RELAXED, max_examples=100)
@given(data=st.data(), batch=st.lists(messages, min_size=1, max_size=3))
def test_every_well_formed_form_is_read(data: st.DataObject, batch: list[Message]) -> None:
    body = b"".join(data.draw(record_forms(message)) for message in batch)
    for entry in CBOR:
        found = list(entry.make().decode(body, len(batch), BASE))
        assert found == [expected(message) for message in batch], entry.name


@settings(RELAXED, max_examples=200)
@given(data=st.data(), batch=st.lists(messages, min_size=1, max_size=3))
def test_all_make_the_same_of_damaged_bytes(data: st.DataObject, batch: list[Message]) -> None:
    whole = b"".join(data.draw(record_forms(message)) for message in batch)
    body = data.draw(damaged(whole))
    want = outcome(REFERENCE, body, len(batch))
    for entry in CBOR:
        assert outcome(entry.make(), body, len(batch)) == want, entry.name


ITEMS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False)
    | st.binary(max_size=9)
    | st.text(max_size=5)
    | st.builds(cbor2.CBORTag, st.sampled_from([1, 4, 28, 29, 30, 35, 256, 258, 55799]), st.integers(0, 3)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(RELAXED, max_examples=150)
@given(records=st.lists(st.lists(ITEMS, min_size=3, max_size=5) | ITEMS, min_size=1, max_size=2))
def test_all_make_the_same_of_other_cbor(records: list[Any]) -> None:
    body = b"".join(cbor2.dumps(record) for record in records)
    want = outcome(REFERENCE, body, len(records))
    for entry in CBOR:
        assert outcome(entry.make(), body, len(records)) == want, entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@settings(RELAXED, max_examples=150)
@given(body=st.binary(max_size=60), count=st.integers(-1, 5))
def test_any_bytes_are_messages_or_a_codec_error(entry: Entry, body: bytes, count: int) -> None:
    found = outcome(available(entry), body, count)
    assert found is None or len(found) == count


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@settings(RELAXED, max_examples=100)
@given(data=st.data(), batch=st.lists(messages, min_size=1, max_size=3))
def test_damaged_bytes_are_messages_or_a_codec_error(
    entry: Entry, data: st.DataObject, batch: list[Message]
) -> None:
    codec = available(entry)
    found = outcome(codec, data.draw(damaged(bytes(codec.encode(batch, BASE)))), len(batch))
    if found is not None:  # what was read can be written, and is read the same again
        again = [Message(m.payload, m.key, m.headers, m.timestamp) for m in found if m.timestamp]
        body = bytes(codec.encode(again, BASE))
        assert list(codec.decode(body, len(again), BASE)) == again
