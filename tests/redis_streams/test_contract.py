"""The contract on Redis 7 (the conformance tests do it on Valkey and its cluster), and what these storages add."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from portask.contracts import EARLIEST, LATEST
from portask.errors import (
    AlreadyStored,
    ConfigError,
    OffsetOutOfRange,
    PortaskError,
    StorageError,
)
from portask.messages import RecordBatch, TopicPartition
from portask.wire import batches, sequences
from portask_lab.conformance import Check, NotApplicable, checks
from portask_lab.conformance.storage_support import BASE, KEY, batch_of, records
from portask_variants.storage.redis_streams import transactions
from tests.redis_streams.conftest import REDIS, Make, Place, on_redis

SUITE = checks("storage")


@pytest.mark.skipif(REDIS is None, reason="there is no redis-server here: apt-get install redis-server")
@pytest.mark.parametrize("item", SUITE, ids=lambda item: item.name)
def test_conforms_on_redis(item: Check) -> None:
    try:
        item.run(on_redis())
    except NotApplicable as reason:
        pytest.skip(str(reason))


def numbered(first: int, *payloads: bytes, producer: int = 7, epoch: int = 0) -> RecordBatch:
    data = bytes(batch_of(*payloads).data)
    return batches.parse(batches.numbered(data, producer, epoch, first))


def outcome(driver: Any, batch: RecordBatch, key: TopicPartition = KEY) -> int | str:
    """The offset, or the error's code."""
    try:
        return int(driver.append(batch, key=key))
    except AlreadyStored as error:
        return f"already at {error.offset}"
    except PortaskError as error:
        return error.code


def resume(driver: Any, producer: int, epoch: int, sequence: int) -> str:
    try:
        driver._wait(
            lambda done: driver.storage.resume(
                KEY, producer, epoch, sequence, lambda error: done(None, error)
            )
        )
    except PortaskError as error:
        return error.code
    return ""


# ── one entry a batch ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_one_entry_verbatim_under_the_offset_of_its_last_record(place: Place, make: Make) -> None:
    driver = make(place, prefix="verbatim")
    sent = [batch_of(b"a", b"b", b"c"), batch_of(b"d", producer=5, sequence=1), batch_of(b"e", b"f")]
    for batch in sent:
        driver.append(batch, BASE)
    port = next(
        port
        for port in place.ports
        if b"verbatim" in b" ".join(place.ask("KEYS", "verbatim:*log", port=port))
    )
    entries = place.ask("XRANGE", "verbatim:{conformance.storage:0}:log", "-", "+", port=port)
    assert [name for name, _ in entries] == [b"2-3", b"3-1", b"5-2"]
    for batch, (_, fields) in zip(sent, entries, strict=True):
        assert fields[0] == b"b"
        assert fields[1][batches.STAMP_SIZE :] == bytes(batch.data)[batches.STAMP_SIZE :]
        assert int.from_bytes(fields[1][8:16], "little") == BASE


def test_what_waits_while_a_write_is_under_way_goes_in_one(valkey: Place, make: Make) -> None:
    driver = make(valkey)
    driver.append(batch_of(b"first"))
    before = driver.storage.counters["pipelines"]
    assert driver.append_all([batch_of(b"%d" % number) for number in range(1000)]) == list(range(1, 1001))
    assert driver.storage.counters["pipelines"] - before < 20
    assert len(driver.read(0)) < 20, "published one by one, kept in few entries"


def test_joined_records_are_found_by_the_time_of_each(valkey: Place, make: Make) -> None:
    """Neighbours that came at different times are one entry: it must be found by the newest of them, too."""
    driver = make(valkey, linger_ms=50)
    done: list[int] = []
    for number in range(10):
        driver.storage.append(
            KEY, batch_of(b"%d" % number), BASE + number * 90_000, lambda offset, _: done.append(offset)
        )
    driver.flush()
    driver.append(batch_of(b"later"), BASE + 5_000_000)
    assert len(done) == 10
    assert driver.lookup(BASE + 800_000) <= 9
    assert driver.lookup(BASE + 810_001) in {0, 10}
    assert driver.lookup(BASE + 4_000_000) == 10


def test_time_never_goes_back_within_a_partition(place: Place, make: Make) -> None:
    """Clocks of two brokers differ; look-ups by time need ascending times, so the server sees to it."""
    ahead, behind = make(place, prefix="clock"), make(place, prefix="clock")
    ahead.append(batch_of(b"0", b"0"), BASE + 1000)
    behind.append(batch_of(b"1", b"1"), BASE)
    behind.append(batch_of(b"2", b"2"), BASE + 2000)
    times = [batches.peek(data)[1] for data in ahead.read(0)]
    assert times == [BASE + 1000, BASE + 1000, BASE + 2000]
    assert [m.payload for _, m in ahead.messages()] == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert [ahead.lookup(BASE + when) for when in (0, 1000, 1001, 2001)] == [0, 0, 4, 6]


def test_many_brokers_append_to_one_partition_without_hole_or_loss(place: Place, make: Make) -> None:
    drivers = [make(place, prefix=f"many-{place.kind}") for _ in range(3)]
    got: list[list[int]] = [[] for _ in drivers]

    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(40):
            sent = [
                batch_of(*[b"%d:%d:%d" % (number, turn, at)] * chance.choice((1, 1, 1, 5)))
                for at in range(chance.randint(1, 9))
            ]
            got[number] += drivers[number].append_all(sent)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(set(mine)) for mine in got)
    found = drivers[0].messages()
    assert [offset for offset, _ in found] == list(range(drivers[1].lookup(LATEST)))
    starts = {offset: message.payload for offset, message in found}
    for number, mine in enumerate(got):
        assert all(starts[offset].startswith(b"%d:" % number) for offset in mine)


def test_sizes_are_of_what_is_there(place: Place, make: Make) -> None:
    driver = make(place)
    for _ in range(20):
        driver.append(batch_of(*[bytes(1000)] * 5))
    full = driver.storage.size(KEY)
    assert 100_000 < full < 120_000
    driver.storage.trim(KEY, before=50)
    assert driver.lookup(EARLIEST) == 50
    assert driver.storage.size(KEY) == full // 2


def test_what_is_written_down_is_found_again(place: Place, make: Make) -> None:
    first = make(place, prefix="again")
    keys = [TopicPartition(f"topic-{number}", number % 3) for number in range(30)]
    for key in keys:
        first.append(batch_of(b"x", b"y"), key=key)
    first.storage.trim(keys[0], before=1)
    first._wait(lambda done: first.storage.begin("g", keys[4], b"settings", 1, done))
    first.storage.close()
    second = make(place, prefix="again")
    assert set(second.storage.partitions()) == set(keys)
    assert second.storage.size(keys[7]) == first.storage.size(keys[7]) > 50
    (part,) = second._wait(second.storage.group_parts)
    assert (part.group, part.partition, part.settings, part.next) == ("g", keys[4], b"settings", 1)
    assert second.append(batch_of(b"z"), key=keys[3]) == 2


# ── writes that are sent again ────────────────────────────────────────────────────────────────────────────────────────


class Losing:
    """A link that loses the replies of some pipelines after the server did what they say."""

    def __init__(self, link: Any, chance: random.Random) -> None:
        self._link = link
        self._chance = chance
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def run(self, *arguments: Any) -> Any:
        replies = await self._link.run(*arguments)
        if self._chance.random() < 0.3:
            self.lost += 1
            raise ConnectionResetError("the reply got lost")
        return replies


def test_a_write_whose_reply_is_lost_is_stored_once(place: Place, make: Make) -> None:
    driver = make(place)
    driver.append(batch_of(b"begin"))
    lanes = driver.storage._lanes
    losing = lanes._link = Losing(lanes._link, random.Random(2))
    sent = [b"begin"]
    for turn in range(30):
        more = [b"%d-%d" % (turn, at) for at in range(turn % 5 + 1)]
        driver.append_all([batch_of(payload) for payload in more])
        sent += more
    assert losing.lost > 3
    assert [m.payload for _, m in driver.messages()] == sent


def test_a_write_that_was_given_up_is_not_stored_behind_later_ones(valkey: Place, make: Make) -> None:
    """It lies in the buffer of a server that hangs; another one overtakes it; then the server gets to it."""
    driver = make(valkey)
    driver.append(batch_of(b"0"))
    lanes = driver.storage._lanes
    kept: list[Any] = []

    class Keeping:
        def __init__(self, link: Any) -> None:
            self.link = link

        def __getattr__(self, name: str) -> Any:
            return getattr(self.link, name)

        async def run(self, lane: str, commands: Any, *rest: Any) -> Any:
            if b"late" in bytes(str(commands[0][-1]), "utf-8"):
                kept.append((lane, commands))
                return [ValueError("refused, says the test") for _ in commands]
            return await self.link.run(lane, commands, *rest)

    real, lanes._link = lanes._link, Keeping(lanes._link)
    with pytest.raises(StorageError):
        driver.append(batch_of(b"late"))
    assert driver.append(batch_of(b"1")) == 1
    ((lane, commands),) = kept
    (reply,) = lanes.call(real.run(lane, commands, 3.0))
    assert "comes too late" in str(reply)
    assert [m.payload for _, m in driver.messages()] == [b"0", b"1"]


# ── large writes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def large(name: bytes) -> RecordBatch:
    return batch_of(name, bytes(transactions.LARGE))


def transactions_of(driver: Any) -> int:
    """Transactions that were asked for since the last call."""
    found: Any = driver.storage._lanes._large
    if found is None:
        return 0
    if not hasattr(found, "count"):
        found.count, run = 0, found.run

        async def counting(writes: Any, within: float) -> Any:
            found.count += 1
            return await run(writes, within)

        found.run = counting
    count, found.count = found.count, 0
    return int(count)


def test_large_writes_go_by_transactions_on_one_server_and_by_the_script_on_a_cluster(
    place: Place, make: Make
) -> None:
    driver = make(place)
    transactions_of(driver)
    driver.append(batch_of(b"small"))
    assert transactions_of(driver) == 0
    for number in range(5):
        assert driver.append(large(b"%d" % number)) == 1 + 2 * number
        assert driver.append(batch_of(b"x", b"y"), key=TopicPartition("other", 0)) == 2 * number
    assert transactions_of(driver) == (0 if place.kind == "cluster" else 5)
    assert driver.append(numbered(1, b"numbered", bytes(transactions.LARGE))) == 11
    assert transactions_of(driver) == 0, "the script looks at numbers"
    driver.storage.trim(KEY, before=4)
    assert driver.append(large(b"after a trim")) == 13
    assert driver.storage.size(KEY) > 3 * transactions.LARGE
    assert [m.payload for _, m in driver.messages(9)][:1] == [b"4"]


def test_large_writes_of_several_brokers_do_not_overlap(valkey: Place, make: Make) -> None:
    drivers = [make(valkey, prefix="large") for _ in range(3)]

    def work(number: int) -> None:
        for turn in range(30):
            name = b"%d:%d" % (number, turn)
            drivers[number].append_all([large(name), batch_of(name + b" small"), large(name + b" again")])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = drivers[0].messages()
    assert [offset for offset, _ in found] == list(range(3 * 30 * 5))
    names = [message.payload for _, message in found if len(message.payload) < 100]
    for number in range(3):
        mine = [name for name in names if name.startswith(b"%d:" % number)]
        due = [b"%d:%d" % (number, turn) + rest for turn in range(30) for rest in (b"", b" small", b" again")]
        assert mine == due


def test_a_large_write_whose_reply_is_lost_is_stored_once(valkey: Place, make: Make) -> None:
    driver = make(valkey, attempt_s=1.0)
    driver.append(large(b"0"))
    found: Any = driver.storage._lanes._large
    lost = 0

    for number in range(1, 12):
        wire = found._wire
        if wire is not None and number % 3 == 0:
            lost += 1
            real = wire.run

            async def losing(commands: Any, within: float, real: Any = real) -> Any:
                await real(commands, within)
                raise ConnectionResetError("the reply got lost")

            wire.run = losing
        assert driver.append(large(b"%d" % number)) == 2 * number
    assert lost == 3
    names = [m.payload for _, m in driver.messages() if len(m.payload) < 100]
    assert names == [b"%d" % number for number in range(12)]


def test_a_large_write_keeps_time_in_order(valkey: Place, make: Make) -> None:
    ahead, behind = make(valkey, prefix="late"), make(valkey, prefix="late")
    ahead.append(large(b"0"), BASE + 1000)
    behind.append(large(b"1"), BASE)
    assert [batches.peek(data)[1] for data in ahead.read(0)] == [BASE + 1000, BASE + 1000]
    assert records(ahead.read(2))[0][0] == 2


# ── producers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_hold_across_brokers(place: Place, make: Make) -> None:
    one, other = make(place, prefix="numbers"), make(place, prefix="numbers")
    assert outcome(one, numbered(1, b"a", b"b")) == 0
    assert outcome(other, numbered(3, b"c")) == 2
    assert outcome(one, numbered(3, b"c")) == "already at 2"
    assert outcome(one, numbered(1, b"a", b"b")) == "already at 0"
    assert outcome(other, numbered(5, b"e")) == "out-of-sequence"
    assert outcome(other, numbered(3, b"C")) == "out-of-sequence", "other bytes under a used number"
    assert outcome(one, numbered(4, b"d")) == 3
    assert outcome(other, numbered(1, b"z", producer=8)) == 4
    assert outcome(other, numbered(9, b"x", epoch=2)) == 5, "a newer epoch begins with any number"
    assert outcome(one, numbered(5, b"e")) == "fenced"
    assert [m.payload for _, m in one.messages()] == [b"a", b"b", b"c", b"d", b"z", b"x"]


def test_retries_in_one_write_are_seen(valkey: Place, make: Make) -> None:
    driver = make(valkey)
    seen: list[Any] = []
    for batch in (
        numbered(1, b"a"),
        numbered(2, b"b"),
        numbered(1, b"a"),
        numbered(3, b"c"),
        numbered(5, b"e"),
    ):
        driver.storage.append(
            KEY, batch, BASE, lambda offset, error: seen.append(error.code if error else offset)
        )
    driver.flush()
    assert seen == [0, 1, "already-stored", 2, "out-of-sequence"]


def test_the_kept_batches_of_a_producer_are_known_with_their_offsets(place: Place, make: Make) -> None:
    driver = make(place)
    sent = [numbered(1 + 2 * number, b"%d" % number, b"x") for number in range(sequences.KEPT_BATCHES + 5)]
    for batch in sent:
        driver.append(batch)
    for number, batch in list(enumerate(sent))[5:]:
        assert outcome(driver, batch) == f"already at {2 * number}"
    assert outcome(driver, sent[4]) == "already at -1", "it is known to be stored, and nobody remembers where"


def test_numbers_wrap(valkey: Place, make: Make) -> None:
    driver = make(valkey)
    assert outcome(driver, numbered(0xFFFF_FFFF, b"a", b"b")) == 0
    assert outcome(driver, numbered(1, b"c")) == 2
    assert outcome(driver, numbered(0xFFFF_FFFF, b"a", b"b")) == "already at 0"


def test_a_producer_says_where_it_goes_on(place: Place, make: Make) -> None:
    driver = make(place)
    assert resume(driver, 7, 0, 0) == ""
    driver.append(numbered(1, b"a"))
    assert resume(driver, 7, 0, 0) == "fenced", "somebody published with this id and epoch"
    assert resume(driver, 7, 0, 4) == ""
    assert outcome(driver, numbered(2, b"given up")) == "already at -1"
    assert outcome(driver, numbered(4, b"d")) == 1
    assert resume(driver, 7, 0, 2) == "", "it never goes back"
    assert outcome(driver, numbered(5, b"e", epoch=1)) == 2
    assert resume(driver, 7, 0, 9) == "fenced"


def test_producers_are_forgotten_with_their_records(valkey: Place, make: Make) -> None:
    driver = make(valkey, prefix="forget")
    for producer in (1, 2, 3):
        driver.append(numbered(1, b"x", b"y", producer=producer))
    driver.storage.trim(KEY, before=4)
    assert driver.lookup(EARLIEST) == 4
    assert valkey.ask("HKEYS", "forget:{conformance.storage:0}:producers") == [b"3"]


# ── what does not fit ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_entry_is_an_error_and_never_delivered(valkey: Place, make: Make) -> None:
    driver = make(valkey, prefix="damaged")
    driver.append(batch_of(b"fine"))
    data = bytearray(batch_of(b"broken", b"x").data)
    data[-1] ^= 1
    log, meta = "damaged:{conformance.storage:0}:log", "damaged:{conformance.storage:0}:meta"
    valkey.ask("XADD", log, "2-2", "b", bytes(data), "s", "500")
    valkey.ask("HSET", meta, "next", "3")
    assert len(driver.read(0)) == 1, "what lies before it is given"
    with pytest.raises(StorageError, match=r"entry 2-2 of .* is damaged"):
        driver.read(1)
    valkey.ask("HSET", meta, "next", "9")
    with pytest.raises(StorageError, match="something else changed it"):
        driver.read(5)


def test_a_trim_by_others_is_told_as_any_other(valkey: Place, make: Make) -> None:
    driver = make(valkey, prefix="others")
    for number in range(10):
        driver.append(batch_of(b"%d" % number, b"x"))
    valkey.ask("XTRIM", "others:{conformance.storage:0}:log", "MINID", "10")
    with pytest.raises(OffsetOutOfRange) as caught:
        driver.read(3)
    assert (caught.value.first, caught.value.next) == (10, 20)


def test_records_read_are_records_checked(place: Place, make: Make) -> None:
    driver = make(place)
    driver.append(batch_of(b"a", b"b"))
    assert [offset for offset, _ in records(driver.read(1))] == [0, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "http://x"}, "must be like redis://"),
        ({"url": "redis://user:hidden@x"}, "carries a login"),
        ({"url": "redis://x/abc"}, "no number of a database"),
        ({"url": "redis://x:port"}, "not understood"),
        ({"prefix": "a{b}"}, "without braces"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"linger_ms": -1}, "linger_ms is -1"),
        ({"password": "a", "password_env": "B"}, "leave one"),
        ({"password_env": "PORTASK_TEST_NOT_SET"}, "which is not set"),
        ({"password_file": "/nowhere/at/all"}, "cannot be read"),
    ],
)
def test_wrong_options_are_said_before_anything_is_sent(
    valkey: Place, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        valkey.entry.make(**{**valkey.options, **options})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("addresses", [[], ["nowhere"], ["redis://a:1"], ["a:b"]])
def test_wrong_addresses_are_said(addresses: list[str]) -> None:
    from portask import registry

    with pytest.raises(ConfigError, match="redis-cluster"):
        registry.get("storage", "redis-cluster").make(addresses=addresses)
