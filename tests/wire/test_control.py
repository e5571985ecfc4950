"""Control bodies: what is known is checked, what is new is ignored, and anything else is the peer's error."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.errors import RemoteProtocolError
from portask.wire import control

BODIES: list[msgspec.Struct] = [
    control.Hello([2], 9000, "test", ["x"], "secret"),
    control.Welcome(2, 9000, "broker", "memory", [], 1.5),
    control.Error("timeout", "too late", 1, 2),
    control.Open("orders.eu", 3, 4),
    control.PubAck([1, 2, 2**40]),
    control.Subscribe("orders.>", 5, 6, 7, 8, 9, {"orders.eu": [12, -1, 2**40]}),
    control.Assigned("orders.eu", 1, 2**31, 5),
    control.Credit(1, 2),
    control.Ack([(0, 4), (9, 9)]),
    control.Nack([(0, 4)], 100),
    control.Fetch("orders", 1, 2, 3, 4),
    control.Describe("*"),
    control.Described([control.TopicInfo("a", [control.PartitionInfo(0, 0, 5, -1, 1)])], "os", 3),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_body_survives_the_way(body: msgspec.Struct) -> None:
    assert control.decode(control.encode(body), type(body)) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_keys_of_a_newer_peer_are_ignored(body: msgspec.Struct) -> None:
    plain = msgspec.to_builtins(body) | {"from the future": [1, {"a": None}]}
    assert control.decode(cbor2.dumps(plain), type(body)) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_cut_bodies_are_refused(body: msgspec.Struct) -> None:
    data = control.encode(body)
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            control.decode(data[:size], type(body))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        cbor2.dumps([1]),
        cbor2.dumps("text"),
        cbor2.dumps({"topic": 5}),
        cbor2.dumps({"topic": "a", "partition": "0"}),
        cbor2.dumps({"partition": 1}),
        b"\xbf\x65topic\x61a\xff",  # an indefinite-length map
        b"\xa2\x65topic\x61a\x65topic\x61b",  # a key twice
        b"\xa1\x65topic" + b"\x81" * 100_000,
        b"\xa1\x65topic\xc0\x61a",  # a tag
        b"\xa1\x80\x01",
        b"\xa1\x65topic\x61\xff",  # no UTF-8
        b"\xa1\x65topic\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
        control.encode(control.Open("a")) + b"\0",
        control.encode(control.Open("a")) * 2,
    ],
    ids=repr,
)
def test_anything_but_one_right_map_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="Open body"):
        control.decode(data[:70_000], control.Open)


def test_a_body_above_the_limit_is_refused_unread() -> None:
    large = control.encode(control.Open("a" * control.CONTROL_LIMIT))
    with pytest.raises(RemoteProtocolError, match="is the most"):
        control.decode(large, control.Open)
    assert control.decode(large, control.Open, 2 * control.CONTROL_LIMIT).topic[0] == "a"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    for kind in (control.Hello, control.Error, control.Subscribe, control.Ack):
        try:
            body: Any = control.decode(data, kind)
        except RemoteProtocolError:
            continue
        assert isinstance(body, kind)


@given(st.lists(st.integers(0, 2**63), max_size=5))
def test_the_quick_way_to_read_a_puback_reads_the_same(offsets: list[int]) -> None:
    assert control.decode_puback(memoryview(control.encode(control.PubAck(offsets)))) == offsets


@given(st.binary(max_size=30), st.booleans())
def test_any_bytes_are_a_puback_or_refused(data: bytes, quick: bool) -> None:
    data = b"\xa1\x67offsets\x81" * quick + data
    try:
        offsets = control.decode_puback(data)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            control.decode(data, control.PubAck)
    else:
        assert offsets == control.decode(data, control.PubAck).offsets
