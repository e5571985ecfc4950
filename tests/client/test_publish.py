"""What is published is acknowledged where it lies, in order, in few batches, or fails with its own error."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from portask.client import Client, OffsetRange, Receipt, connect, partition_of
from portask.client.results import Published
from portask.errors import (
    BatchTooLarge,
    BufferExhausted,
    CodecError,
    InvalidTopic,
    NotConnected,
    NotPermitted,
    PortaskError,
    RequestTimeout,
    StorageFull,
    UnknownPartition,
)
from portask.messages import Buffer, Message
from portask.wire import batches, control
from portask.wire.frames import Frame, Opcode
from tests.client.peers import Peer, ScriptedBroker
from tests.conftest import RunningBroker, StartBroker


async def everything(client: Client, topic: str, partition: int = 0) -> list[Message]:
    """All messages of a partition, by FETCH."""
    found: list[Message] = []
    while batch := await client.fetch(topic, partition, len(found)):
        for part in batch:
            found += part.messages
    return found


async def test_a_receipt_says_where_the_message_lies(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        receipts = [await client.publish("a.b", b"%d" % number) for number in range(3)]
        assert receipts == [Receipt("a.b", 0, offset) for offset in range(3)]


async def test_key_headers_and_timestamp_arrive(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish("a", b"x", key=b"k", headers={"h": "text", "b": b"\0"}, timestamp=12_345)
        await client.publish("a", bytearray(b"mutable"), headers={})
        await client.publish("a", memoryview(b"view")[1:])
        first, second, third = await everything(client, "a")
    assert first == Message(b"x", b"k", {"h": "text", "b": b"\0"}, 12_345)
    assert (second.payload, second.headers) == (b"mutable", None)
    assert third.payload == b"iew"
    assert third.timestamp > 1_600_000_000_000_000


async def test_what_is_published_in_one_iteration_shares_a_batch() -> None:
    def ack(peer: Peer, frame: Frame) -> None:
        sizes.append(batches.parse(frame.body).count)
        lengths.append(len(frame.body))
        body = control.encode_puback([0])
        peer.connection.send(Opcode.PUBACK, body, frame.correlation, frame.channel)

    sizes: list[int] = []
    lengths: list[int] = []
    async with ScriptedBroker({Opcode.PUBLISH: ack}) as broker, connect(broker.url) as client:
        await client.create_topic("a")
        assert client.published == Published(0, 0, 0)
        pending = [client.publish_nowait("a", b"x") for _ in range(100)]
        receipts = await asyncio.gather(*pending)
        assert client.published == Published(1, 100, lengths[0]), "as the broker got it"
        await client.publish_many("a", [b"y"] * 20)
        assert client.published == Published(2, 120, sum(lengths))
    assert sizes == [100, 20]
    assert [receipt.offset for receipt in receipts] == list(range(100))


async def test_messages_published_before_the_topic_is_known_keep_their_order(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        pending = [client.publish_nowait("a", b"%d" % number) for number in range(50)]
        assert not pending[0].done()
        with pytest.raises(asyncio.InvalidStateError):
            pending[0].result()
        await client.flush()
        assert [item.result().offset for item in pending] == list(range(50))
        assert [m.payload for m in await everything(client, "a")] == [b"%d" % n for n in range(50)]
        assert client.buffered == 0


async def test_a_full_batch_does_not_wait_for_the_linger(broker: RunningBroker) -> None:
    async with connect(broker.url, request_timeout=20) as client:
        async with client.producer("a", linger_ms=3_600_000, batch_bytes=1000) as producer:
            pending = [producer.publish_nowait(bytes(300)) for _ in range(7)]
            await pending[2]
            await asyncio.sleep(0.05)
            assert not pending[6].done()
        assert pending[6].result().offset == 6
        with pytest.raises(NotConnected, match="producer of a is closed"):
            producer.publish_nowait(b"")


async def test_a_lingering_producer_sends_when_the_linger_is_over(broker: RunningBroker) -> None:
    async with connect(broker.url, linger_ms=5) as client:
        assert (await client.publish("a", b"x")).offset == 0


async def test_publish_many_says_where_everything_lies(broker: RunningBroker) -> None:
    async with connect(broker.url, batch_bytes=5000) as client:
        result = await client.publish_many("a", (b"%06d" % number for number in range(5000)))
        assert (result.topic, result.count) == ("a", 5000)
        assert len(result.ranges) < 100
        assert sum(part.count for part in result.ranges) == 5000
        assert [m.payload for m in await everything(client, "a")] == [b"%06d" % n for n in range(5000)]
        assert (await client.publish_many("a", [])).ranges == []
        mixed: list[Message | Buffer] = [b"x", bytearray(b"y"), Message(b"z", b"k")]
        assert (await client.publish_many("a", mixed)).ranges == [OffsetRange(0, 5000, 3)]


@pytest.mark.parametrize("many", [True, False])
async def test_keys_choose_partitions_and_keep_their_order(start_broker: StartBroker, many: bool) -> None:
    broker = start_broker({"topics.default_partitions": 5})
    messages = [Message(b"%d" % number, b"key-%d" % (number % 17)) for number in range(500)]
    async with connect(broker.url) as client:
        assert await client.create_topic("a") == 5
        if many:
            await client.publish_many("a", messages)
        else:
            for message in messages:
                client.publish_nowait("a", message.payload, key=message.key)
            await client.flush()
        for partition in range(5):
            expected = [m.payload for m in messages if partition_of(m.key or b"", 5) == partition]
            assert [m.payload for m in await everything(client, "a", partition)] == expected


async def test_messages_without_a_key_take_turns(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.default_partitions": 3})
    async with connect(broker.url) as client:
        receipts = [await client.publish("a", b"x") for _ in range(6)]
        assert [receipt.partition for receipt in receipts] == [0, 1, 2, 0, 1, 2]
        result = await client.publish_many("b", [b"x"] * 3000)
        assert {part.partition for part in result.ranges} == {0, 1, 2}


async def test_a_partition_may_be_named(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.default_partitions": 3})
    async with connect(broker.url) as client:
        assert (await client.publish("a", b"x", key=b"k", partition=2)).partition == 2
        assert (await client.publish_many("a", [b"x"], partition=1)).ranges == [OffsetRange(1, 0, 1)]
        for publish in (
            client.publish("a", b"x", partition=3),
            client.publish_many("a", [b"x"], partition=-1),
        ):
            with pytest.raises(UnknownPartition, match="0 to 2"):
                await publish
        early = client.publish_nowait("new", b"x", partition=9)
        with pytest.raises(UnknownPartition):
            await early
        await client.flush()
        assert client.buffered == 0


async def test_a_topic_is_created_with_so_many_partitions(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        assert await client.create_topic("a", 7) == 7
        assert await client.create_topic("a", 3) == 7
        with pytest.raises(InvalidTopic, match="not a topic name"):
            await client.create_topic("no topic!")


async def test_one_bad_message_fails_alone(broker: RunningBroker) -> None:
    headers: Any = {"number": 5}
    async with connect(broker.url) as client:
        await client.create_topic("a")
        good = [client.publish_nowait("a", b"%d" % number) for number in range(5)]
        far_away = client.publish_nowait("a", b"bad", timestamp=1 << 70)
        good += [client.publish_nowait("a", b"%d" % number) for number in range(5, 9)]
        with pytest.raises(CodecError):
            await far_away
        assert [receipt.offset for receipt in await asyncio.gather(*good)] == list(range(9))
        with pytest.raises(TypeError, match="headers"):
            await client.publish("a", b"bad", headers=headers)
        with pytest.raises(CodecError) as caught:
            await client.publish_many("a", [b"x", Message(b"bad", None, headers)])
        assert "1 messages" in caught.value.__notes__[0]
        assert client.buffered == 0


@pytest.mark.parametrize(("payload", "key"), [("text", None), (5, None), (None, None), (b"x", "text")])
async def test_wrong_types_are_refused_at_once(broker: RunningBroker, payload: Any, key: Any) -> None:
    async with connect(broker.url) as client:
        with pytest.raises(TypeError, match="bytes"):
            client.publish_nowait("a", payload, key=key)
        with pytest.raises(TypeError, match="bytes"):
            await client.publish("a", payload, key=key)
        assert client.buffered == 0


async def test_a_message_above_the_brokers_limit_fails_alone(start_broker: StartBroker) -> None:
    broker = start_broker({"limits.max_frame_bytes": 65536})
    async with connect(broker.url) as client:
        await client.create_topic("a")
        pending = [client.publish_nowait("a", bytes(size)) for size in (10, 70_000, 10, 40_000, 40_000)]
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Receipt, BatchTooLarge, Receipt, Receipt, Receipt]
        with pytest.raises(BatchTooLarge, match="65,536"):
            await client.publish_many("a", [bytes(70_000)])
        assert (await client.publish_many("a", [bytes(10_000)] * 20)).count == 20


async def test_the_brokers_refusal_reaches_the_message(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.auto_create": False})
    async with connect(broker.url) as client:
        for publish in (
            client.publish("a", b"x"),
            client.publish_many("a", [b"x"]),
            client.create_topic("a"),
        ):
            with pytest.raises(NotPermitted, match="does not create topics"):
                await publish
        client.publish_nowait("a", b"x")
        with pytest.raises(NotPermitted):
            await client.flush()
        await client.flush()


async def test_a_full_broker_refuses_and_takes_more_after_it(start_broker: StartBroker) -> None:
    broker = start_broker({"memory.max_bytes": 1024**2, "limits.max_frame_bytes": 1024**2})
    async with connect(broker.url) as client:
        with pytest.raises(StorageFull) as caught:
            await client.publish_many("a", (bytes(10_000) for _ in range(1000)))
        assert "were acknowledged" in caught.value.__notes__[-1]
        assert client.buffered == 0


async def test_a_refused_batch_fails_alone() -> None:
    def answer(peer: Peer, frame: Frame) -> None:
        count = len(broker.of(Opcode.PUBLISH))
        if count == 2:
            peer.refuse(frame, StorageFull.code)
        else:
            peer.connection.send(
                Opcode.PUBACK, control.encode_puback([count]), frame.correlation, frame.channel
            )

    async with ScriptedBroker({Opcode.PUBLISH: answer}) as broker, connect(broker.url) as client:
        outcomes: list[Receipt | BaseException] = []
        for _ in range(3):
            outcomes += await asyncio.gather(client.publish("a", b"x"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Receipt, StorageFull, Receipt]
        assert client.buffered == 0


async def test_nowait_pushes_back_when_the_buffer_is_full() -> None:
    async with ScriptedBroker({}) as broker:
        client = await connect(broker.url, buffer_bytes=10_000, batch_bytes=2000, request_timeout=0.4)
        await client.create_topic("a")
        pending = []

        def fill() -> None:
            while True:
                pending.append(client.publish_nowait("a", bytes(1000)))

        with pytest.raises(BufferExhausted, match="buffer_bytes=10,000"):
            fill()
        assert client.buffered <= 10_000
        with pytest.raises(BufferExhausted, match="never fit"):
            await client.publish("a", bytes(20_000))
        with pytest.raises((BufferExhausted, RequestTimeout)):
            await client.publish("a", bytes(1000))
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {RequestTimeout}
        assert client.buffered == 0
        await client.close()


async def test_publish_waits_for_room(broker: RunningBroker) -> None:
    async with connect(broker.url, buffer_bytes=5_000, batch_bytes=1000) as client:
        receipts = await asyncio.gather(*(client.publish("a", bytes(1000)) for _ in range(100)))
        assert sorted(receipt.offset for receipt in receipts) == list(range(100))


async def test_a_failure_that_nobody_looked_at_is_raised_by_close() -> None:
    def refuse(peer: Peer, frame: Frame) -> None:
        peer.refuse(frame, StorageFull.code)

    async def use(url: str, then: Exception | None) -> None:
        async with connect(url, request_timeout=1) as client:
            for _ in range(5):
                client.publish_nowait("a", b"x")
            if then is not None:
                raise then

    async with ScriptedBroker({Opcode.PUBLISH: refuse}) as broker:
        with pytest.raises(StorageFull) as caught:
            await use(broker.url, None)
        assert "4 other messages" in caught.value.__notes__[0]
        with pytest.raises(ZeroDivisionError) as division:
            await use(broker.url, ZeroDivisionError())
        assert "refused by the script" in division.value.__notes__[0]


async def test_pending_tells_callbacks(broker: RunningBroker) -> None:
    seen: list[Receipt] = []
    async with connect(broker.url) as client:
        pending = client.publish_nowait("a", b"x")
        pending.add_done_callback(lambda done: seen.append(done.result()))
        pending.add_done_callback(lambda _: 1 / 0)  # the application's bug is not the connection's
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        await pending
        pending.add_done_callback(lambda done: seen.append(done.result()))
        await asyncio.sleep(0.01)
        assert seen == [Receipt("a", 0, 0)] * 2
        assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]
        assert client.connected
        assert pending.exception() is None


async def test_cancelling_one_waiter_leaves_the_others(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        pending = client.publish_nowait("a", b"x")

        async def wait() -> Receipt:
            return await pending

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == Receipt("a", 0, 0)


async def test_a_message_expires(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish("a", b"short", ttl=0.001)
        await client.publish("a", b"long", ttl=timedelta(hours=1))
        await client.publish_many("a", [b"forever"])
        await asyncio.sleep(0.02)
        async with client.subscribe("a", "earliest") as subscription:
            assert [(await subscription.get(5)).payload for _ in range(2)] == [b"long", b"forever"]
        with pytest.raises(ValueError, match="ttl"):
            client.publish_nowait("a", b"x", ttl=0)


@pytest.mark.parametrize("compression", ["always", "threshold", "adaptive", "batch", "lz4", "never"])
async def test_compressed_batches_arrive(broker: RunningBroker, compression: str) -> None:
    payloads = [b'{"name":"flight %06d","status":"on time"}' % number for number in range(2000)]
    async with connect(broker.url, compression=compression) as client:
        await client.publish_many("a", payloads)
        await client.publish("a", b"alone")
    async with connect(broker.url) as reader:
        assert [m.payload for m in await everything(reader, "a")] == [*payloads, b"alone"]


@pytest.mark.parametrize("codec", ["cbor2", "struct", "msgspec-msgpack"])
async def test_any_codec_is_read_by_a_client_of_another(broker: RunningBroker, codec: str) -> None:
    message = Message(b"x", b"k", {"h": "v"}, 5)
    async with connect(broker.url, codec=codec) as client:
        await client.publish_many("a", [message])
    async with connect(broker.url, codec="cbor2") as reader:
        assert await everything(reader, "a") == [message]


async def test_after_closing_everything_says_so(broker: RunningBroker) -> None:
    client = await connect(broker.url)
    producer = client.producer("a")
    await client.close()
    await client.close()
    for use in (
        client.publish("a", b""), client.publish_many("a", []), client.create_topic("a"), client.ping(),
        client.topics(), client.fetch("a"), producer.publish(b""),
    ):  # fmt: skip
        with pytest.raises(NotConnected, match="the client is closed"):
            await use
    for call in (
        lambda: client.publish_nowait("a", b""),
        lambda: client.subscribe("a"),
        lambda: client.producer("a"),
    ):
        with pytest.raises(NotConnected):
            call()
    await client.flush()


async def test_closing_flushes(broker: RunningBroker) -> None:
    async with connect(broker.url, linger_ms=3_600_000) as client:
        pending = client.publish_nowait("a", b"x")
    assert pending.result() == Receipt("a", 0, 0)


async def test_a_puback_that_fits_nothing_is_the_brokers_fault() -> None:
    def overdo(peer: Peer, frame: Frame) -> None:
        body = control.encode_puback([0, 1, 2])
        peer.connection.send(Opcode.PUBACK, body, frame.correlation, frame.channel)

    async with ScriptedBroker({Opcode.PUBLISH: overdo}) as broker:
        client = await connect(broker.url, reconnect=False)
        with pytest.raises(PortaskError, match="PUBACK"):
            await client.publish("a", b"x")
        await client.close()


async def test_correlation_ids_wrap_past_zero(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.create_topic("a")
        link = client._connector.link
        assert link is not None
        link._correlation = 0xFFFF_FFFD
        for offset in range(5):
            assert (await client.publish("a", b"x")).offset == offset
        assert link._correlation == 3
