"""Several brokers over one store: they hear of each other's records and topics, and clients move between them."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from portask.client import Client, connect
from portask.messages import TopicPartition
from portask_lab.conformance.storage_support import BASE, KEY, batch_of
from portask_lab.loadgen import broker as process
from portask_lab.loadgen.processes import Child
from tests.conftest import RunningBroker, StartBroker
from tests.redis_streams.conftest import Make, Place, place_of, until

QUICK: dict[str, Any] = {"reconnect_delay": 0.01, "reconnect_max_delay": 0.1, "connect_timeout": 2.0}


@pytest.fixture(params=["valkey", "cluster"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a broker over the kind's store, with a place of the test's own."""
    place = place_of(request.param)
    return settings_of(place)


def settings_of(place: Place) -> dict[str, Any]:
    options = {**place.options, "prefix": secrets.token_hex(5)}
    return {
        "storage.variant": place.entry.name,
        **{f"storage.options.{name}": value for name, value in options.items()},
    }


@pytest.fixture
def two(store: dict[str, Any], start_broker: StartBroker) -> Iterator[tuple[RunningBroker, RunningBroker]]:
    brokers = start_broker(store), start_broker(store)
    yield brokers
    for broker in brokers:
        broker.stop()
        broker.engine.storage.close()  # type: ignore[attr-defined]


@contextmanager
def in_processes(store: dict[str, Any], count: int) -> Iterator[list[Child]]:
    """Brokers that can be killed."""
    options = {
        name.removeprefix("storage.options."): value for name, value in store.items() if "options" in name
    }
    children: list[Child] = []
    try:
        for _ in range(count):
            children.append(  # noqa: PERF401 - those that were started are ended whatever happens
                process.start("asyncio-protocol", storage=store["storage.variant"], storage_options=options)
            )
        yield children
    finally:
        for child in children:
            child.kill()


@asynccontextmanager
async def clients(*brokers: RunningBroker, **options: Any) -> AsyncIterator[list[Client]]:
    found = [await connect(broker.url, **options) for broker in brokers]
    try:
        yield found
    finally:
        for client in found:
            await client.close()


async def known(client: Client, topic: str) -> None:
    """Returns once the client's broker knows the topic."""
    async with asyncio.timeout(10):
        while not await client.topics(topic):  # noqa: ASYNC110 - another process says it
            await asyncio.sleep(0.01)


async def take(subscription: Any, count: int, seconds: float = 20) -> list[Any]:
    async with asyncio.timeout(seconds):
        return [await subscription.get() for _ in range(count)]


async def test_a_subscriber_sees_what_is_published_through_another_broker(
    two: tuple[RunningBroker, RunningBroker],
) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("a", 2)
        async with await other.subscribe("a", start="latest") as subscription:
            for number in range(50):
                await one.publish("a", b"%d" % number, key=b"k%d" % (number % 7))
            got = await take(subscription, 50)
    assert sorted(int(message.payload) for message in got) == list(range(50))
    for partition in (0, 1):
        offsets = [message.offset for message in got if message.partition == partition]
        assert offsets == list(range(len(offsets)))


async def test_both_publish_and_both_see_one_order(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("a", 1)
        subscriptions = [await client.subscribe("a", start="earliest") for client in (one, other)]

        async def publish(client: Client, name: bytes) -> None:
            for number in range(100):
                await client.publish("a", b"%s %d" % (name, number))

        await asyncio.gather(publish(one, b"one"), publish(other, b"other"))
        first, second = [await take(subscription, 200) for subscription in subscriptions]
        for subscription in subscriptions:
            await subscription.close()
    assert [message.offset for message in first] == list(range(200))
    assert [message.payload for message in first] == [message.payload for message in second]
    for name in (b"one", b"other"):
        mine = [message.payload for message in first if message.payload.startswith(name + b" ")]
        assert mine == [b"%s %d" % (name, number) for number in range(100)]


async def test_a_topic_made_at_one_broker_is_found_by_the_other(
    two: tuple[RunningBroker, RunningBroker],
) -> None:
    async with clients(*two) as (one, other):
        async with await other.subscribe("orders.>", start="latest") as waiting:
            await one.create_topic("orders.eu", 3)
            await known(other, "orders.eu")
            (info,) = await other.topics("orders.eu")
            assert len(info.partitions) == 3, "as the first broker said"
            await other.create_topic("orders.eu", 5)
            await one.publish("orders.eu", b"x", key=b"k")
            await one.publish("orders.us", b"y")
            got = await take(waiting, 2)
        assert sorted(message.payload for message in got) == [b"x", b"y"]
        (info,) = await one.topics("orders.eu")
        assert len(info.partitions) == 3


async def test_topics_are_there_after_a_restart_with_all_their_partitions(
    store: dict[str, Any], start_broker: StartBroker
) -> None:
    first = start_broker(store)
    async with clients(first) as (client,):
        await client.create_topic("empty", 7)
    first.stop()
    first.engine.storage.close()  # type: ignore[attr-defined]
    second = start_broker(store)
    async with clients(second) as (client,):
        (info,) = await client.topics("empty")
        assert len(info.partitions) == 7
    second.stop()
    second.engine.storage.close()  # type: ignore[attr-defined]


async def test_offsets_are_checked_against_the_store(two: tuple[RunningBroker, RunningBroker]) -> None:
    """A broker that did not hear yet of new records must not send a subscriber back to the beginning."""
    async with clients(*two) as (one, other):
        await one.create_topic("a", 1)
        await known(other, "a")
        storage: Any = two[1].engine.storage
        storage.grown = lambda *_: None  # it is deaf
        for number in range(20):
            await one.publish("a", b"%d" % number)
        assert (await other.fetch("a", start=15))[0].base_offset <= 15
        async with await other.subscribe("a", start=18) as subscription:
            assert [message.offset for message in await take(subscription, 2)] == [18, 19]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_client_with_several_addresses_fails_over_without_loss(
    store: dict[str, Any], idempotent: bool
) -> None:
    """Publisher and subscriber are at a broker that is killed; both go on at the other one."""
    with in_processes(store, 2) as children:
        urls = ",".join(f"127.0.0.1:{child.port}" for child in children)
        async with (
            connect(f"portask://{urls}", idempotent=idempotent, **QUICK) as publisher,
            connect(f"portask://{urls}", **QUICK) as reader,
        ):
            await publisher.create_topic("a", 2)
            subscription = await reader.subscribe("a", start="earliest")
            acked: set[bytes] = set()
            stopped = asyncio.Event()

            async def publish(name: int) -> None:
                for number in itertools.count():
                    if stopped.is_set():
                        return
                    payload = b"%d:%d" % (name, number)
                    await publisher.publish("a", payload, key=b"%d" % name)
                    acked.add(payload)

            publishing = [asyncio.create_task(publish(name)) for name in range(4)]
            await asyncio.sleep(0.5)
            before = len(acked)
            children[0].kill()
            async with asyncio.timeout(20):
                while len(acked) < before + 200:  # noqa: ASYNC110 - four tasks count
                    await asyncio.sleep(0.01)
            stopped.set()
            await asyncio.gather(*publishing)
            got: list[bytes] = []
            async with asyncio.timeout(20):
                while not acked <= set(got):
                    got.append((await subscription.get()).payload)
            await subscription.close()
    for name in range(4):
        mine = [int(payload.partition(b":")[2]) for payload in got if payload.startswith(b"%d:" % name)]
        if idempotent:
            assert mine == list(range(len(mine))), "in order, once each"
        else:
            assert sorted(set(mine)) == list(range(max(mine) + 1)), "each at least once"


def test_a_broker_that_dies_before_it_tells_is_found_out(valkey: Place, make: Make) -> None:
    """What it appended is announced by nobody; the others look when they see that it is gone."""
    from portask_variants.storage.redis_streams import news

    silent, reader = make(valkey, prefix="silent"), make(valkey, prefix="silent")
    silent.append(batch_of(b"0"))
    heard: list[tuple[TopicPartition, int]] = []
    reader.storage.grown = lambda key, following: heard.append((key, following))
    until(lambda: reader.storage._news.others and silent.storage._news.others)
    silent.storage._news.others = False  # it tells nobody
    silent.storage._news._beat = reader.storage._news._beat  # and does not say that it is alive
    silent.append(batch_of(b"1"), BASE)

    def seen() -> bool:
        reader.storage.poll()
        return (KEY, 2) in heard

    until(seen, news.LIFE_MS / 1000 + 10)


def test_a_broker_alone_tells_nobody(valkey: Place, make: Make) -> None:
    driver = make(valkey, prefix="alone")
    driver.append_all([batch_of(b"%d" % number) for number in range(100)])
    assert valkey.ask("XLEN", "alone:{brokers}:news") == 1, "that it is there"
    assert not driver.storage._news.others


def test_waiting_for_news_is_no_polling(valkey: Place, make: Make) -> None:
    """Two idle brokers: some commands in two seconds, not hundreds."""
    drivers = [make(valkey, prefix="idle") for _ in range(2)]
    until(lambda: all(driver.storage._news.others for driver in drivers))

    def commands() -> int:
        return sum(driver.storage.counters["commands"] for driver in drivers)

    before = commands()
    asyncio.run(asyncio.sleep(2.5))
    assert commands() - before < 30
