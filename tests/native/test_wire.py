"""The compiled helpers and their twins in Python make the same of any bytes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from portask.contracts import COALESCE_WINDOW_US
from portask.errors import BatchError, CodecError
from portask.messages import Buffer, RecordBatch
from portask.reference.codec import Cbor2Codec
from portask.storage.gathering import gather
from portask.wire import batches, frames
from portask.wire.coalesce import Coalescer
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


# ── gathering ─────────────────────────────────────────────────────────────────────────────────────────────────

NOW = 1_700_000_000_000_000
CLOSE = st.integers(0, 3) | st.sampled_from(
    [COALESCE_WINDOW_US - 1, COALESCE_WINDOW_US, COALESCE_WINDOW_US + 1]
)
STRINGS = st.binary(max_size=40) | st.text(max_size=8).map(str.encode)
HEADERS = st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.binary(max_size=30), max_size=3)
SOUND = st.builds(
    lambda *parts: b"".join(map(cbor2.dumps, parts)), st.none() | STRINGS, st.none() | HEADERS, STRINGS
)
ODD = st.sampled_from(  # what a decoder takes and no encoder of ours makes: lengths that end with a break, wide heads
    [
        b"\x5f\x41k\x42ey\xff\xf6\x41x",
        b"\xf6\xbf\x61h\x7f\x61v\x60\xff\xff\x5f\xff",
        b"\xf6\xa0\x5b" + bytes(7) + b"\x01x",
    ]
)
BROKEN = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"\xf6\xf6\x41",
            b"\xf6\xf6\x41xy",
            b"\xf6\xf6\x5b" + b"\xff" * 8,
            b"\xf6\xa1\x61\xff\x60\x40",
            b"\xf6\xa1\x60\x61\x80\x40",
            b"\xf6\xa1\x61h\x01\x40",
            b"\xf6\xbf\x61h\xff\x40",
            b"\xf6\xf6\x5f\x5f\xff\xff",
            b"\xf6\xf6\x5f\x61x\xff",
            b"\xf6\xf6\x5c",
            b"\xf6\xf6\x61x",
            b"\x61x\xf6\x40",
        ]
    ),
)
RESTS = st.one_of(*4 * [SOUND], ODD, BROKEN, st.just(b"\xf6\xf6\x59\x10\x00" + bytes(4096)))
DELTAS = st.builds(cbor2.dumps, st.integers(-(2**64), 2**64 - 1) | st.integers(-300, 300))
GATHERED: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "body": st.builds(lambda delta, rest: b"\x84" + delta + rest, DELTAS, RESTS),
        "count": st.just(1),
        "codec": st.just(1),
        "base_timestamp": st.integers(NOW - 300, NOW + 300) | st.sampled_from([0, 2**64 - 1]),
        "ttl": st.sampled_from([0, 0, 5]),
        "producer": st.just(0),
        "attributes": st.just(0),
    }
)
OTHERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "body": st.binary(min_size=1, max_size=40)
        | st.builds(lambda rest: b"\x84" + rest, st.binary(max_size=20)),
        "count": st.integers(1, 2),
        "codec": st.integers(1, 2),
        "base_timestamp": st.just(NOW),
        "ttl": st.just(0),
        "producer": st.sampled_from([0, 7]),
        "attributes": st.sampled_from([0, 1]),
    }
)
ALONE = st.one_of(GATHERED, GATHERED, GATHERED, GATHERED, OTHERS)  # so that there are runs of some length


@RELAXED
@given(
    made=st.lists(st.tuples(ALONE, CLOSE), min_size=1, max_size=8),
    target=st.sampled_from([0, 30, 100, 1 << 16]),
    data=st.data(),
)
def test_open_batches(made: list[tuple[dict[str, Any], int]], target: int, data: st.DataObject) -> None:
    from portask_native import _native

    arrived = [(_parsed(**parts), later) for parts, later in made]
    first = arrived[0][0]
    found, wanted = _native.Coalescer(first, 100, NOW, target), Coalescer(first, 100, NOW, target)
    now = NOW
    for batch, later in arrived:
        now += later
        assert found.add(batch, now) == wanted.add(batch, now)
        assert (len(found), found.count, found.last_append, found.base_offset) == (
            len(wanted),
            wanted.count,
            wanted.last_append,
            wanted.base_offset,
        )
    for offset in range(100, 100 + wanted.count):
        assert found.batch(offset) == wanted.batch(offset)
    if wanted.count:
        assert found.batch() == found.batch(None) == wanted.batch()
    for outside in (99, 101 + wanted.count):
        with pytest.raises(IndexError):
            found.batch(outside)


def _parsed(body: bytes, **parts: Any) -> RecordBatch:
    """The batch as `batches.parse` would give it, sound or not."""
    return RecordBatch(batches.build(body, **parts), raw_length=len(body), sequence=0, epoch=0, **parts)


@RELAXED
@given(
    made=st.lists(st.tuples(ALONE, CLOSE, st.sampled_from([0, 0, 1])), max_size=8),
    target=st.sampled_from([0, 30, 200, 1 << 16]),
    window=st.sampled_from([0, COALESCE_WINDOW_US]),
    wrap=st.sampled_from([bytes, memoryview, bytearray]),
)
def test_stored_batches(
    made: list[tuple[dict[str, Any], int, int]], target: int, window: int, wrap: Callable[[bytes], Buffer]
) -> None:
    from portask_native import _native

    stored: list[Buffer] = []
    offset, now = 2**33, NOW
    for parts, later, gap in made:
        offset, now = offset + gap, now + later
        stored.append(wrap(batches.build(**parts, base_offset=offset, append_time=now)))
        offset += parts["count"]
    for finish in (None, lambda batch: b"finished " + batch):
        wanted = gather(stored, target, window, finish)
        found = _native.gather_batches(stored, target, window, finish)
        assert found == wanted
        for ours, theirs in zip(found, wanted, strict=True):  # what stays alone is the very same object
            assert (ours is theirs) is any(theirs is given for given in stored)


@pytest.mark.parametrize("body", [b"", b"\x84", b"\x84\x19", b"\x84\x00"])
def test_records_that_end_before_they_began_are_left_alone_or_joined_alike(body: bytes) -> None:
    from portask_native import _native

    sound = b"\x84\x00\xf6\xf6\x41x"
    stored: list[Buffer] = [
        batches.build(record, 1, codec=1, base_timestamp=7, base_offset=offset, append_time=9)
        for offset, record in enumerate((sound, body, sound, body))
    ]
    found = gather(stored, 1 << 16)
    assert found == _native.gather_batches(stored, 1 << 16, COALESCE_WINDOW_US, None)


@RELAXED
@given(st.builds(lambda rest: b"\x84\x00" + rest, SOUND | ODD | BROKEN), st.data())
def test_only_what_can_be_read_is_put_beside_others(record: bytes, data: st.DataObject) -> None:
    from portask_native import _native

    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(record) - 1))
        record = record[:at] + bytes([data.draw(st.integers(0, 255))]) + record[at + 1 :]
    sound = b"\x84\x00\xf6\xf6\x41x"
    try:
        Cbor2Codec().decode(record, 1, 7)
    except CodecError:
        readable = False
    else:
        readable = record[0] == 0x84 and record[1] < 0x40
    found: list[Buffer] = [
        batches.build(body, 1, codec=1, base_timestamp=7, base_offset=offset, append_time=9)
        for offset, body in enumerate((sound, record))
    ]
    for order in (found, [*map(_renumbered, reversed(found), (0, 1))]):
        gathered = gather(order, 1 << 16)
        assert gathered == _native.gather_batches(order, 1 << 16, COALESCE_WINDOW_US, None)
        assert len(gathered) == 2 - readable
    for kind in (Coalescer, _native.Coalescer):
        assert kind(_parsed(**ONE, body=sound), 0, NOW).add(_parsed(**ONE, body=record), NOW) is readable


ONE: dict[str, Any] = {
    "count": 1,
    "codec": 1,
    "base_timestamp": 7,
    "ttl": 0,
    "producer": 0,
    "attributes": 0,
}


def _renumbered(batch: Buffer, offset: int) -> bytes:
    return offset.to_bytes(8, "little") + bytes(batch)[8:]


def test_records_on_both_sides_of_missing_offsets_stay_apart() -> None:
    from portask_native import _native

    def stored(offset: int) -> bytes:
        body = b"\x84\x00\xf6\xf6\x41" + b"%d" % (offset % 10)
        return batches.build(body, 1, codec=1, base_timestamp=7, base_offset=offset, append_time=9)

    found = [stored(offset) for offset in (0, 1, 2, 5, 6, 9)]
    for gathered in (
        gather(found, 1 << 16),
        _native.gather_batches(found, 1 << 16, COALESCE_WINDOW_US, None),
    ):
        assert [batches.peek(batch)[::2] for batch in gathered] == [(0, 3), (5, 2), (9, 1)]


def test_what_fails_while_gathering_is_passed_on() -> None:
    from portask_native import _native

    one = [
        batches.build(b"\x84\0\xf6\xf6\x46record", 1, codec=1, base_timestamp=NOW, base_offset=at)
        for at in range(3)
    ]

    def fails(batch: bytes) -> bytes:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        _native.gather_batches(one, 1 << 16, 0, fails)
    strange: list[Any] = [one[0], None]
    with pytest.raises(TypeError):
        _native.gather_batches(strange, 1 << 16, 0, None)
    assert _native.gather_batches([b"", b"short"], 1 << 16, 0, None) == [b"", b"short"]


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

    batch = bytes(batches.build(b"\x84\0\xf6\xf6\x46record", 1, codec=1, base_timestamp=2**40))
    stream = bytes(frame_header(17, len(batch), 2**31, 2**31) + batch) * 20 + b"garbage of more than 24 bytes"
    arrived = batches.parse(batch)
    objects = (batch, stream, arrived, None, Frame, RecordBatch)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in objects]
    for _ in range(200):
        found: list[Frame] = []
        assert _native.scan_frames(memoryview(stream), 0, 1000, REPLY, found) == (20 * (24 + len(batch)), -1)
        _native.split_batches(memoryview(batch), 100)
        _native.parse_batch(batch, 100)
        _native.parse_batch(batch[:-1], 100)
        _native.gather_batches([batch, memoryview(batch), batch], 1 << 16, 0, lambda joined: joined)
        gathered = _native.Coalescer(arrived, 0, 0)
        gathered.add(arrived, 0)
        gathered.batch()
    del found, gathered
    gc.collect()
    after = [sys.getrefcount(thing) for thing in objects]
    assert [b - a for a, b in zip(before, after, strict=True) if abs(b - a) > 20] == []
