"""Strategies: messages of every shape, records in every form that CBOR allows, and damage."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from portask.messages import Message

BASE = 1_700_000_000_000_000

RELAXED = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # busy machines are no failures

payloads = st.binary(max_size=300) | st.sampled_from(
    [bytes(n) for n in (23, 24, 255, 256, 4095, 4096, 65_536)]
)
texts = st.text("ab \x00ü水𐅑", max_size=12) | st.sampled_from(["", "x" * 24, "ü" * 130, "𐅑" * 70])
headers = st.dictionaries(texts, texts | st.binary(max_size=40), max_size=4)
deltas = st.one_of(
    st.integers(0, 30),
    st.integers(200, 300),
    st.integers(4000, 70_000),
    st.integers(-70_000, 2**33),
    st.integers(-(2**62), 2**62),
)
messages = st.builds(
    Message,
    payload=payloads,
    key=st.none() | st.binary(max_size=40),
    headers=st.none() | headers,
    timestamp=st.just(0) | deltas.map(lambda delta: BASE + delta),
)
plain_messages = st.builds(Message, payload=payloads, timestamp=deltas.map(lambda delta: BASE + delta))
batches = st.lists(messages, max_size=6) | st.lists(plain_messages, max_size=30)


def expected(message: Message) -> Message:
    """What a message is after the way there and back."""
    return Message(message.payload, message.key, message.headers or None, message.timestamp or BASE)


@st.composite
def heads(draw: st.DrawFn, major: int, value: int) -> bytes:
    """A head in any width that holds the value (RFC 8949 §3)."""
    widths = [width for width in (0, 1, 2, 4, 8) if value < (24 if width == 0 else 1 << 8 * width)]
    width = draw(st.sampled_from(widths))
    if width == 0:
        return bytes((major << 5 | value,))
    return bytes((major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[width],)) + value.to_bytes(width, "big")


@st.composite
def strings(draw: st.DrawFn, value: str | bytes) -> bytes:
    """A string, definite or in chunks that end between characters (RFC 8949 §3.2.3)."""
    major = 3 if isinstance(value, str) else 2

    def definite(part: str | bytes) -> bytes:
        data = part.encode() if isinstance(part, str) else part
        return draw(heads(major, len(data))) + data

    if draw(st.booleans()):
        return definite(value)
    cuts = sorted(draw(st.lists(st.integers(0, len(value)), max_size=3)))
    edges = [0, *cuts, len(value)]
    chunks = [definite(value[a:b]) for a, b in pairwise(edges)]
    return bytes((major << 5 | 31,)) + b"".join(chunks) + b"\xff"


@st.composite
def record_forms(draw: st.DrawFn, message: Message) -> bytes:
    """The record of ``message`` in any well-formed CBOR."""
    delta = message.timestamp - BASE if message.timestamp else 0
    items = [draw(heads(0, delta) if delta >= 0 else heads(1, -1 - delta))]
    items.append(b"\xf6" if message.key is None else draw(strings(message.key)))
    if message.headers is None:
        items.append(b"\xf6")
    else:
        pairs = [draw(strings(name)) + draw(strings(value)) for name, value in message.headers.items()]
        endless = draw(st.booleans())
        opening, closing = (b"\xbf", b"\xff") if endless else (draw(heads(5, len(pairs))), b"")
        items.append(opening + b"".join(pairs) + closing)
    items.append(draw(strings(message.payload)))
    if draw(st.booleans()):
        return b"\x9f" + b"".join(items) + b"\xff"
    return draw(heads(4, 4)) + b"".join(items)


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """``body`` with a few bytes changed, lost, or put in."""
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)
