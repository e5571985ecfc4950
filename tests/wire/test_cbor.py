"""The heads written by hand are the ones cbor2 writes."""

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from portask.wire import cbor, control

INTEGERS = st.integers(-(2**64), 2**64 - 1)


@given(INTEGERS)
def test_integers_are_written_as_cbor2_writes_them(value: int) -> None:
    assert cbor.integer(value) == cbor2.dumps(value)


@given(INTEGERS, st.binary(max_size=3), st.binary(max_size=3))
def test_integers_are_read_back_wherever_they_stand(value: int, before: bytes, after: bytes) -> None:
    data = before + cbor.integer(value) + after
    assert cbor.read_integer(memoryview(data), len(before)) == (value, len(data) - len(after))


@given(st.binary(max_size=12))
def test_anything_else_is_no_integer(data: bytes) -> None:
    read = cbor.read_integer(memoryview(data), 0)
    if read is not None:
        assert cbor2.loads(data[: read[1]]) == read[0]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_the_quick_puback_means_the_plain_one(offsets: list[int]) -> None:
    quick = control.encode_puback(offsets)
    assert control.decode(quick, control.PubAck) == control.PubAck(offsets)
    assert control.decode_puback(quick) == offsets
    assert control.decode_puback(control.encode(control.PubAck(offsets))) == offsets
