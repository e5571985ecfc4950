"""What every storage must do."""

from __future__ import annotations

import random
from inspect import signature

from portask.contracts import COALESCE_WINDOW_US, EARLIEST, LATEST, Catalog, Durability, Storage
from portask.errors import OffsetOutOfRange, StorageFull, UnknownPartition
from portask.messages import Message, TopicPartition
from portask.registry import Entry
from portask.wire import batches
from portask_lab.conformance.storage_records import MORE
from portask_lab.conformance.storage_shared import TOGETHER
from portask_lab.conformance.storage_support import BASE, KEY, batch_of, records, storage_of
from portask_lab.conformance.suite import Check, NotApplicable, Violation, check, require

SUITE: list[Check] = []


@check(SUITE)
def it_says_what_an_ack_means(entry: Entry) -> None:
    """It is a Storage, and declares one of the named durabilities."""
    with storage_of(entry) as driver:
        require(isinstance(driver.storage, Storage), "no Storage: a method is missing")
        require(
            isinstance(driver.storage.durability, Durability), f"durability is {driver.storage.durability!r}"
        )


@check(SUITE)
def offsets_are_dense_from_zero(entry: Entry) -> None:
    """Each append gets the next offsets, a partition for itself, whatever the sizes of its batches."""
    other = TopicPartition("conformance.storage", 1)
    with storage_of(entry) as driver:
        expected = 0
        for size in (1, 1, 5, 1, 200, 1, 1):
            batch = batch_of(*(b"%d" % index for index in range(size)))
            require(
                driver.append(batch) == expected, f"an append of {size} records did not get offset {expected}"
            )
            expected += size
        require(driver.append(batch_of(b"x"), key=other) == 0, "another partition does not begin at 0")
        require(driver.lookup(LATEST) == expected, "the next offset is not the number of records")
        require(driver.lookup(EARLIEST) == 0, "the first offset is not 0")


@check(SUITE)
def what_went_in_comes_out(entry: Entry) -> None:
    """Every record comes back in order with its payload, timestamp and offset, through checksums, from any offset."""
    rng = random.Random(3)
    with storage_of(entry) as driver:
        sent: list[Message] = []
        now = BASE
        for _ in range(150):
            count = rng.choice((1, 1, 1, 1, 7, 50))
            stamp = BASE + rng.randrange(-(10**6), 10**6)
            payloads = [rng.randbytes(rng.choice((0, 1, 64, 300))) for _ in range(count)]
            now += rng.choice((0, 10, 1000, 400_000))
            base = driver.append(batch_of(*payloads, timestamp=stamp), now)
            require(base == len(sent), f"append {base} where {len(sent)} was due")
            sent += [Message(payload, timestamp=stamp + 3 * index) for index, payload in enumerate(payloads)]
        _same(driver.messages(), sent, 0)
        for start in (1, 2, len(sent) // 2, len(sent) - 1):
            _same(driver.messages(start), sent, start)


@check(SUITE)
def many_appends_at_once_complete_in_order(entry: Entry) -> None:
    """Appends that do not wait for each other complete in their order and are all there."""
    with storage_of(entry) as driver:
        payloads = [b"message %d" % index for index in range(500)]
        offsets = driver.append_all(
            [batch_of(payload, timestamp=BASE + 11 * at) for at, payload in enumerate(payloads)]
        )
        require(offsets == list(range(500)), "completions came out of order, or offsets have holes")
        require([m.payload for _, m in driver.messages()] == payloads, "records are missing or out of order")


@check(SUITE)
def the_bytes_are_those_that_came(entry: Entry) -> None:
    """A batch of several records is stored verbatim but for the 16 bytes of the stamp, which say offset and time."""
    with storage_of(entry) as driver:
        batch = batch_of(*(b"record %d" % index for index in range(9)), producer=77, sequence=5, ttl=1234)
        before = bytes(batch.data)
        driver.append(batch_of(b"first"), BASE)
        driver.append(batch, BASE + 50)
        (stored,) = driver.read(1)
        require(
            bytes(stored)[batches.STAMP_SIZE :] == before[batches.STAMP_SIZE :], "the stored bytes differ"
        )
        require(batches.peek(stored) == (1, BASE + 50, 9, 1234), f"the stamp says {batches.peek(stored)}")


@check(SUITE)
def nothing_of_the_caller_is_kept(entry: Entry) -> None:
    """The caller's buffer may be reused as soon as append returns, and what a read gave never changes."""
    with storage_of(entry) as driver:
        for payloads in ((b"alone",), tuple(b"%d" % index for index in range(30))):
            buffer = bytearray(batch_of(*payloads).data)
            batch = batches.parse(memoryview(buffer))
            start = driver.lookup(LATEST) if payloads[0] != b"alone" else 0
            done: list[int] = []
            driver.storage.append(KEY, batch, BASE, lambda offset, _error, done=done: done.append(offset))  # type: ignore[misc]
            buffer[64:] = bytes(len(buffer) - 64)
            driver.flush()
            got = driver.read(start)
            snapshot = [bytes(data) for data in got]
            require(
                [m.payload for _, m in records(got)] == list(payloads),
                "the record follows the caller's buffer",
            )
            for index in range(50):
                driver.append(batch_of(b"later %d" % index), BASE + index)
            require(
                [bytes(data) for data in got] == snapshot, "a batch that was read changed under its reader"
            )


@check(SUITE)
def a_read_keeps_to_its_limit(entry: Entry) -> None:
    """A read gives whole batches, at least one, and not much more than its limit; at the end it gives none."""
    with storage_of(entry) as driver:
        for _ in range(40):
            driver.append(batch_of(*(bytes(1000) for _ in range(5))))
        require(len(driver.read(0, 1)) == 1, "a limit of 1 byte must still give one batch")
        size = sum(len(data) for data in driver.read(0, 30_000))
        require(5_000 <= size <= 40_000, f"a limit of 30,000 bytes gave {size:,}")
        require(len(driver.read(200)) == 0, "a read at the next offset gave something")
        first = records(driver.read(3))[0][0]
        require(first <= 3, f"a read from offset 3 began at {first}")


@check(SUITE)
def offsets_out_of_range_say_what_there_is(entry: Entry) -> None:
    """Before the first and beyond the next offset is OffsetOutOfRange with both; an unknown partition says so."""
    with storage_of(entry) as driver:
        for _ in range(10):
            driver.append(batch_of(b"a", b"b", b"c"))
        try:
            driver.read(31)
        except OffsetOutOfRange as error:
            require((error.first, error.next) == (0, 30), f"the error carries {error.first} and {error.next}")
        else:
            raise Violation("a read beyond the next offset gave no error")
        for call in (
            lambda: driver.read(0, key=TopicPartition("nowhere", 0)),
            lambda: driver.lookup(LATEST, TopicPartition("nowhere", 0)),
        ):
            try:
                call()
            except UnknownPartition:
                continue
            raise Violation("an unknown partition gave no UnknownPartition")


@check(SUITE)
def trimming_forgets_whole_batches_from_the_front(entry: Entry) -> None:
    """A trim keeps every record from its offset on, moves the first offset, and leaves all offsets as they were."""
    with storage_of(entry) as driver:
        sent = [b"%05d" % index for index in range(600)]
        for start in range(0, 600, 6):
            driver.append(batch_of(*sent[start : start + 6]), BASE + start)
        driver.storage.trim(KEY, before=301)
        first = driver.lookup(EARLIEST)
        require(first <= 301, f"a trim before 301 forgot offset {first - 1}")
        require(
            [m.payload for _, m in driver.messages(first)] == sent[first:], "records after the trim differ"
        )
        if first:
            try:
                driver.read(first - 1)
            except OffsetOutOfRange as error:
                require(error.first == first, "the error does not say where the log begins now")
            else:
                raise Violation("a forgotten offset could be read")
        require(driver.append(batch_of(b"next")) == 600, "a trim changed the next offset")
        driver.storage.trim(KEY, before=10**9)
        require(driver.lookup(LATEST) == 601, "trimming everything forgot the next offset")
        driver.storage.trim(TopicPartition("nowhere", 0), before=5)


@check(SUITE)
def trimming_by_size_keeps_the_newest(entry: Entry) -> None:
    """A trim to so many bytes forgets the oldest and keeps the newest batch whatever its size."""
    with storage_of(entry) as driver:
        for index in range(100):
            driver.append(batch_of(*(b"%04d" % index + bytes(996) for _ in range(10))))
        driver.storage.trim(KEY, max_bytes=200_000)
        first = driver.lookup(EARLIEST)
        rest = driver.messages(first)
        require(rest[-1][0] == 999 and len(rest) == 1000 - first, "the newest records are not all there")
        if isinstance(driver.storage, Catalog):
            size = driver.storage.size(KEY)
            require(size <= 1_300_000, f"{size:,} bytes are left of a trim to 200,000")


@check(SUITE)
def times_are_found_and_never_late(entry: Entry) -> None:
    """A time lookup gives the first record appended then or later, at most the coalescing window early."""
    with storage_of(entry) as driver:
        times = [BASE + index * 300_000 for index in range(30)]
        for index, now in enumerate(times):
            driver.append(batch_of(b"%d" % index, timestamp=now), now)
        for when in (BASE - 5, BASE, BASE + 1, times[7], times[7] + 1, times[29]):
            exact = next(index for index, now in enumerate(times) if now >= when)
            found = driver.lookup(when)
            require(
                found <= exact, f"a lookup answered offset {found}, later than {exact}: records would be lost"
            )
            early = times[exact] - times[found]
            require(early <= COALESCE_WINDOW_US, f"a lookup answered {early} µs early")
        require(
            driver.lookup(times[29] + COALESCE_WINDOW_US) in {29, 30},
            "a time after all records is not the end",
        )


@check(SUITE)
def batches_with_producer_or_ttl_stay_apart(entry: Entry) -> None:
    """Batches that carry a producer id or another TTL are never merged into a neighbour."""
    with storage_of(entry) as driver:
        driver.append_all(
            [
                batch_of(b"a", producer=9, sequence=1),
                batch_of(b"b", producer=9, sequence=2),
                batch_of(b"c", ttl=5),
                batch_of(b"d"),
            ]
        )
        found = [batches.parse(data) for data in driver.read(0)]
        seen = [(batch.producer, batch.sequence, batch.ttl, batch.count) for batch in found]
        require(seen == [(9, 1, 0, 1), (9, 2, 0, 1), (0, 0, 5, 1), (0, 0, 0, 1)], f"stored as {seen}")


@check(SUITE)
def full_is_an_error_and_reading_goes_on(entry: Entry) -> None:
    """At max_bytes appends fail with StorageFull, nothing is dropped silently, and a trim makes room again."""
    if "max_bytes" not in signature(entry.load()).parameters:
        raise NotApplicable("it has no option max_bytes")
    with storage_of(entry, max_bytes=200_000) as driver:
        stored = 0
        try:
            for _ in range(400):
                driver.append(batch_of(bytes(4000)))
                stored += 1
        except StorageFull:
            pass
        else:
            raise Violation("1.6 MB went into 200,000 bytes without an error")
        require(stored >= 20, f"only {stored} batches of 4 kB fit in 200,000 bytes")
        require(len(driver.messages()) == stored, "what was acknowledged is not all there")
        driver.storage.trim(KEY, before=stored // 2)
        require(
            driver.append(batch_of(b"again")) == stored,
            "after a trim there is still no room, or an offset is lost",
        )


@check(SUITE)
def it_lists_what_it_holds(entry: Entry) -> None:
    """A storage with a catalog names every partition with an append behind it, and their sizes."""
    with storage_of(entry) as driver:
        if not isinstance(driver.storage, Catalog):
            raise NotApplicable("it has no catalog")
        keys = {
            TopicPartition("a.b", 0),
            TopicPartition("a.b", 3),
            TopicPartition("a_b", 0),
            TopicPartition("x", 11),
        }
        for key in keys:
            driver.append(batch_of(b"x" * 100), key=key)
        driver.flush()
        require(set(driver.storage.partitions()) == keys, f"it lists {set(driver.storage.partitions())}")
        require(all(driver.storage.size(key) >= 100 for key in keys), "a size is smaller than what is stored")
        require(driver.storage.size(TopicPartition("nowhere", 0)) == 0, "an unknown partition has a size")


def _same(got: list[tuple[int, Message]], sent: list[Message], start: int) -> None:
    offsets = [offset for offset, _ in got]
    require(offsets == list(range(start, len(sent))), f"offsets from {start} on have holes or come twice")
    for offset, message in got:
        want = sent[offset]
        require(message.payload == want.payload, f"the payload of offset {offset} differs")
        require(
            message.timestamp == want.timestamp,
            f"offset {offset}: timestamp {message.timestamp}, not {want.timestamp}",
        )


SUITE += MORE + TOGETHER
