"""The compiled helpers and their twins in Python make the same of any bytes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from portask.errors import BatchError
from portask.messages import RecordBatch
from portask.wire import batches, frames
from portask.wire.frames import REPLY, WINDOW, Frame, frame_header
from tests.codec.shapes import RELAXED
from tests.wire.feeding import FRAMES, Fields, fields, wire
from tests.wire.test_batches import BATCHES


@pytest.fixture(scope="module", autouse=True)
def only_python() -> Iterator[None]:
    """What stands in `portask.wire` does its work alone here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("portask.wire.accelerate.helper", lambda name: None)
        yield


def damaged(data: st.DataObject, stream: bytes) -> bytes:
    changed = bytearray(stream)
    for at in data.draw(st.lists(st.integers(0, max(0, len(stream) - 1)), max_size=2)):
        changed[at : at + 1] = data.draw(st.binary(max_size=2))
    return bytes(changed)


@RELAXED
@given(
    sent=st.lists(
        FRAMES | st.tuples(st.just(34), st.just(WINDOW), st.just(0), st.just(1), st.binary(max_size=40)),
        max_size=5,
    ),
    tail=st.binary(max_size=60),
    start=st.integers(0, 30),
    limit=st.sampled_from([0, 10, 16, 80, 2**32 - 1, 2**40]),
    data=st.data(),
)
def test_frames(sent: list[Fields], tail: bytes, start: int, limit: int, data: st.DataObject) -> None:
    from portask_native import _native

    flags = data.draw(st.sampled_from([0, REPLY, REPLY | WINDOW]))
    stream = memoryview(damaged(data, bytes(start) + b"".join(map(wire, sent)) + tail))
    start = min(start, len(stream))
    found: list[Frame] = []
    wanted: list[Frame] = []
    stop = _native.scan_frames(stream, start, limit, flags, found)
    assert stop == frames.scan_frames(stream, start, limit, flags, wanted)
    assert [fields(frame) for frame in found] == [fields(frame) for frame in wanted]
    for frame in found:
        assert frame.batch is None or (frame.opcode == 17 and frame.batch == batches.parse(frame.body))


def twin(parse: Any, data: Any, limit: int) -> Any:
    try:
        return parse(data, limit)
    except BatchError:
        return None


@RELAXED
@given(
    made=st.lists(BATCHES, max_size=3),
    tail=st.binary(max_size=3),
    limit=st.sampled_from([0, 10, 60, 2**32 - 1, 2**40]),
    data=st.data(),
)
def test_batches(made: list[dict[str, Any]], tail: bytes, limit: int, data: st.DataObject) -> None:
    from portask_native import _native

    area = memoryview(damaged(data, b"".join(batches.build(**batch) for batch in made) + tail))
    assert _native.split_batches(area, limit) == twin(batches.split, area, limit)
    for kind in (bytes, bytearray, memoryview):
        alone = kind(area)
        found = _native.parse_batch(alone, limit)
        assert found == twin(batches.parse, alone, limit)
        assert found is None or found.data is alone


@RELAXED
@given(
    batch=BATCHES, at=st.integers(24, 63), value=st.integers(0, 255), limit=st.sampled_from([60, 2**32 - 1])
)
def test_header_fields_behind_a_right_checksum(
    batch: dict[str, Any], at: int, value: int, limit: int
) -> None:
    from portask_native import _native

    changed = bytearray(batches.build(**batch))
    changed[at] = value
    changed[20:24] = crc32c(changed[24:]).to_bytes(4, "little")
    assert _native.parse_batch(changed, limit) == twin(batches.parse, changed, limit)


def test_other_objects_are_type_errors() -> None:
    from portask_native import _native

    nothing: Any = None
    for call in (
        lambda: _native.parse_batch(nothing, 1),
        lambda: _native.split_batches(nothing, 1),
        lambda: _native.scan_frames(nothing, 0, 1, 0, []),
        lambda: _native.scan_frames(memoryview(b""), 0, 1, 0, nothing),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(BufferError):
        _native.parse_batch(memoryview(bytes(200))[::2], 1)
    assert _native.scan_frames(memoryview(b"abc"), 5, 1, 0, []) == (5, 0)


def test_references_are_given_back() -> None:
    from portask_native import _native

    batch = bytes(batches.build(b"record", 1, codec=1, base_timestamp=2**40))
    stream = bytes(frame_header(17, len(batch), 2**31, 2**31) + batch) * 20 + b"garbage of more than 24 bytes"
    objects = (batch, stream, None, Frame, RecordBatch)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in objects]
    for _ in range(200):
        found: list[Frame] = []
        assert _native.scan_frames(memoryview(stream), 0, 1000, REPLY, found) == (20 * (24 + len(batch)), -1)
        _native.split_batches(memoryview(batch), 100)
        _native.parse_batch(batch, 100)
        _native.parse_batch(batch[:-1], 100)
    del found
    gc.collect()
    after = [sys.getrefcount(thing) for thing in objects]
    assert [b - a for a, b in zip(before, after, strict=True) if abs(b - a) > 20] == []
