"""An idempotent client's messages are stored once, whatever happens to its connections and its brokers."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from portask import sync
from portask.client import Client, Pending, Receipt, connect
from portask.contracts import Closeable, Producers
from portask.errors import BatchTooLarge, ConfigError, Fenced, OutOfSequence, RequestTimeout, StorageFull
from portask.wire import batches, control
from portask.wire.frames import Frame, Opcode
from portask.wire.sequences import KEPT_BATCHES
from tests.cli.conftest import Running, serving
from tests.client.peers import Handler, Peer, Proxy, ScriptedBroker, opened
from tests.client.test_publish import everything
from tests.client.test_reconnect import until
from tests.conftest import RunningBroker, StartBroker

__all__ = ["serving"]  # a fixture

QUICK: dict[str, Any] = {"reconnect_delay": 0.001, "reconnect_max_delay": 0.002, "idempotent": True}


@pytest.fixture
async def proxy(broker: RunningBroker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.port) as relay:
        yield relay


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


async def payloads(client: Client, topic: str = "a", partition: int = 0) -> list[bytes]:
    return [message.payload for message in await everything(client, topic, partition)]


def next_offset(broker: RunningBroker, topic: str = "a") -> int:
    return broker.engine.topics[topic].partitions[0].next


# ── cuts ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_hundreds_of_cuts_between_storing_and_acknowledging(
    broker: RunningBroker, proxy: Proxy
) -> None:
    rounds, each = 200, 5
    async with connect(proxy.url, **QUICK) as client:
        await client.create_topic("a")
        receipts = []
        for round_ in range(rounds):
            proxy.mute_broker = True
            pending = []
            for number in numbers(each, round_ * each):
                pending.append(client.publish_nowait("a", number))
                await asyncio.sleep(0)
            stored = (round_ + 1) * each
            await until(lambda stored=stored: next_offset(broker) == stored)
            proxy.cut()
            proxy.mute_broker = False
            receipts += await asyncio.gather(*pending)
        assert await payloads(client) == numbers(rounds * each)
        assert receipts == [Receipt("a", 0, offset) for offset in range(rounds * each)]
        assert proxy.accepted > rounds
        assert (await client.describe()).duplicates >= rounds


async def test_cuts_at_any_moment_with_many_batches_under_way(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.default_partitions": 2})
    chance = random.Random(7)
    async with Proxy(broker.port) as proxy, connect(proxy.url, batch_bytes=500, **QUICK) as client:
        await client.create_topic("a")
        pending = []
        for number in range(3000):
            pending.append(client.publish_nowait("a", b"%d" % number, partition=number % 2))
            if not number % 10:
                await asyncio.sleep(0)
            if chance.random() < 0.03:
                await asyncio.sleep(chance.random() * 0.003)
                proxy.cut()
        result = await client.publish_many("a", numbers(3000, 3000), partition=1)
        await asyncio.gather(*pending)
        assert await payloads(client) == [b"%d" % number for number in range(0, 3000, 2)]
        odd = [b"%d" % number for number in range(1, 3000, 2)]
        assert await payloads(client, partition=1) == odd + numbers(3000, 3000)
        assert all(part.base_offset >= 0 for part in result.ranges)
        assert proxy.accepted > 20


async def test_what_is_sent_again_has_the_same_bytes() -> None:
    def ignore(peer: Peer, frame: Frame) -> None:
        if len(broker.peers) == 1:
            if len(broker.of(Opcode.PUBLISH)) == 3:
                peer.writer.transport.abort()
        else:
            body = control.encode_puback([control.UNKNOWN_OFFSET])
            peer.connection.send(Opcode.PUBACK, body, frame.correlation, frame.channel)

    async with (
        ScriptedBroker({Opcode.PUBLISH: ignore}) as broker,
        connect(broker.url, producer_id=77, producer_epoch=3, **QUICK) as client,
    ):
        await client.create_topic("a")
        pending = []
        for payload in (b"1", b"2", b"3"):
            pending += [client.publish_nowait("a", payload), client.publish_nowait("a", payload)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        receipts = await asyncio.gather(*pending)
        many = await client.publish_many("a", [b"4"])
    first, again = broker.of(Opcode.PUBLISH)[:3], broker.of(Opcode.PUBLISH)[3:6]
    assert [bytes(frame.body) for frame in first] == [bytes(frame.body) for frame in again]
    sent = [batches.parse(frame.body) for frame in broker.of(Opcode.PUBLISH)[3:]]
    assert [(batch.producer, batch.epoch, batch.sequence) for batch in sent] == [
        (77, 3, number) for number in (1, 3, 5, 7)
    ]
    assert receipts == [Receipt("a", 0, -1)] * 6, "the broker does not know any more where"
    assert many.ranges[0].base_offset == -1
    said = [control.decode(frame.body, control.Open) for frame in broker.of(Opcode.OPEN)]
    assert [(body.producer, body.epoch, body.sequence) for body in said] == [(77, 3, 0), (0, 0, 0)]


# ── what is not stored ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_message_fails_alone(start_broker: StartBroker) -> None:
    room = 1 << 20
    broker = start_broker({"memory.max_bytes": room, "limits.max_frame_bytes": room})
    async with connect(broker.url, **QUICK) as client:
        await client.create_topic("a")
        pending = []
        for number in range(15):
            payload = b"%d" % number if number % 7 != 3 else bytes(room - 200)
            pending.append(client.publish_nowait("a", payload))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert await payloads(client) == [b"%d" % number for number in range(15) if number % 7 != 3]
    assert [isinstance(outcome, StorageFull) for outcome in outcomes] == [
        number % 7 == 3 for number in range(15)
    ]
    assert [o.offset for o in outcomes if isinstance(o, Receipt)] == list(range(13))


async def test_what_was_given_up_leaves_no_gap_behind(broker: RunningBroker, proxy: Proxy) -> None:
    async with connect(proxy.url, request_timeout=0.3, **QUICK) as client:
        await client.publish("a", b"0")
        proxy.freeze()
        lost = client.publish_nowait("a", b"never arrives")
        with pytest.raises(RequestTimeout):
            await lost
        proxy.cut()
        proxy.thaw()
        await until(lambda: client.connected)
        assert await client.publish("a", b"1") == Receipt("a", 0, 1)
        assert await payloads(client) == [b"0", b"1"]


async def test_a_batch_too_large_for_the_next_broker_is_given_up() -> None:
    def hang_up_first(peer: Peer, frame: Frame) -> None:
        if len(broker.peers) == 1:
            peer.writer.transport.abort()
            return
        body = control.encode_puback([0])
        peer.connection.send(Opcode.PUBACK, body, frame.correlation, frame.channel)

    async with (
        ScriptedBroker({Opcode.PUBLISH: hang_up_first}) as broker,
        connect(broker.url, **QUICK) as client,
    ):
        await client.create_topic("a")
        broker.max_frame = 100_000
        large = client.publish_nowait("a", bytes(200_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        small = client.publish_nowait("a", b"small")
        with pytest.raises(BatchTooLarge):
            await large
        assert (await small).offset == 0
    said = [control.decode(frame.body, control.Open).sequence for frame in broker.of(Opcode.OPEN)]
    assert said[-1] == 2


async def test_a_gap_that_nothing_explains_is_told_once(broker: RunningBroker) -> None:
    async with connect(broker.url, producer_id=5, **QUICK) as client:
        await client.publish("a", b"1")
        await client.publish("a", b"2")
        standing = next(iter(broker.engine.producers._table.values()))
        standing.last = 1  # as if the broker had lost what it acknowledged
        outcomes = await asyncio.gather(
            *(client.publish("a", b"%d" % number) for number in (3, 4)), return_exceptions=True
        )
        assert all(isinstance(outcome, OutOfSequence) for outcome in outcomes), "both were in one batch"
        assert (await client.publish("a", b"5")).offset == 2


# ── other brokers, other clients ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("storage", ["memory", "segment-log"])
async def test_a_restarted_broker_knows_what_it_has(
    start_broker: StartBroker, tmp_path: Path, storage: str
) -> None:
    settings: dict[str, Any] = {"storage.variant": storage}
    if storage != "memory":
        settings["storage.options.path"] = str(tmp_path / "log")
    first = start_broker(settings)
    assert isinstance(first.engine.storage, Producers)
    async with Proxy(first.port) as proxy, connect(proxy.url, **QUICK) as client:
        await client.publish("a", b"0")
        proxy.mute_broker = True
        pending = []
        for number in numbers(3, 1):
            pending.append(client.publish_nowait("a", number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await until(lambda: next_offset(first) == 4)
        proxy.refusing = True
        proxy.cut()
        await asyncio.to_thread(first.stop)
        if isinstance(first.engine.storage, Closeable):
            first.engine.storage.close()
        second = await asyncio.to_thread(start_broker, {"server.port": first.port, **settings})
        proxy.mute_broker = proxy.refusing = False
        receipts = await asyncio.gather(*pending)
        await client.publish("a", b"4")
        stored = await payloads(client)
        if storage == "memory":  # it forgot everything, the producer included
            assert stored == numbers(4, 1)
        else:
            assert stored == numbers(5)
            assert [receipt.offset for receipt in receipts[-1:]] == [3]
            assert {receipt.offset for receipt in receipts} <= {-1, 1, 2, 3}
            assert second.engine.producers.duplicates == 3
        await client.close()
    await asyncio.to_thread(second.stop)
    if isinstance(second.engine.storage, Closeable):
        second.engine.storage.close()


@pytest.mark.parametrize("mode", ["os", "synced"])
async def test_a_killed_broker_stores_each_message_once(
    serving: Callable[..., Running], tmp_path: Path, mode: str
) -> None:
    """SIGKILL under load, twice; nothing is lost, nothing is there twice, and the order holds."""
    settings = {
        "PORTASK_STORAGE_VARIANT": "segment-log",
        "PORTASK_STORAGE_OPTIONS_PATH": str(tmp_path / "log"),
        "PORTASK_STORAGE_OPTIONS_MODE": mode,
    }
    broker = serving(**settings)
    pending: list[Pending] = []
    async with connect(broker.url, **QUICK) as client:
        for kill in range(3):
            for _ in range(50):
                for _ in range(20):
                    pending.append(client.publish_nowait("a", b"%d" % len(pending)))
                await asyncio.sleep(0.001)
            if kill < 2:
                await asyncio.to_thread(broker.end, signal.SIGKILL)
                broker = await asyncio.to_thread(serving, "--port", str(broker.port), **settings)
        await client.flush()
        assert await payloads(client) == numbers(len(pending))
        assert all(item.result().offset in {-1, number} for number, item in enumerate(pending))


async def test_another_broker_takes_the_numbers_as_they_come(start_broker: StartBroker) -> None:
    first, second = start_broker(), start_broker()
    async with (
        Proxy(first.port) as one,
        Proxy(second.port) as other,
        connect([one.url, other.url], **QUICK) as client,
    ):
        for round_, (here, there) in enumerate([(one, other), (other, one), (one, other)]):
            there.refusing, here.refusing = True, False
            there.cut()
            for number in numbers(3, 3 * round_):
                await client.publish("a", number)
            assert client.address.endswith(str(here.port))
        assert await payloads(client) == numbers(3) + numbers(3, 6)


async def test_what_is_given_up_while_the_channel_opens_is_said_too() -> None:
    held: list[tuple[Peer, Frame]] = []

    def open_slowly(peer: Peer, frame: Frame) -> None:
        if len(broker.peers) == 2 and not held:
            held.append((peer, frame))
        else:
            opened(peer, frame)

    def hang_up_first(peer: Peer, frame: Frame) -> None:
        if len(broker.peers) == 1:
            peer.writer.transport.abort()
        else:
            body = control.encode_puback([0])
            peer.connection.send(Opcode.PUBACK, body, frame.correlation, frame.channel)

    handlers: dict[int, Handler] = {Opcode.OPEN: open_slowly, Opcode.PUBLISH: hang_up_first}
    async with (
        ScriptedBroker(handlers) as broker,
        connect(broker.url, request_timeout=0.5, **QUICK) as client,
    ):
        await client.create_topic("a")
        doomed = client.publish_nowait("a", b"1")
        await until(lambda: held)
        client._publisher._channels[1].waiting[0].deadline = 0
        with pytest.raises(RequestTimeout):
            await doomed
        kept = client.publish_nowait("a", b"2")
        await asyncio.sleep(0)
        peer, frame = held[0]
        opened(peer, frame)
        peer.flush()
        assert (await kept).offset == 0
    said = [control.decode(frame.body, control.Open).sequence for frame in broker.of(Opcode.OPEN)]
    assert said == [0, 0, 2]
    assert batches.parse(broker.of(Opcode.PUBLISH)[-1].body).sequence == 2


async def test_who_takes_over_shuts_the_former_out(broker: RunningBroker) -> None:
    async with (
        connect(broker.url, producer_id=9, **QUICK) as former,
        connect(broker.url, producer_id=9, producer_epoch=1, **QUICK) as successor,
        connect(broker.url, producer_id=9, producer_epoch=1, **QUICK) as impostor,
    ):
        assert former.producer_id == 9
        await former.publish("a", b"0")
        await successor.publish("a", b"1")
        pending = []
        for number in (2, 3, 4):
            pending.append(former.publish_nowait("a", b"%d" % number))
            await asyncio.sleep(0)
        for outcome in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(outcome, Fenced), outcome
        with pytest.raises(Fenced, match="higher producer_epoch"):
            await former.publish("a", b"5")
        with pytest.raises(Fenced, match="higher producer_epoch"):
            await impostor.publish("a", b"6")
        await successor.publish("a", b"7")
        assert await payloads(successor) == [b"0", b"1", b"7"]


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"producer_id": 3}, "idempotent=True"),
        ({"idempotent": True, "producer_id": 1 << 64}, "producer_id"),
        ({"idempotent": True, "producer_epoch": 1 << 16}, "producer_epoch"),
        ({"idempotent": True, "max_in_flight": KEPT_BATCHES + 1}, "max_in_flight"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        connect("portask://127.0.0.1:1", **options)


async def test_ids_are_random_and_only_idempotent_clients_have_one(broker: RunningBroker) -> None:
    async with connect(broker.url) as plain, connect(broker.url, idempotent=True) as one:
        async with connect(broker.url, idempotent=True) as other:
            assert plain.producer_id == 0
            assert 0 < one.producer_id != other.producer_id
        await plain.publish("a", b"x")
        assert len(broker.engine.producers) == 0


def test_the_blocking_client_does_it_too(broker: RunningBroker) -> None:
    with sync.connect(broker.url, idempotent=True, producer_id=12) as client:
        assert client.producer_id == 12
        assert client.publish("a", b"x").offset == 0
    assert len(broker.engine.producers) == 1
