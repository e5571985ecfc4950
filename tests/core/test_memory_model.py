"""The memory storage and its coalescing, against the plainest model there is: a list."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from portask.contracts import COALESCE_WINDOW_US, EARLIEST, LATEST
from portask.errors import OffsetOutOfRange, PortaskError
from portask.messages import TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire import batches
from portask.wire.coalesce import Coalescer
from tests.core.talking import START, batch_of, records

KEY = TopicPartition("t")


def ask(call: Any, *arguments: Any) -> Any:
    answers: list[Any] = []
    call(*arguments, lambda *answer: answers.append(answer))
    ((value, error),) = answers
    if error is not None:
        raise error
    return value


class StorageMachine(RuleBasedStateMachine):
    """Appends, trims and looks; the list knows what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage(coalesce_bytes=300)
        self.kept: list[tuple[bytes, int, int]] = []  # payload, append time, TTL
        self.first = 0
        self.now = START
        self.held: list[tuple[Any, bytes]] = []

    @rule(
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
        ttl=st.sampled_from([0, 0, 0, 5]),
        wait=st.sampled_from([0, 1, 300_000, 1_500_000]),
        producer=st.sampled_from([0, 0, 0, 9]),
        base=st.integers(START - 10**9, START),
    )
    def append(self, sizes: list[int], ttl: int, wait: int, producer: int, base: int) -> None:
        self.now += wait
        new = [b"%d." % (len(self.kept) + n) + bytes(size) for n, size in enumerate(sizes)]
        data = bytearray(batch_of(*new, ttl=ttl, producer=producer, timestamp=base).data)
        offset = ask(self.storage.append, KEY, batches.parse(data), self.now)
        data[:] = bytes(len(data))
        assert offset == len(self.kept)
        self.kept += [(payload, self.now, ttl) for payload in new]

    @precondition(lambda self: self.kept)
    @rule(share=st.floats(0, 1), limit=st.sampled_from([1, 200, 100_000]))
    def read(self, share: float, limit: int) -> None:
        offset = self.first + round(share * (len(self.kept) - self.first))
        found = ask(self.storage.read, KEY, offset, limit)
        assert bool(found) is (offset < len(self.kept))
        due = -1
        for data in found:
            each = batches.parse(data)
            assert each.base_offset == due or (due < 0 and each.base_offset <= offset)
            for number, message in records([each]):
                kept, appended, ttl = self.kept[number]
                assert (message.payload, each.ttl) == (kept, ttl)
                assert each.append_time <= appended < each.append_time + COALESCE_WINDOW_US
            due = each.base_offset + each.count
            self.held.append((data, bytes(data)))

    @precondition(lambda self: self.kept)
    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        before = round(share * len(self.kept))
        self.storage.trim(KEY, before=before)
        first = ask(self.storage.lookup, KEY, EARLIEST)
        assert self.first <= first <= max(self.first, before)
        assert first < len(self.kept)
        self.first = first

    @precondition(lambda self: self.kept)
    @rule(most=st.integers(0, 2000))
    def trim_bytes(self, most: int) -> None:
        before = self.storage.size(KEY)
        self.storage.trim(KEY, max_bytes=most)
        self.first = ask(self.storage.lookup, KEY, EARLIEST)
        assert self.storage.size(KEY) <= before
        assert self.first < len(self.kept)

    @precondition(lambda self: self.kept)
    @rule(back=st.integers(0, 5_000_000))
    def look_up_a_time(self, back: int) -> None:
        when = self.now - back
        offset = ask(self.storage.lookup, KEY, when)
        in_time = [n for n, (_, appended, _) in enumerate(self.kept) if n >= self.first and appended >= when]
        due = in_time[0] if in_time else len(self.kept)
        assert offset <= due
        assert all(when - self.kept[n][1] <= COALESCE_WINDOW_US for n in range(offset, due))

    @precondition(lambda self: self.kept)
    @rule()
    def read_out_of_range(self) -> None:
        for offset in (self.first - 1, len(self.kept) + 1):
            with pytest.raises(OffsetOutOfRange) as caught:
                ask(self.storage.read, KEY, offset, 100)
            assert (caught.value.first, caught.value.next) == (self.first, len(self.kept))

    @invariant()
    def ends_are_right(self) -> None:
        if self.kept:
            assert ask(self.storage.lookup, KEY, LATEST) == len(self.kept)
            assert ask(self.storage.lookup, KEY, EARLIEST) == self.first

    @invariant()
    def buffers_stay(self) -> None:
        assert all(bytes(data) == copy for data, copy in self.held[-5:])


StorageMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStorage = StorageMachine.TestCase

RECORDS = st.tuples(
    st.integers(START - 2**40, START + 2**40),
    st.sampled_from([0, 23, 24, 255, 256, 65_536, 2**33, -1, -300]),
    st.binary(max_size=30),
)


@given(st.lists(RECORDS, min_size=1, max_size=20), st.data())
def test_a_gathered_batch_holds_what_went_in(sent: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    single = [
        batches.parse(
            batches.build(cbor2.dumps([delta, None, None, payload]), 1, codec=1, base_timestamp=base)
        )
        for base, delta, payload in sent
    ]
    gathered = Coalescer(single[0], 100, START)
    taken = [each for each in single if Coalescer.fits(each) and gathered.add(each, START)]
    assert len(taken) == len(single) == gathered.count
    start = data.draw(st.integers(0, len(single) - 1))
    found = batches.parse(gathered.batch(100 + start))
    assert (found.base_offset, found.count) == (100 + start, len(single) - start)
    rest, body = sent[start:], bytes(found.body)
    stamps = []
    while body:
        row = cbor2.loads(body)  # the first record; the decoder leaves the others alone
        stamps.append((found.base_timestamp + row[0], row[3]))
        body = body[len(cbor2.dumps(row)) :]
    assert stamps == [(base + delta, payload) for base, delta, payload in rest]


def test_what_is_not_gathered() -> None:
    first = batch_of(b"x")
    for other in (batch_of(b"a", b"b"), batch_of(b"a", producer=1), batch_of(b"a", codec=2)):
        assert not Coalescer.fits(other)
    gathered = Coalescer(first, 0, START)
    assert gathered.add(first, START)
    assert not gathered.add(batch_of(b"y", ttl=5), START), "another TTL"
    assert not gathered.add(first, START + COALESCE_WINDOW_US), "too much later"
    assert gathered.count == 1


def test_a_hundred_thousand_small_messages_take_under_ten_megabytes() -> None:
    storage = MemoryStorage()
    refused: list[PortaskError] = []
    found = batch_of(bytes(64))
    for number in range(100_000):
        storage.append(KEY, found, START + number, lambda _, error: refused.append(error) if error else None)
    assert not refused
    assert storage.size(KEY) < 10_000_000
