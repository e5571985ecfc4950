"""Any mix of batches, read at any offset, gives back exactly the records and timestamps that went in."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portask.contracts import COALESCE_WINDOW_US
from portask.messages import Buffer, Message, RecordBatch, TopicPartition
from portask.reference.compression import Never
from portask.reference.storage import MemoryStorage
from portask.wire import batches
from portask.wire.coalesce import coalescer
from portask.wire.compression import decompress
from portask_variants.compression.always import Always
from tests.core.talking import CODEC, SECOND, START, batch_of, records

pytestmark = pytest.mark.usefixtures("helpers")
KEY = TopicPartition("coalescing")


class Append(msgspec.Struct, frozen=True):
    """One append: what is in the batch, and how much later than the one before it comes."""

    payloads: tuple[bytes, ...]
    timestamp: int
    ttl: int
    producer: int
    codec: int
    later: int

    def batch(self) -> RecordBatch:
        return batch_of(
            *self.payloads, timestamp=self.timestamp, ttl=self.ttl, producer=self.producer, codec=self.codec
        )


# Mostly what is gathered: one record, no producer. Timestamps back and forth, over the whole range now and then.
TIMESTAMPS = st.integers(START - SECOND, START + SECOND) | st.sampled_from([1, 2**62, 2**63, 2**64 - 1])
APPENDS = st.builds(
    Append,
    payloads=st.lists(st.binary(max_size=30) | st.just(bytes(300)), min_size=1, max_size=1).map(tuple)
    | st.lists(st.binary(max_size=30) | st.just(bytes(5000)), min_size=1, max_size=4).map(tuple),
    timestamp=TIMESTAMPS,
    ttl=st.sampled_from([0, 0, 0, 400, 3_600_000]),
    producer=st.sampled_from([0, 0, 0, 7]),
    codec=st.sampled_from([1, 1, 1, 1, 2]),
    later=st.sampled_from([0, 0, 1, 1000, COALESCE_WINDOW_US // 2, COALESCE_WINDOW_US]),
)


def read(storage: MemoryStorage, offset: int, limit: int = 1 << 30) -> list[RecordBatch]:
    found: list[Buffer] = []
    storage.read(KEY, offset, limit, lambda got, error: found.extend(got) if error is None else None)
    return [batches.parse(data) for data in found]


def unpacked(batch: RecordBatch) -> RecordBatch:
    raw = decompress(batch.attributes, batch.body, batch.raw_length)
    return msgspec.structs.replace(batch, data=bytes(batches.BATCH_HEADER_SIZE) + bytes(raw))


def stored(storage: MemoryStorage, appends: list[Append]) -> tuple[list[Message], list[int], list[int]]:
    """Appends all; returns the messages, and each one's append time and TTL."""
    messages: list[Message] = []
    now = START
    times: list[int] = []
    ttls: list[int] = []
    for append in appends:
        now += append.later
        storage.append(KEY, append.batch(), now, lambda offset, error: None)
        messages += [Message(payload, timestamp=append.timestamp) for payload in append.payloads]
        times += [now] * len(append.payloads)
        ttls += [append.ttl] * len(append.payloads)
    return messages, times, ttls


@given(st.lists(APPENDS, min_size=1, max_size=25), st.sampled_from([0, 40, 300, 65_536]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_offset_reads_exactly_what_follows(appends: list[Append], target: int, packed: bool) -> None:
    storage = MemoryStorage(coalesce_bytes=target, compression=Always() if packed else Never())
    messages, times, ttls = stored(storage, appends)
    for offset in range(len(messages)):
        found = read(storage, offset)
        assert found[0].base_offset <= offset
        assert found[0].base_offset + found[0].count > offset
        got = [pair for pair in records([unpacked(batch) for batch in found]) if pair[0] >= offset]
        assert got == list(enumerate(messages))[offset:]
        for batch in found:
            for at in range(batch.base_offset, batch.base_offset + batch.count):
                assert batch.ttl == ttls[at]
                early = times[at] - batch.append_time
                # what expires together was appended together: nothing expires before its time
                assert early == 0 if batch.ttl else 0 <= early < COALESCE_WINDOW_US


@given(st.lists(APPENDS, min_size=1, max_size=25), st.integers(1, 20_000))
@settings(max_examples=60, deadline=None)
def test_reads_with_a_limit_go_on_without_holes(appends: list[Append], limit: int) -> None:
    storage = MemoryStorage(coalesce_bytes=300)
    messages, _, _ = stored(storage, appends)
    offset = 0
    while offset < len(messages):
        found = read(storage, offset, limit)
        assert found[0].base_offset <= offset, "a hole before what was read"
        assert all(one.base_offset + one.count == two.base_offset for one, two in pairwise(found))
        assert len(found) == 1 or sum(len(batch.data) for batch in found[:-1]) < limit
        offset = found[-1].base_offset + found[-1].count
    assert read(storage, offset) == []


@given(st.lists(st.tuples(st.binary(max_size=40), TIMESTAMPS), min_size=1, max_size=30))
@settings(max_examples=60)
@example([(b"", 2**64 - 1), (b"", 1)])
def test_an_open_batch_is_read_from_any_of_its_records(sent: list[tuple[bytes, int]]) -> None:
    first = batch_of(sent[0][0], timestamp=sent[0][1])
    gathered = coalescer()(first, 100, START)
    for payload, timestamp in sent:
        assert gathered.add(batch_of(payload, timestamp=timestamp), START)
    expected = [Message(payload, timestamp=timestamp) for payload, timestamp in sent]
    for skip in range(len(sent)):
        batch = batches.parse(gathered.batch(100 + skip))
        assert (batch.base_offset, batch.count) == (100 + skip, len(sent) - skip)
        assert CODEC.decode(batch.body, batch.count, batch.base_timestamp) == expected[skip:]


def test_messages_published_alone_share_a_header() -> None:
    """What it is for: 64-byte messages cost little more than their bytes, however they came."""
    storage = MemoryStorage()
    count = 10_000
    for number in range(count):
        storage.append(KEY, batch_of(number.to_bytes(64, "big")), START + number, lambda offset, error: None)
    assert storage.size(KEY) / count < 75
    # catching up reads few, large batches
    sizes = [len(batch.data) for batch in read(storage, 0)]
    assert len(sizes) <= 12


def test_a_gathered_record_does_not_expire_with_an_older_one() -> None:
    """TTL counts from a record's own append: gathering must not take any of it away."""
    storage = MemoryStorage()
    storage.append(KEY, batch_of(b"old", ttl=500), START, lambda offset, error: None)
    storage.append(KEY, batch_of(b"new", ttl=500), START + 900_000, lambda offset, error: None)
    expiry = {
        message.payload: batches.expires_at(batch.append_time, batch.ttl)
        for batch in read(storage, 0)
        for _, message in records([batch])
    }
    assert expiry == {b"old": START + 500_000, b"new": START + 1_400_000}
