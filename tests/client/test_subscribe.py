"""Everything stored is delivered, once, in order, from where it was asked for, and no faster than consumed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portask.client import Delivered, connect
from portask.errors import (
    ClientError,
    CodecError,
    InvalidTopic,
    NotConnected,
    NotPermitted,
    OffsetOutOfRange,
    RequestTimeout,
    UnknownPartition,
    UnknownTopic,
)
from portask.messages import Message, TopicPartition
from portask.reference.codec import Cbor2Codec
from portask.wire import batches, control
from portask.wire.frames import Frame, Opcode
from tests.client.peers import Peer, Proxy, ScriptedBroker, subscribed
from tests.conftest import RunningBroker, StartBroker


def batch_of(base: int, count: int, *, codec: int = 1, payload: bytes = b"") -> bytes:
    """A stamped batch whose payloads say their offset."""
    messages = [Message(payload or b"%d" % (base + index)) for index in range(count)]
    body = Cbor2Codec().encode(messages, 1)
    return batches.build(body, count, codec=codec, base_timestamp=1, base_offset=base, append_time=9)


async def test_every_field_arrives(broker: RunningBroker) -> None:
    async with connect(broker.url) as client, client.subscribe("a") as subscription:
        await client.publish("a", b"x", key=b"k", headers={"h": b"v"}, timestamp=55)
        got = await subscription.get(5)
        assert got == Delivered("a", 0, 0, b"x", b"k", {"h": b"v"}, 55, got.append_time)
        assert abs(got.append_time / 1e6 - datetime.now(UTC).timestamp()) < 60
        assert subscription.positions == {TopicPartition("a", 0): 1}


async def test_messages_one_by_one_and_by_batch_are_the_same(broker: RunningBroker) -> None:
    payloads = [b"%d" % number for number in range(3000)]
    async with connect(broker.url, batch_bytes=4000) as client:
        await client.publish_many("a", payloads)
        one_by_one: list[Delivered] = []
        async for message in client.subscribe("a", "earliest"):
            one_by_one.append(message)
            if len(one_by_one) == 3000:
                break
        by_batch: list[Delivered] = []
        async for batch in client.subscribe("a", "earliest").batches():
            assert len(batch) == len(batch.messages) == batch.next_offset - batch.base_offset
            by_batch += batch.delivered()
            if len(by_batch) == 3000:
                break
    assert [message.payload for message in one_by_one] == payloads
    assert by_batch == one_by_one
    assert [message.offset for message in one_by_one] == list(range(3000))


async def test_breaking_out_of_a_loop_loses_nothing(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish_many("a", [b"%d" % number for number in range(10)])
        async with client.subscribe("a", "earliest") as subscription:
            seen = [(await subscription.get(5)).offset]
            async for message in subscription:
                seen.append(message.offset)
                if len(seen) == 4:
                    break
            async for message in subscription:
                seen.append(message.offset)
                break
            seen.append((await subscription.get(5)).offset)
            async for batch in subscription.batches():
                seen += [message.offset for message in batch.delivered()]
                break
    assert seen == list(range(10))


@pytest.mark.parametrize("start", [0, 7, 20, "earliest", "latest"])
async def test_offset_starts(broker: RunningBroker, start: Any) -> None:
    expected = {"earliest": 0, "latest": 20}.get(start, start)
    async with connect(broker.url) as client:
        await client.publish_many("a", [b"%d" % number for number in range(20)])
        async with client.subscribe("a", start) as subscription:
            await client.publish("a", b"20")
            got = [await subscription.get(5) for _ in range(21 - expected)]
        assert [(message.offset, message.payload) for message in got] == [
            (offset, b"%d" % offset) for offset in range(expected, 21)
        ]
        offsets = [m.offset for batch in await client.fetch("a", 0, start) for m in batch.delivered()]
        assert offsets == ([] if start == "latest" else list(range(expected, 21)))


async def test_time_starts(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish_many("a", [b"old"] * 5)
        await asyncio.sleep(0.05)
        between = datetime.now(UTC)
        await asyncio.sleep(0.01)
        await client.publish_many("a", [b"new"] * 5)
        async with client.subscribe("a", between) as subscription:
            assert (await subscription.get(5)).offset == 5
        async with client.subscribe("a", timedelta(hours=1)) as subscription:
            assert (await subscription.get(5)).offset == 0
        assert (await client.fetch("a", 0, between))[0].base_offset == 5
        assert await client.fetch("a", 0, datetime.now(UTC) + timedelta(days=1)) == []


@pytest.mark.parametrize("start", [-1, "first", True, 1.5, datetime(2020, 1, 1), None])  # noqa: DTZ001 - that is the fault
async def test_what_is_no_start_is_refused(broker: RunningBroker, start: Any) -> None:
    async with connect(broker.url) as client:
        with pytest.raises(ValueError, match=r"start|time zone"):
            client.subscribe("a", start)


async def test_an_offset_that_is_not_there_says_what_is(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish_many("a", [b"x"] * 5)
        for use in (client.subscribe("a", 6).start(), client.fetch("a", 0, 6)):
            with pytest.raises(OffsetOutOfRange) as caught:
                await use
            assert (caught.value.first, caught.value.next) == (0, 5)
        with pytest.raises(UnknownTopic):
            await client.fetch("nothing")
        with pytest.raises(UnknownPartition):
            await client.fetch("a", 1)
        with pytest.raises(InvalidTopic):
            await client.subscribe("no filter!")


async def test_filters_choose_topics_also_later_ones(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish("orders.eu", b"1")
        async with (
            client.subscribe("orders.*", "earliest") as star,
            client.subscribe("orders.>", "earliest") as rest,
            client.subscribe(">", "earliest") as everything,
        ):
            for topic in ("orders.us", "orders.us.created", "other"):
                await client.publish(topic, topic.encode())
            assert {(await star.get(5)).topic for _ in range(2)} == {"orders.eu", "orders.us"}
            assert {(await rest.get(5)).topic for _ in range(3)} == {
                "orders.eu",
                "orders.us",
                "orders.us.created",
            }
            assert len({(await everything.get(5)).topic for _ in range(4)}) == 4
            with pytest.raises(RequestTimeout, match=r"orders\.\*"):
                await star.get(0.05)
        assert [info.topic for info in await client.topics("orders.*")] == ["orders.eu", "orders.us"]
        described = await client.describe()
        assert (len(described.topics), described.durability) == (4, "memory")


async def test_many_partitions(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.default_partitions": 50})
    async with (
        connect(broker.url) as client,
        client.subscribe("a") as every,
        client.subscribe("a", partition=7) as one,
    ):
        sent = [Message(b"%d" % number, b"key-%d" % number) for number in range(2000)]
        await client.publish_many("a", sent)
        got: dict[int, list[int]] = {}
        for _ in sent:
            message = await every.get(5)
            got.setdefault(message.partition, []).append(message.offset)
        assert len(got) == 50
        assert all(offsets == list(range(len(offsets))) for offsets in got.values())
        assert [(await one.get(5)).offset for _ in got[7]] == got[7]
        assert one.positions == {TopicPartition("a", 7): len(got[7])}


async def test_hundreds_of_topics_are_described(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        names = [f"a-rather-long-name-for-a-topic.{number:04}" for number in range(1500)]
        await asyncio.gather(*(client.publish(name, b"") for name in names))
        assert [info.topic for info in await client.topics()] == names


async def test_a_slow_consumer_holds_no_more_than_its_credit(broker: RunningBroker) -> None:
    payloads = [bytes(1000)] * 5000
    async with Proxy(broker.port) as proxy, connect(broker.url) as producer, connect(proxy.url) as client:
        async with client.subscribe("a", credit_bytes=100_000) as subscription:
            await producer.publish_many("a", payloads)
            assert (await subscription.get(5)).offset == 0
            await asyncio.sleep(0.1)
            messages, size = subscription.buffered
            assert messages < 1000
            assert size < 100_000 + 400_000
            assert proxy.from_broker < 1_000_000
            seen = 1
            async for batch in subscription.batches():
                seen += len(batch)
                assert subscription.buffered[1] < 100_000 + 400_000
                if seen == 5000:
                    break
        assert proxy.from_broker > 5_000_000


async def test_credit_in_messages(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        async with client.subscribe("a", credit_messages=10) as subscription:
            for _ in range(30):
                await client.publish("a", b"x")
            await asyncio.sleep(0.02)
            assert subscription.buffered[0] == 10
            assert [(await subscription.get(5)).offset for _ in range(30)] == list(range(30))
        assert subscription.buffered == (0, 0)
        with pytest.raises(ValueError, match="credit"):
            client.subscribe("a", credit_messages=0)


async def test_what_was_consumed_is_acknowledged() -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        subscribed(peer, frame)
        peer.connection.send(Opcode.DELIVER, batch_of(0, 6) + batch_of(6, 4), 0, control.DELIVERY_CHANNELS)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker:
        async with connect(broker.url) as client:
            subscription = await client.subscribe("t", credit_messages=10, credit_bytes=10**6)
            for _ in range(7):
                await subscription.get(5)
            assert broker.of(Opcode.CREDIT) == []  # half a batch is not consumed yet
            for _ in range(3):
                await subscription.get(5)
            with pytest.raises(RequestTimeout):
                await subscription.get(0.02)
        (credit,) = broker.of(Opcode.CREDIT)
        first = control.decode(credit.body, control.Credit)
        assert first.messages in {6, 10}
        ranges = [control.decode(frame.body, control.Ack).ranges for frame in broker.of(Opcode.ACK)]
        assert [pair for some in ranges for pair in some] == [(0, 5), (6, 9)]
        assert {frame.channel for frame in broker.of(Opcode.ACK)} == {control.DELIVERY_CHANNELS}


async def test_batches_before_the_wanted_offset_and_gaps_are_coped_with() -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        first = control.encode(control.Assigned("t", 0, control.DELIVERY_CHANNELS, 5))
        peer.connection.send(Opcode.SUBSCRIBE, first, 0, frame.channel)
        peer.reply(frame, Opcode.SUBSCRIBE, control.encode(control.Assigned("", 0, 0, 0)))
        for data in (batch_of(0, 5), batch_of(3, 4) + batch_of(7, 2), batch_of(20, 1)):
            peer.connection.send(Opcode.DELIVER, data, 0, control.DELIVERY_CHANNELS)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker, connect(broker.url) as client:
        subscription = await client.subscribe("t", 5)
        got = [await subscription.get(5) for _ in range(5)]
        assert [message.offset for message in got] == [5, 6, 7, 8, 20]
        assert [message.payload for message in got] == [b"5", b"6", b"7", b"8", b"20"]


async def test_a_batch_that_cannot_be_decoded_is_said_once_and_passed_over() -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        subscribed(peer, frame)
        broken = batches.build(b"\xff\xff", 1, codec=1, base_timestamp=0, base_offset=2)
        for data in (batch_of(0, 1), batch_of(1, 1, codec=99), broken, batch_of(3, 1)):
            peer.connection.send(Opcode.DELIVER, data, 0, control.DELIVERY_CHANNELS)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker, connect(broker.url) as client:
        subscription = await client.subscribe("t")
        assert (await subscription.get(5)).offset == 0
        with pytest.raises(CodecError, match="wire id 99"):
            await subscription.get(5)
        with pytest.raises(CodecError):
            await subscription.get(5)
        assert (await subscription.get(5)).offset == 3


async def test_a_small_batch_does_not_keep_a_large_read_alive() -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        subscribed(peer, frame)
        data = batch_of(0, 1) + batch_of(1, 1, payload=bytes(50_000))
        peer.connection.send(Opcode.DELIVER, data, 0, control.DELIVERY_CHANNELS)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker, connect(broker.url) as client:
        subscription = await client.subscribe("t")
        await subscription.get(5)
        (queued,) = subscription._queue
        large, small = queued.batch, (subscription._current or queued).batch
        assert isinstance(small.data, bytes)
        assert isinstance(large.data, memoryview)


async def test_closing_ends_the_iteration(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("a")

        async def consume() -> int:
            return len([message async for message in subscription])

        task = asyncio.create_task(consume())
        await client.publish("a", b"x")
        await asyncio.sleep(0.02)
        await subscription.close()
        await subscription.close()
        assert await task == 1
        with pytest.raises(NotConnected):
            await subscription.get(1)
        await client.publish("a", b"nobody reads it")
        await client.ping()


async def test_closing_the_client_ends_the_iteration(broker: RunningBroker) -> None:
    client = await connect(broker.url)
    subscription = await client.subscribe("a")

    async def consume() -> list[Delivered]:
        return [message async for message in subscription]

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    await client.close()
    assert await task == []


async def test_draining_leaves_what_arrived(broker: RunningBroker) -> None:
    client = await connect(broker.url)
    subscription = await client.subscribe("a")
    await client.publish_many("a", [b"x"] * 10)
    await client.ping()
    await client.drain()
    assert len([message async for message in subscription]) == 10
    with pytest.raises(NotConnected):
        await client.publish("a", b"x")
    await client.close()


async def test_two_tasks_on_one_subscription_are_told(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("a")
        first = asyncio.create_task(subscription.get())
        await asyncio.sleep(0.01)
        with pytest.raises(ClientError, match="two tasks"):
            await subscription.get(1)
        await client.publish("a", b"x")
        assert (await first).payload == b"x"


async def test_cancelling_a_consumer_loses_nothing(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("a")
        task = asyncio.create_task(subscription.get())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.publish("a", b"x")
        assert (await subscription.get(5)).offset == 0


async def test_one_client_may_subscribe_many_times(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscriptions = [await client.subscribe("a") for _ in range(20)]
        await client.publish("a", b"x")
        assert [(await item.get(5)).payload for item in subscriptions] == [b"x"] * 20


async def test_who_would_be_given_more_partitions_than_it_may_have_is_told_why(
    start_broker: StartBroker,
) -> None:
    """Its connection ends, and when it subscribes again it is refused: nothing is left out without a word."""
    broker = start_broker({"limits.max_assignments": 2})
    async with connect(broker.url) as client, connect(broker.url) as other:
        subscription = await client.subscribe("a.*")
        await other.publish("a.0", b"x")
        assert (await subscription.get(5)).payload == b"x"
        for number in range(1, 16):  # of each worker
            await other.publish(f"a.{number}", b"y")

        async def read() -> None:
            async for message in subscription:
                assert message.payload == b"y"

        with pytest.raises(NotPermitted, match=r"more than 2 partitions \(limits.max_assignments\)"):
            await asyncio.wait_for(read(), 10)
