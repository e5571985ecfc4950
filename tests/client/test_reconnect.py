"""A lost connection costs no acknowledged order, no message and no position; and giving up is said to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from portask.client import Client, Receipt, connect
from portask.errors import ConnectFailed, Draining, NotConnected, RequestTimeout
from portask.wire import control
from portask.wire.frames import Frame, Opcode
from tests.client.peers import Peer, Proxy, ScriptedBroker
from tests.client.test_publish import everything
from tests.conftest import RunningBroker, StartBroker


@pytest.fixture
async def proxy(broker: RunningBroker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.port) as relay:
        yield relay


async def until(condition: object, seconds: float = 5) -> None:
    """Waits until ``condition()``."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of other threads have no event
            await asyncio.sleep(0.005)


def without_repeats(payloads: list[bytes]) -> list[bytes]:
    """First occurrences: what at-least-once leaves when repeats are taken out."""
    return list(dict.fromkeys(payloads))


async def test_publishes_survive_cuts_in_order(broker: RunningBroker, proxy: Proxy) -> None:
    sent = [b"%d" % number for number in range(2000)]
    async with connect(proxy.url, max_in_flight=4, reconnect_delay=0.01) as client:
        pending = []
        for index, payload in enumerate(sent):
            pending.append(client.publish_nowait("a", payload))
            if index % 20 == 0:
                await asyncio.sleep(0)
            if index % 500 == 250:
                await asyncio.sleep(0.005)
                proxy.cut()
        receipts = await asyncio.gather(*pending)
        stored = [m.payload for m in await everything(client, "a")]
    assert proxy.accepted >= 3
    assert without_repeats(stored) == sent
    assert all(stored[receipt.offset] == payload for receipt, payload in zip(receipts, sent, strict=True))


async def test_publish_many_survives_cuts(proxy: Proxy) -> None:
    sent = [b"%06d" % number for number in range(20_000)]
    async with connect(proxy.url, batch_bytes=4000, reconnect_delay=0.01) as client:
        task = asyncio.create_task(client.publish_many("a", sent))
        for _ in range(3):
            await asyncio.sleep(0.02)
            proxy.cut()
        assert (await task).count == 20_000
        stored = [m.payload for m in await everything(client, "a")]
    assert without_repeats(stored) == sent


async def test_what_was_stored_and_not_acknowledged_is_sent_again(
    broker: RunningBroker, proxy: Proxy
) -> None:
    async with connect(proxy.url, reconnect_delay=0.01) as client:
        await client.publish("a", b"0")
        proxy.mute_broker = True
        pending = [client.publish_nowait("a", b"%d" % number) for number in range(1, 4)]
        await until(lambda: broker.engine.topics["a"].partitions[0].next == 4)
        proxy.cut()
        proxy.mute_broker = False
        await asyncio.gather(*pending)
        assert [m.payload for m in await everything(client, "a")] == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"1",
            b"2",
            b"3",
        ]
        assert [item.result().offset for item in pending] == [4, 5, 6]


async def test_subscriptions_go_on_where_they_were(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.default_partitions": 3})
    async with (
        Proxy(broker.port) as proxy,
        connect(broker.url) as producer,
        connect(proxy.url, reconnect_delay=0.01) as client,
    ):
        subscription = await client.subscribe("a.>", "earliest", credit_bytes=2000)
        seen: dict[tuple[str, int], list[int]] = {}
        for round_ in range(4):
            for topic in ("a.x", "a.y"):
                for number in range(60):
                    await producer.publish(topic, b"%d" % number, key=b"%d" % number)
            if round_ == 2:
                proxy.refusing = True
                proxy.cut()
                await producer.publish("a.created-meanwhile", b"new", key=b"k")
                proxy.refusing = False
            else:
                proxy.cut()
            for _ in range(100):
                message = await subscription.get(5)
                seen.setdefault((message.topic, message.partition), []).append(message.offset)
        for _ in range(4 * 120 + 1 - 400):
            message = await subscription.get(5)
            seen.setdefault((message.topic, message.partition), []).append(message.offset)
        with pytest.raises(RequestTimeout):
            await subscription.get(0.05)
    assert proxy.accepted > 4
    assert len(seen) == 7
    assert all(offsets == list(range(len(offsets))) for offsets in seen.values())


async def test_a_latest_subscription_misses_nothing_during_a_cut(broker: RunningBroker, proxy: Proxy) -> None:
    async with connect(broker.url) as producer, connect(proxy.url, reconnect_delay=0.01) as client:
        await producer.publish("a", b"before")
        async with client.subscribe("a") as subscription:
            proxy.refusing = True
            proxy.cut()
            await producer.publish("a", b"meanwhile")
            await asyncio.sleep(0.05)
            assert not client.connected
            proxy.refusing = False
            assert (await subscription.get(5)).payload == b"meanwhile"


async def test_requests_are_asked_again(broker: RunningBroker, proxy: Proxy) -> None:
    async with connect(proxy.url, reconnect_delay=0.01) as client:
        await client.publish("a", b"x")
        proxy.mute_broker = True
        asked = [asyncio.create_task(client.fetch("a")), asyncio.create_task(client.create_topic("b"))]
        listed = asyncio.create_task(client.topics())
        pinged = asyncio.create_task(client.ping())
        await asyncio.sleep(0.02)
        proxy.mute_broker = False
        proxy.cut()
        assert len((await asked[0])[0]) == 1  # type: ignore[index]
        assert await asked[1] == 1
        assert {info.topic for info in await listed} == {"a", "b"}
        with pytest.raises(NotConnected, match="lost"):
            await pinged


async def test_without_reconnecting_everything_fails_with_the_reason(proxy: Proxy) -> None:
    client = await connect(proxy.url, reconnect=False)
    subscription = await client.subscribe("a")
    consumer = asyncio.create_task(subscription.get())
    proxy.mute_broker = True
    works = [
        asyncio.create_task(work)
        for work in (client.publish_many("b", [b"x"]), client.fetch("a"), client.ping())
    ]
    pending = client.publish_nowait("a", b"x")
    await asyncio.sleep(0.01)
    proxy.cut()
    for outcome in await asyncio.gather(consumer, *works, pending, return_exceptions=True):
        assert isinstance(outcome, NotConnected), outcome
        assert "is lost" in str(outcome)
    with pytest.raises(NotConnected, match="is lost"):
        await client.publish("a", b"x")
    with pytest.raises(NotConnected, match="is lost"):
        await subscription.get()
    await client.close()


@pytest.mark.parametrize("limit", [{"reconnect_attempts": 3}, {"reconnect_deadline": 0.1}])
async def test_giving_up_is_said_with_the_last_reason(proxy: Proxy, limit: dict[str, float]) -> None:
    client = await connect(proxy.url, reconnect_delay=0.001, **limit)  # type: ignore[arg-type]
    proxy.refusing = True
    proxy.cut()
    pending = client.publish_nowait("a", b"x")
    with pytest.raises(NotConnected, match=r"gave up after \d+ attempts .* cannot connect"):
        await pending
    with pytest.raises(NotConnected, match="gave up"):
        client.publish_nowait("a", b"x")
    await client.close()


async def test_publishes_wait_within_the_buffer_while_there_is_no_connection(proxy: Proxy) -> None:
    async with connect(proxy.url, buffer_bytes=20_000, batch_bytes=1000, reconnect_delay=0.01) as client:
        await client.publish("a", b"first")
        proxy.refusing = True
        proxy.cut()
        await until(lambda: not client.connected)
        works = [asyncio.create_task(client.publish("a", bytes(500))) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert client.buffered <= 20_000
        assert not any(work.done() for work in works)
        proxy.refusing = False
        receipts = await asyncio.gather(*works)
        assert sorted(receipt.offset for receipt in receipts) == list(range(1, 101))


async def test_a_frozen_broker_is_noticed(proxy: Proxy) -> None:
    # twice the keepalive is what a broker has for its answer, and this process, where all of them live, may stand still
    async with connect(proxy.url, keepalive=0.3, reconnect_delay=0.01) as client:
        await client.publish("a", b"x")
        await asyncio.sleep(0.8)
        assert proxy.accepted == 1  # a broker that answers is not hung up on, however quiet it is
        proxy.freeze()
        pending = client.publish_nowait("a", b"y")
        await until(lambda: not client.connected)
        proxy.thaw()
        assert (await pending).offset >= 1


async def test_a_restarted_broker_is_found_again(start_broker: StartBroker) -> None:
    first = start_broker()
    async with connect(first.url, reconnect_delay=0.01) as client, client.subscribe("a") as subscription:
        assert await client.publish("a", b"1") == Receipt("a", 0, 0)
        assert (await subscription.get(5)).offset == 0
        await asyncio.to_thread(first.stop)
        pending = client.publish_nowait("a", b"2")
        await asyncio.to_thread(start_broker, {"server.port": first.port})
        # The log was in memory: the new broker begins at 0, and the subscription goes on with what it has.
        assert (await pending).offset == 0
        assert (await subscription.get(5)).payload == b"2"


async def test_the_next_address_is_tried(start_broker: StartBroker) -> None:
    first, second = start_broker(), start_broker()
    async with connect([first.url, second.url], reconnect_delay=0.01) as client:
        assert client.address == f"127.0.0.1:{first.port}"
        await client.publish("a", b"1")
        await asyncio.to_thread(first.stop)
        await client.publish("a", b"2")
        assert client.address == f"127.0.0.1:{second.port}"
    async with connect([first.url, second.url]) as client:
        assert client.address == f"127.0.0.1:{second.port}"


async def test_a_draining_broker_is_left_in_order(start_broker: StartBroker) -> None:
    first, second = start_broker({"server.options.grace": 5}), start_broker()
    async with connect([first.url, second.url]) as client:
        sent = 0
        works: list[asyncio.Task[Receipt]] = []
        stopping = asyncio.create_task(asyncio.to_thread(first.stop))
        while not stopping.done():
            works.append(asyncio.create_task(client.publish("a", b"%d" % sent)))
            sent += 1
            await asyncio.sleep(0.001)
        receipts = await asyncio.gather(*works)
        there = [m.payload for m in await everything(client, "a")]
        assert client.address == f"127.0.0.1:{second.port}"
    early = sent - len(there)
    assert there == [b"%d" % number for number in range(early, sent)]
    assert [receipt.offset for receipt in receipts] == [*range(early), *range(sent - early)]


async def test_a_batch_refused_for_draining_goes_to_the_next_broker_in_its_place() -> None:
    def refuse(peer: Peer, frame: Frame) -> None:
        if len(broker.peers) == 1:
            peer.refuse(frame, Draining.code)
        else:
            order.append(bytes(frame.body)[-1:])
            peer.connection.send(
                Opcode.PUBACK, control.encode_puback([len(order)]), frame.correlation, frame.channel
            )

    order: list[bytes] = []
    async with (
        ScriptedBroker({Opcode.PUBLISH: refuse}) as broker,
        connect(broker.url, reconnect_delay=0.01) as client,
    ):
        await client.create_topic("a")
        works = []
        for number in range(5):
            works.append(client.publish_nowait("a", b"%d" % number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        broker.handlers[Opcode.DRAIN] = lambda peer, _: peer.writer.close()
        await asyncio.gather(*works)
        assert order == [b"0", b"1", b"2", b"3", b"4"]


async def test_closing_while_there_is_no_connection_is_bounded(proxy: Proxy) -> None:
    client = await connect(proxy.url, request_timeout=0.3, reconnect_delay=0.01)
    proxy.refusing = True
    proxy.cut()
    client.publish_nowait("a", b"never sent")
    async with asyncio.timeout(5):
        with pytest.raises(RequestTimeout):
            await client.close()


async def test_the_first_connection_is_tried_once_around() -> None:
    async with Proxy(1) as relay:
        relay.refusing = True
        with pytest.raises(ConnectFailed) as caught:
            await connect([relay.url, relay.url])
    assert str(caught.value).count(f"127.0.0.1:{relay.port}") >= 2
    assert relay.accepted == 2


async def test_clients_do_not_leave_tasks_behind(proxy: Proxy) -> None:
    before = asyncio.all_tasks()
    clients: list[Client] = [await connect(proxy.url) for _ in range(5)]
    proxy.refusing = True
    proxy.cut()
    await asyncio.sleep(0.02)
    for client in clients:
        await client.close()
    await asyncio.sleep(0.01)
    relaying = ("Proxy", "StreamReader")
    left = [task for task in asyncio.all_tasks() - before if not any(name in repr(task) for name in relaying)]
    assert left == []
