"""What every storage must do: keep every record, in order, at the offset it said, until it is told to forget it.

A storage may complete later (a remote one, or one that gathers a turn's appends); `Store` waits for it. What it stores
as one batch is its own affair: records are compared, decoded, not bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from portask.contracts import COALESCE_WINDOW_US, EARLIEST, LATEST, Catalog, Durability
from portask.errors import OffsetOutOfRange, StorageFull, UnknownPartition
from portask.messages import TopicPartition
from portask.registry import Entry
from portask.wire import batches
from portask_lab.conformance.storage_support import NOW, Store, batch, made
from portask_lab.conformance.suite import Check, NotApplicable, Violation, check, require

SUITE: list[Check] = []
_ONE, _TWO = TopicPartition("orders", 0), TopicPartition("orders", 1)


def _expect(error: type[Exception], action: Callable[[], object]) -> Exception:
    try:
        action()
    except error as raised:
        return raised
    raise Violation(f"{error.__name__} was due, nothing was raised")


@check(SUITE)
def declares_its_durability(entry: Entry) -> None:
    """``durability`` is one of the named modes."""
    with Store(entry) as store:
        mode = store.storage.durability
        require(isinstance(mode, Durability), f"it is {mode!r}")


@check(SUITE)
def gives_dense_offsets(entry: Entry) -> None:
    """Offsets of a partition run from 0 without gaps, whatever the batches' sizes; partitions do not share them."""
    with Store(entry) as store:
        due = 0
        for count in (1, 1, 5, 1, 100, 1, 1, 1, 3):
            base = store.append(_ONE, batch(due, count))
            require(base == due, f"the append got offset {base}, {due} was next")
            due += count
        require(store.append(_TWO, batch(0, 2)) == 0, "another partition begins at 0 too")


@check(SUITE)
def reads_back_every_record(entry: Entry) -> None:
    """Reading on from offset to offset gives every record as it was appended: payload, key, headers, timestamp."""
    with Store(entry) as store:
        numbers = _mixed(store, _ONE, 600)
        require(store.records(_ONE) == [made(number) for number in range(numbers)], "the records differ")


@check(SUITE)
def reads_from_any_offset(entry: Entry) -> None:
    """A read from any offset begins with the batch that contains it and goes on without a gap."""
    with Store(entry) as store:
        total = _mixed(store, _ONE, 120)
        for offset in range(total):
            found = store.read(_ONE, offset, 4096)
            require(found, f"nothing was found at offset {offset} of {total}")
            due = found[0].base_offset
            require(
                due <= offset < due + found[0].count,
                f"a read at {offset} begins with a batch of {due} to {due + found[0].count - 1}",
            )
            for each in found:
                require(each.base_offset == due, f"a gap before offset {each.base_offset}: {due} was due")
                due += each.count


@check(SUITE)
def reads_about_as_much_as_asked(entry: Entry) -> None:
    """A read gives at least one batch, and stops near its limit."""
    with Store(entry) as store:
        for number in range(50):
            store.append(_ONE, batch(number * 2, 2, size=1000))
        require(len(store.read(_ONE, 0, 1)) == 1, "a limit of one byte gives one batch")
        some = sum(len(each.data) for each in store.read(_ONE, 0, 20_000))
        require(some < 20_000 + 70_000, f"a limit of 20,000 bytes gave {some:,}")
        every = sum(each.count for each in store.read(_ONE, 0, 10_000_000))
        require(every == 100, f"an ample limit gave {every} of 100 records")


@check(SUITE)
def knows_its_bounds(entry: Entry) -> None:
    """At the next offset there is nothing; beyond it and before the first, `OffsetOutOfRange` names both."""
    with Store(entry) as store:
        _expect(UnknownPartition, lambda: store.read(_ONE, 0, 100))
        _expect(UnknownPartition, lambda: store.lookup(_ONE, EARLIEST))
        store.append(_ONE, batch(0, 3))
        require(store.read(_ONE, 3, 100) == [], "at the next offset there is nothing")
        for offset in (4, 1 << 40):
            error = _expect(OffsetOutOfRange, lambda offset=offset: store.read(_ONE, offset, 100))  # type: ignore[misc]
            require(
                isinstance(error, OffsetOutOfRange) and (error.first, error.next) == (0, 3),
                f"it said {error!r}",
            )
        _expect(UnknownPartition, lambda: store.read(_TWO, 0, 100))


@check(SUITE)
def stamps_batches(entry: Entry) -> None:
    """What is read is stamped with base offset and append time, and its checksum holds."""
    with Store(entry) as store:
        for number in range(5):
            store.append(_ONE, batch(number * 2, 2), NOW + number * 2 * COALESCE_WINDOW_US)
        found = store.read(_ONE, 0, 1 << 20)  # `Store.read` checks them
        times = [each.append_time for each in found]
        require(
            times == [NOW + number * 2 * COALESCE_WINDOW_US for number in range(5)],
            f"the append times are {times}",
        )


@check(SUITE)
def copies_what_it_keeps(entry: Entry) -> None:
    """The appended bytes are the caller's again when `append` returns: overwriting them changes nothing stored."""
    with Store(entry) as store:
        for number, count in enumerate((1, 4)):
            source = bytearray(batch(number, count).data)
            store.append(_ONE, batches.parse(source))
            source[:] = bytes(len(source))
        require(len(store.records(_ONE)) == 5, "records are missing")


@check(SUITE)
def leaves_buffers_alone(entry: Entry) -> None:
    """Buffers that a read returned stay as they were through later appends and trims."""
    with Store(entry) as store:
        total = _mixed(store, _ONE, 100)
        held = store.raw(_ONE, 0, 1 << 20)
        copies = [bytes(each) for each in held]
        for number in range(total, total + 200):
            store.append(_ONE, batch(number, 1))
        store.storage.trim(_ONE, before=total)
        require([bytes(each) for each in held] == copies, "a buffer changed under its reader")


@check(SUITE)
def keeps_batches_of_producers(entry: Entry) -> None:
    """Batches with a producer id keep their header: id, epoch and sequence; they are never joined with others."""
    with Store(entry) as store:
        for number in range(20):
            store.append(_ONE, batch(number, 1, producer=7, epoch=2, sequence=100 + number))
        found = store.read(_ONE, 0, 1 << 20)
        headers = [(each.producer, each.epoch, each.sequence, each.count) for each in found]
        require(headers == [(7, 2, 100 + number, 1) for number in range(20)], f"they became {headers}")


@check(SUITE)
def keeps_times_to_live(entry: Entry) -> None:
    """Records keep their TTL, neighbours with another one do not share it, and what expired is still there to read."""
    with Store(entry) as store:
        lives = [0, 0, 50, 50, 50, 0, 1, 2, 2]
        for number, life in enumerate(lives):
            store.append(_ONE, batch(number, 1, ttl=life), NOW + number)
        store.append(_ONE, batch(len(lives), 1), NOW + 3600 * 1_000_000)
        found = [each.ttl for each in store.read(_ONE, 0, 1 << 20) for _ in range(each.count)]
        require(found == [*lives, 0], f"of {[*lives, 0]} they became {found}")


@check(SUITE)
def leaves_compressed_batches(entry: Entry) -> None:
    """Batches whose record area it cannot know (another codec, compressed) are kept as they are."""
    with Store(entry) as store:
        other = batches.build(b"\xc1\xc1\xc1", 1, codec=2, base_timestamp=5)
        packed = batches.build(b"\x01\x02\x03", 1, codec=1, base_timestamp=5, attributes=1, raw_length=9)
        for data in (other, packed, other):
            store.append(_ONE, batches.parse(data))
        found = [bytes(each.data)[16:] for each in store.read(_ONE, 0, 1 << 20)]
        require(found == [other[16:], packed[16:], other[16:]], "a batch changed")


@check(SUITE)
def joins_at_most_a_second(entry: Entry) -> None:
    """Lookups by time are never late, and early by no more than the coalescing window."""
    with Store(entry) as store:
        step = 150_000
        for number in range(60):
            store.append(_ONE, batch(number, 1), NOW + number * step)
        for number in range(60):
            when = NOW + number * step
            for asked, first in ((when, number), (when - 1, number), (when + 1, number + 1)):
                offset = store.lookup(_ONE, asked)
                require(offset <= first, f"a lookup was late: offset {offset}, {first} was appended in time")
                early = (first - offset) * step
                require(early <= COALESCE_WINDOW_US, f"a lookup was {early:,} µs early")
        require(
            store.lookup(_ONE, NOW + 60 * step) == 60, "nothing was appended so late: the next offset is due"
        )


@check(SUITE)
def finds_both_ends(entry: Entry) -> None:
    """`EARLIEST` and `LATEST` are the first and the next offset, also after a trim; a time before all is the first."""
    with Store(entry) as store:
        total = _mixed(store, _ONE, 200)
        require(store.lookup(_ONE, LATEST) == total, "LATEST is the next offset")
        require(store.lookup(_ONE, EARLIEST) == 0 == store.lookup(_ONE, 0), "EARLIEST is the first")
        store.storage.trim(_ONE, before=total // 2)
        first = store.lookup(_ONE, EARLIEST)
        require(first <= total // 2, f"offset {first} is first: more was forgotten than was asked for")
        require(store.lookup(_ONE, 0) == first, "a time before everything is the first offset")


@check(SUITE)
def trims_from_the_front(entry: Entry) -> None:
    """`trim` forgets whole batches that end in time, keeps the newest one, and never gives an offset twice."""
    with Store(entry) as store:
        store.storage.trim(_TWO, before=10)  # nothing is there: nothing happens
        for number in range(10):
            store.append(_ONE, batch(number * 5, 5))
        store.storage.trim(_ONE, before=22)
        first = store.lookup(_ONE, EARLIEST)
        require(first == 20, f"batches of 5 up to offset 22: the first is 20 then, not {first}")
        error = _expect(OffsetOutOfRange, lambda: store.read(_ONE, 19, 100))
        require(
            isinstance(error, OffsetOutOfRange) and (error.first, error.next) == (20, 50),
            f"it said {error!r}",
        )
        require(store.records(_ONE, 20) == [made(number) for number in range(20, 50)], "the rest changed")
        store.storage.trim(_ONE, before=1 << 40)
        first = store.lookup(_ONE, EARLIEST)
        require(first < 50, "the newest batch was forgotten: so is the next offset")
        require(store.append(_ONE, batch(50, 1)) == 50, "offsets go on where they were")


@check(SUITE)
def trims_by_size(entry: Entry) -> None:
    """`trim` with ``max_bytes`` leaves about so much of the newest."""
    with Store(entry) as store:
        for number in range(100):
            store.append(_ONE, batch(number * 2, 2, size=1000))
        store.storage.trim(_ONE, max_bytes=50_000)
        first = store.lookup(_ONE, EARLIEST)
        require(100 <= first <= 190, f"of 200 records in 200 kB those from {first} on are left")
        store.storage.trim(_ONE, max_bytes=0)
        require(store.lookup(_ONE, EARLIEST) < 200, "the newest batch always stays")


@check(SUITE)
def flushes(entry: Entry) -> None:
    """`flush` completes, on a new storage and after appends."""
    with Store(entry) as store:
        store.flush()
        _mixed(store, _ONE, 20)
        store.flush()


@check(SUITE)
def completes_a_turn_in_order(entry: Entry) -> None:
    """Several appends before one commit complete in order, each once, with the offsets that one by one would get."""
    with Store(entry) as store:
        bases = store.append_together(
            [(_ONE, batch(0, 1)), (_TWO, batch(0, 3)), (_ONE, batch(1, 2)), (_ONE, batch(3, 1))]
        )
        require(bases == [0, 0, 1, 3], f"the offsets are {bases}")
        require(store.records(_ONE) == [made(number) for number in range(4)], "the records differ")
        require(store.records(_TWO) == [made(number) for number in range(3)], "the records differ")


@check(SUITE)
def says_what_it_holds(entry: Entry) -> None:
    """A `Catalog` lists every partition, and its sizes grow and shrink with what is stored."""
    with Store(entry) as store:
        catalog = store.storage
        if not isinstance(catalog, Catalog):
            raise NotApplicable("it is no Catalog")
        require(list(catalog.partitions()) == [] and catalog.size(_ONE) == 0, "a new one holds nothing")
        for number in range(50):
            store.append(_ONE, batch(number * 2, 2, size=500))
        store.append(_TWO, batch(0, 1))
        require(sorted(catalog.partitions()) == [_ONE, _TWO], f"it lists {list(catalog.partitions())}")
        before = catalog.size(_ONE)
        require(50_000 <= before <= 200_000, f"50 kB of payload are {before:,} bytes")
        catalog.trim(_ONE, before=80)
        require(
            catalog.size(_ONE) < before // 2,
            f"after a trim to a fifth it says {catalog.size(_ONE):,} of {before:,}",
        )


@check(SUITE)
def refuses_when_full(entry: Entry) -> None:
    """Above ``max_bytes`` appends get `StorageFull`; nothing is lost, reading goes on, a trim makes room."""
    with Store(entry, max_bytes=100_000) as store:
        if not store.limited:
            raise NotApplicable("it has no option max_bytes")
        kept = 0
        try:
            while kept < 400:
                store.append(_ONE, batch(kept, 2, size=500))
                kept += 2
        except StorageFull:
            pass
        require(50 < kept < 400, f"{kept} records of 500 bytes fitted in 100,000 bytes")
        require(store.lookup(_ONE, LATEST) == kept, "a refused append moved the next offset")
        require(len(store.records(_ONE)) == kept, "what was there cannot be read any more")
        store.storage.trim(_ONE, before=kept // 2)
        require(store.append(_ONE, batch(kept, 2, size=500)) == kept, "a trim did not make room")


@check(SUITE)
def holds_many_partitions(entry: Entry) -> None:
    """Five hundred partitions, their records apart."""
    with Store(entry) as store:
        keys = [TopicPartition(f"topic-{number // 10}", number % 10) for number in range(500)]
        for turn in range(2):
            for number, key in enumerate(keys):
                require(store.append(key, batch(number, 1)) == turn, f"{key} gave another offset than {turn}")
        for number, key in enumerate(keys):
            require(store.records(key) == [made(number)] * 2, f"{key} holds records of another")


@check(SUITE)
def agrees_with_a_list(entry: Entry) -> None:
    """Through random appends, reads, look-ups and trims, it says what a plain list would."""
    chance = random.Random(11)
    with Store(entry) as store:
        kept, now = 0, NOW
        for _ in range(400):
            action = chance.random()
            now += chance.choice((0, 10, 100_000, 2_000_000))
            if action < 0.6 or not kept:
                count = chance.choice((1, 1, 1, 1, 2, 7))
                base = store.append(_ONE, batch(kept, count, ttl=chance.choice((0, 0, 0, 9))), now)
                require(base == kept, f"offset {base} instead of {kept}")
                kept += count
            elif action < 0.9:
                first = store.lookup(_ONE, EARLIEST)
                offset = chance.randrange(first, kept + 1)
                limit = chance.choice((1, 500, 100_000))
                got = store.records(_ONE, offset, limit)
                require(
                    got == [made(number) for number in range(offset, kept)],
                    f"records differ from offset {offset} on",
                )
            else:
                before = chance.randrange(kept + 1)
                first = store.lookup(_ONE, EARLIEST)
                store.storage.trim(_ONE, before=before)
                now_first = store.lookup(_ONE, EARLIEST)
                require(
                    first <= now_first <= max(first, before),
                    f"trim to {before} moved the first offset from {first} to {now_first}",
                )


def _mixed(store: Store, key: TopicPartition, least: int) -> int:
    """Appends batches of mixed sizes, single ones mostly; returns how many records there are."""
    chance = random.Random(5)
    total, now = 0, NOW
    while total < least:
        count = chance.choice((1, 1, 1, 1, 1, 3, 10))
        now += chance.choice((0, 50, 400_000))
        store.append(key, batch(total, count), now)
        total += count
    return total
