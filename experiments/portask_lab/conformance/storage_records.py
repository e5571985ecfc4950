"""More of what every storage must do: what is easily lost when batches are joined, moved or forgotten.

`portask_lab.conformance.storage` makes these part of its suite.
"""

from __future__ import annotations

import random

from portask.contracts import EARLIEST, LATEST
from portask.messages import TopicPartition
from portask.registry import Entry
from portask.wire import batches
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of, records, storage_of
from portask_lab.conformance.suite import Check, check, require

MORE: list[Check] = []
_HOUR = 3600 * 1_000_000


def _payloads(driver: Driver, offset: int = 0, key: TopicPartition = KEY) -> list[bytes]:
    return [message.payload for _, message in driver.messages(offset, key)]


@check(MORE)
def it_agrees_with_a_list(entry: Entry) -> None:
    """Through random appends, reads, look-ups and trims, it says what a plain list would."""
    chance = random.Random(11)
    with storage_of(entry) as driver:
        kept: list[bytes] = []
        now = BASE
        for _ in range(300):
            action = chance.random()
            now += chance.choice((0, 10, 100_000, 2_000_000))
            if action < 0.6 or not kept:
                new = [b"%d" % (len(kept) + place) for place in range(chance.choice((1, 1, 1, 1, 2, 7)))]
                base = driver.append(batch_of(*new, ttl=chance.choice((0, 0, 0, 9))), now)
                require(base == len(kept), f"offset {base} instead of {len(kept)}")
                kept += new
                continue
            first = driver.lookup(EARLIEST)
            if action < 0.9:
                offset = chance.randrange(first, len(kept) + 1)
                require(_payloads(driver, offset) == kept[offset:], f"records differ from offset {offset} on")
            else:
                before = chance.randrange(len(kept) + 1)
                driver.storage.trim(KEY, before=before)
                moved = driver.lookup(EARLIEST)
                require(first <= moved <= max(first, before), f"a trim to {before} moved {first} to {moved}")
            require(driver.lookup(LATEST) == len(kept), "the next offset moved")


@check(MORE)
def a_record_that_nobody_can_read_spoils_no_other(entry: Entry) -> None:
    """One-record batches may be joined, but not with one whose record is damaged or goes on behind itself."""
    bad = [
        batches.build(body, 1, codec=1, base_timestamp=BASE)
        for body in (
            b"\x84",
            b"\x84\x00\xf6\xf6\x42x",
            b"\x84\x00\xf6\xf6\x41xy",
            b"\x84\x00\xf6\x01\x40",
            b"\xff",
        )
    ]
    with storage_of(entry) as driver:
        for number, data in enumerate(bad):
            driver.append(batch_of(b"before %d" % number))
            driver.append(batches.parse(data))
            driver.append(batch_of(b"after %d" % number))
        driver.flush()
        kept = [driver.read(at, 1)[0] for at in range(3 * len(bad))]
        for number, data in enumerate(bad):
            at = 3 * number
            require(
                batches.parse(kept[at + 1]).body == batches.parse(data).body, "what came is not what went in"
            )
            for offset, payload in ((at, b"before %d" % number), (at + 2, b"after %d" % number)):
                found = [message.payload for where, message in records([kept[offset]]) if where == offset]
                require(found == [payload], f"beside an unreadable record, {payload!r} cannot be read")


@check(MORE)
def records_that_it_cannot_know_stay_as_they_are(entry: Entry) -> None:
    """Another codec's batches and compressed ones are kept verbatim, between those that may be joined."""
    other = batches.build(b"\xc1\xc1\xc1", 1, codec=2, base_timestamp=5)
    packed = batches.build(b"\x01\x02\x03", 1, codec=1, base_timestamp=5, attributes=1, raw_length=9)
    plain = bytes(batch_of(b"plain").data)
    with storage_of(entry) as driver:
        for data in (plain, other, plain, plain, packed, other, plain):
            driver.append(batches.parse(data))
        found = [batches.parse(data) for data in driver.read(0)]
        kept = [bytes(each.data)[16:] for each in found if each.codec == 2 or each.attributes]
        require(kept == [other[16:], packed[16:], other[16:]], "a batch changed")
        places = [each.base_offset for each in found if each.codec == 2 or each.attributes]
        require(places == [1, 4, 5], f"they stand at {places}, not at 1, 4 and 5")


@check(MORE)
def what_expired_is_still_there(entry: Entry) -> None:
    """Records keep their TTL, and expiry is not the storage's affair: it gives them back long after."""
    lives = [0, 0, 50, 50, 50, 0, 1, 2, 2]
    with storage_of(entry) as driver:
        for number, life in enumerate(lives):
            driver.append(batch_of(b"%d" % number, ttl=life), BASE + number)
        driver.append(batch_of(b"late"), BASE + _HOUR)
        found = [batches.parse(data) for data in driver.read(0)]
        require(
            [each.ttl for each in found for _ in range(each.count)] == [*lives, 0],
            "a record has another's TTL",
        )


@check(MORE)
def buffers_outlive_a_trim(entry: Entry) -> None:
    """Buffers that a read gave stay as they were through later appends, and after a trim forgot their records."""
    with storage_of(entry) as driver:
        for number in range(60):
            driver.append(batch_of(*[b"%d" % number] * (1 + number % 3)))
        held = driver.read(0)
        copies = [bytes(each) for each in held]
        for number in range(200):
            driver.append(batch_of(b"later %d" % number))
        driver.storage.trim(KEY, before=driver.lookup(LATEST))
        for number in range(50):
            driver.append(batch_of(bytes([number]) * 2000))
        require([bytes(each) for each in held] == copies, "a buffer changed under its reader")


@check(MORE)
def every_read_is_dense(entry: Entry) -> None:
    """A read from any offset begins with the batch that holds it, and has no gap and nothing twice after that."""
    chance = random.Random(5)
    with storage_of(entry) as driver:
        total, now = 0, BASE
        while total < 120:
            count = chance.choice((1, 1, 1, 1, 3, 10))
            now += chance.choice((0, 50, 400_000))
            driver.append(batch_of(*[b"x"] * count), now)
            total += count
        for offset in range(total):
            due = -1
            for data in driver.read(offset, 4096):
                base, _, count, _ = batches.peek(data)
                if due < 0:
                    require(base <= offset < base + count, f"a read at {offset} begins at {base}")
                else:
                    require(base == due, f"{due} was due in a read from {offset}, {base} came")
                due = base + count
            require(due > offset, f"nothing was found at offset {offset} of {total}")


@check(MORE)
def partitions_are_apart(entry: Entry) -> None:
    """Two hundred partitions, each with its own offsets and records."""
    keys = [TopicPartition(f"topic-{number // 10}", number % 10) for number in range(200)]
    with storage_of(entry) as driver:
        for turn in range(2):
            for number, key in enumerate(keys):
                require(
                    driver.append(batch_of(b"%d" % number), key=key) == turn, f"{key}: offset {turn} was due"
                )
        for number, key in enumerate(keys):
            require(_payloads(driver, key=key) == [b"%d" % number] * 2, f"{key} holds records of another")


@check(MORE)
def flush_completes(entry: Entry) -> None:
    """`flush` calls back on a new storage, after appends, and again when nothing is left to do."""
    with storage_of(entry) as driver:
        driver.flush()
        driver.append(batch_of(b"one"))
        driver.flush()
        driver.flush()
        require(_payloads(driver) == [b"one"], "flushing changed what is stored")
