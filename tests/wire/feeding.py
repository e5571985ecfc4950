"""The three ways in which parsers are fed, and what frames look like to a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from hypothesis import strategies as st

from portask.wire.frames import REPLY, Frame, FrameParser, Opcode, frame_header

Fields = tuple[int, int, int, int, bytes]
"""Opcode, flags, correlation, channel, body."""

U32 = st.integers(0, 0xFFFF_FFFF)
FRAMES: st.SearchStrategy[Fields] = st.tuples(
    st.sampled_from(list(map(int, Opcode))), st.sampled_from([0, REPLY]), U32, U32, st.binary(max_size=80)
)


def wire(fields: Fields) -> bytes:
    opcode, flags, correlation, channel, body = fields
    return frame_header(opcode, len(body), correlation, channel, flags) + body


def fields(frame: Frame) -> Fields:
    return frame.opcode, frame.flags, frame.correlation, frame.channel, bytes(frame.body)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """``data`` cut at the places in ``cuts``."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        yield data[start:end]


def feed(parser: FrameParser, data: Iterator[bytes] | list[bytes]) -> list[Fields]:
    """Each piece is destroyed after its turn, as a receive buffer is."""
    found: list[Fields] = []
    for piece in data:
        buffer = bytearray(piece)
        found += [fields(frame) for frame in parser.feed(buffer)]
        buffer[:] = bytes(len(buffer))
    return found


WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [data[at : at + 1] for at in range(len(data))],
    "in sevens": lambda data: [data[at : at + 7] for at in range(0, len(data), 7)],
}
