"""The reactor's parser and the one in Python make the same of any bytes, however they are cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.errors import PortaskError
from portask.wire import batches
from portask.wire.connection import Connection, Role
from portask.wire.frames import HEADER_SIZE, REPLY, Frame, FrameParser, Opcode, frame_header, refusal
from tests.codec.shapes import RELAXED
from tests.wire.feeding import FRAMES, WAYS, Fields, fields, pieces, wire

LIMIT = 8192


@pytest.fixture(scope="module", autouse=True)
def only_python() -> Iterator[None]:
    """What stands in `portask.wire` does its work alone here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("portask.wire.accelerate.helper", lambda name: None)
        yield


def in_rust(data: Iterable[bytes], limit: int = LIMIT) -> tuple[list[Frame], PortaskError | None]:
    from portask_native._native import Framer

    framer = Framer(limit)
    found: list[Frame] = []
    fault: PortaskError | None = None
    for piece in data:
        frames, refused = framer.feed(piece)
        found += frames
        if refused:
            assert fault is None
            fault = refusal(refused, limit, REPLY)
    assert framer.buffered <= sum(map(len, data if isinstance(data, list) else []), LIMIT + HEADER_SIZE)
    return found, fault


def in_python(data: Iterable[bytes], limit: int = LIMIT) -> tuple[list[Frame], PortaskError | None]:
    parser = FrameParser(limit, REPLY)
    found = [frame for piece in data for frame in parser.feed(piece)]
    return found, parser.failed


def alike(stream: bytes, cuts: list[int]) -> tuple[list[Frame], PortaskError | None]:
    found, fault = in_rust(list(pieces(stream, cuts)))
    wanted, failed = in_python(pieces(stream, cuts))
    assert [fields(frame) for frame in found] == [fields(frame) for frame in wanted]
    assert (type(fault), str(fault)) == (type(failed), str(failed))
    return found, fault


EXAMPLES: list[Fields] = [
    (Opcode.PUBLISH, 0, 1, 2, b"a batch"),
    (Opcode.PING, 0, 3, 0, b""),
    (Opcode.OPEN, REPLY, 0xFFFF_FFFF, 0x7FFF_FFFF, b"x" * 300),
]


@pytest.mark.parametrize("way", WAYS)
def test_frames_come_out_as_they_went_in(way: str) -> None:
    found, fault = in_rust(WAYS[way](b"".join(map(wire, EXAMPLES))))
    assert [fields(frame) for frame in found] == EXAMPLES
    assert fault is None


@pytest.mark.parametrize("way", WAYS)
def test_garbage_behind_frames_is_refused_once(way: str) -> None:
    stream = wire(EXAMPLES[0]) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + wire(EXAMPLES[1])
    found, fault = in_rust(WAYS[way](stream))
    assert [fields(frame) for frame in found] == EXAMPLES[:1]
    assert str(fault) == "not a Portask frame: begins with b'GET ' instead of b'PORT'"


@RELAXED
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes(stream: bytes, cuts: list[int]) -> None:
    alike(stream, cuts)


@RELAXED
@given(
    sent=st.lists(FRAMES, max_size=5),
    tail=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    data=st.data(),
)
def test_frames_some_of_them_damaged(
    sent: list[Fields], tail: bytes, cuts: list[int], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(map(wire, sent)) + tail)
    for at in data.draw(st.lists(st.integers(0, max(0, len(stream) - 1)), max_size=2)):
        stream[at : at + 1] = data.draw(st.binary(max_size=2))
    alike(bytes(stream), cuts)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 1 << 31, (1 << 32) - 1])
def test_the_limit_is_the_same(size: int) -> None:
    stream = frame_header(Opcode.PUBLISH, size, 3, 4) + bytes(min(size, LIMIT))
    found, fault = alike(stream, [])
    assert (len(found), fault is None) == (int(size <= LIMIT), size <= LIMIT)


def test_every_flipped_bit_of_a_header_is_refused_with_the_same_words() -> None:
    header = frame_header(Opcode.PING, 0, 3, 4)
    for bit in range(HEADER_SIZE * 8):
        damaged = bytearray(header)
        damaged[bit // 8] ^= 1 << bit % 8
        found, fault = alike(bytes(damaged), [])
        assert not found
        assert fault is not None


def test_a_sound_batch_comes_with_its_frame_and_no_other() -> None:
    good = batches.build(b"\x84\x00\xf6\xf6\x41x", 1, codec=1, base_timestamp=5, producer=6, sequence=7)
    damaged = bytearray(good)
    damaged[-1] ^= 1
    sent = [(Opcode.PUBLISH, 0, 1, 1, good), (Opcode.PUBLISH, 0, 2, 1, bytes(damaged)), (19, 0, 3, 1, good)]
    for way in WAYS.values():
        whole, bad, other = in_rust(way(b"".join(map(wire, sent))))[0]
        assert whole.batch == batches.parse(whole.body)
        assert whole.batch is not None
        assert whole.batch.data is whole.body
        assert (bad.batch, other.batch) == (None, None)


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: xy", "begins with b'GET '"),
        (frame_header(Opcode.HELLO, 8193), "of 8,193 bytes is above the limit of 8,192"),
        (frame_header(Opcode.HELLO, 1, flags=2), "reserved frame flags are set: 0x0002"),
    ],
)
def test_a_connection_says_the_same_of_a_refused_header_as_of_the_bytes(refused: bytes, says: str) -> None:
    told, fed = Connection(Role.BROKER), Connection(Role.BROKER)
    assert told.admit([], refused) == []
    assert fed.receive(refused) == []
    assert says in str(told.fault)
    assert str(told.fault) == str(fed.fault)
    assert told.take_output() == fed.take_output()


def test_the_limit_of_the_handshake_holds_for_what_comes_with_hello() -> None:
    client = Connection(Role.CLIENT)
    client.send_hello("x")
    hello = b"".join(client.take_output())
    large = frame_header(Opcode.PUBLISH, 9000, 1, 1)
    (frame,) = in_rust([hello])[0]
    told, fed = Connection(Role.BROKER), Connection(Role.BROKER)
    told.admit([frame], large)
    fed.receive(hello + large)
    assert "above the limit of 8,192" in str(told.fault)
    assert str(told.fault) == str(fed.fault)
    assert told.take_output() == fed.take_output()
