"""Members of a group share the work, whatever becomes of one of them; what is done stays done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from portask import sync
from portask.client import Client, Delivered, Subscription, connect
from portask.client.leases import without
from portask.errors import (
    ClientError,
    CodecError,
    InvalidTopic,
    NotConnected,
    NotPermitted,
    RequestTimeout,
    UnknownGroup,
)
from portask.wire import control
from portask.wire.frames import WINDOW, Frame, Opcode
from portask.wire.windows import pack
from tests.client.peers import Peer, Proxy, ScriptedBroker, subscribed
from tests.client.test_subscribe import batch_of
from tests.conftest import RunningBroker, StartBroker


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of other threads have no event
            await asyncio.sleep(0.005)


async def lag(client: Client, group: str = "g") -> int:
    (info,) = await client.groups(group)
    return info.lag


async def until_done(client: Client, group: str = "g") -> None:
    async with asyncio.timeout(5):
        while await lag(client, group):  # noqa: ASYNC110 - another's doing has no event
            await asyncio.sleep(0.005)


async def work(subscription: Subscription, done: list[Delivered]) -> None:
    async for message in subscription:
        done.append(message)
        await asyncio.sleep(0)


async def test_three_members_share_and_each_message_is_done_once(broker: RunningBroker) -> None:
    payloads = [b"%d" % number for number in range(5000)]
    async with connect(broker.url) as client:
        members = [await client.subscribe("jobs", "earliest", group="g") for _ in range(3)]
        done: list[list[Delivered]] = [[], [], []]
        tasks = [asyncio.create_task(work(*pair)) for pair in zip(members, done, strict=True)]
        await client.publish_many("jobs", payloads)
        await until(lambda: sum(map(len, done)) == 5000)
        await until_done(client)
        for member in members:
            await member.close()
        await asyncio.gather(*tasks)
    assert all(len(each) > 500 for each in done)
    got = sorted((message.offset, message.payload, message.deliveries) for each in done for message in each)
    assert got == [(offset, payload, 1) for offset, payload in enumerate(payloads)]


async def test_single_messages_go_to_members_in_turn(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        members = [await client.subscribe("jobs", group="g") for _ in range(3)]
        for number in range(9):
            await client.publish("jobs", b"%d" % number)
        got = [[(await member.get(5)).payload for _ in range(3)] for member in members]
    assert sorted(payload for each in got for payload in each) == [b"%d" % number for number in range(9)]


async def test_what_a_lost_member_had_is_done_by_others(broker: RunningBroker) -> None:
    async with Proxy(broker.port) as proxy, connect(broker.url) as client:
        lost = await connect(proxy.url, reconnect=False)
        had = await lost.subscribe("jobs", "earliest", group="g", credit_messages=100)
        await client.publish_many("jobs", [b"%d" % number for number in range(200)])
        first = await had.get(5)
        await until(lambda: had.buffered[0] == 100)
        stays = await client.subscribe("jobs", "earliest", group="g")
        done: list[Delivered] = []
        task = asyncio.create_task(work(stays, done))
        await until(lambda: len(done) == 100)
        proxy.cut()
        await until(lambda: len({message.offset for message in done}) == 200)
        again = [message for message in done if message.deliveries == 2]
        assert {message.offset for message in again} == set(range(100))
        assert first.offset in {message.offset for message in again}
        await until_done(client)
        (info,) = await client.groups()
        assert info.partitions[0].redelivered == 100
        await stays.close()
        await task
        with suppress(Exception):
            await lost.close()


async def test_a_cut_connection_comes_back_and_nothing_is_lost(broker: RunningBroker) -> None:
    async with Proxy(broker.port) as proxy, connect(broker.url) as client:
        async with connect(proxy.url, reconnect_delay=0.01) as member:
            subscription = await member.subscribe("jobs", "earliest", group="g", credit_messages=50)
            await client.publish_many("jobs", [b"%d" % number for number in range(1000)])
            seen: Counter[int] = Counter()
            async with asyncio.timeout(10):
                async for message in subscription:
                    seen[message.offset] += 1
                    if sum(seen.values()) in {100, 300, 500}:
                        proxy.cut()
                    await asyncio.sleep(0)
                    if len(seen) == 1000:
                        message.ack()
                        break
            await until_done(client)
        assert sum(seen.values()) <= 1000 + 3 * (
            50 + 50
        )  # what was in hand or waited; what was not said in time


async def test_no_ack_in_time_and_it_comes_again(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe(
            "jobs", "earliest", group="g", ack_wait=0.1, auto_ack=False, credit_messages=1
        )
        await client.publish_many("jobs", [b"a", b"b"])
        first = await subscription.get(5)
        began = time.monotonic()
        again = await subscription.get(5)
        assert (first.payload, first.deliveries) == (b"a", 1)
        assert (again.payload, again.deliveries) == (b"a", 2)
        assert time.monotonic() - began > 0.05
        first.ack()  # late, and it counts all the same
        assert (await subscription.get(5)).payload == b"b"


@pytest.mark.parametrize("server", ["asyncio-streams", "asyncio-protocol", "epoll"])
async def test_every_server_wakes_for_what_is_due_and_for_who_left(
    start_broker: StartBroker, server: str
) -> None:
    broker = start_broker({"server.variant": server})
    async with connect(broker.url) as client:
        waits = await client.subscribe("jobs", group="g", ack_wait=0.1, auto_ack=False)
        await client.publish("jobs", b"x")
        assert [(await waits.get(5)).deliveries for _ in range(3)] == [1, 2, 3]
        await waits.close()
        lost = await connect(broker.url, reconnect=False)
        await lost.subscribe("left", group="h", start="earliest")
        await client.publish("left", b"x")
        other = await client.subscribe("left", group="h")
        await asyncio.sleep(0.05)
        assert lost._connector.link is not None
        lost._connector.link.abort(NotConnected("by the test"))
        assert (await other.get(5)).payload == b"x"  # in 30 s it would come anyway
        with suppress(NotConnected):
            await lost.close()


async def test_extending_keeps_a_message(broker: RunningBroker) -> None:
    async with connect(broker.url) as client, connect(broker.url) as other:
        holder = await client.subscribe("jobs", group="g", ack_wait=0.15, auto_ack=False)
        await client.publish("jobs", b"long")
        message = await holder.get(5)
        waits = await other.subscribe("jobs", group="g")
        for _ in range(8):
            await asyncio.sleep(0.05)
            message.extend()
        with pytest.raises(RequestTimeout):
            await waits.get(0.01)
        message.ack()
        await until_done(client)
        with pytest.raises(RequestTimeout):
            await waits.get(0.3)


async def test_slow_work_does_not_cost_what_waits_behind_it(broker: RunningBroker) -> None:
    """20 messages of 30 ms in one delivery, and 100 ms for each of them: nothing comes twice."""
    async with connect(broker.url) as client:
        subscription = await client.subscribe("jobs", "earliest", group="g", ack_wait=0.1)
        await client.publish_many("jobs", [b"x"] * 20)
        deliveries = []
        async with asyncio.timeout(10):
            async for message in subscription:
                await asyncio.sleep(0.03)
                deliveries.append(message.deliveries)
                if len(deliveries) == 20:
                    break
        assert deliveries == [1] * 20
        (info,) = await client.groups("g")
        assert info.partitions[0].committed >= 1  # said while the batch was still being worked on


async def test_a_hanging_member_returns_what_waits(broker: RunningBroker) -> None:
    async with connect(broker.url) as hung, connect(broker.url) as client:
        subscription = await hung.subscribe("jobs", "earliest", group="g", ack_wait=0.3, max_deliveries=1)
        await client.publish_many("jobs", [b"%d" % number for number in range(50)])
        first = await subscription.get(5)
        works = await client.subscribe("jobs", group="g")
        got = [await works.get(5) for _ in range(49)]
        assert {message.offset for message in got} == set(range(1, 50))
        assert {message.deliveries for message in got} == {1}  # nobody had seen them
        assert subscription.buffered[0] == 1
        async with client.subscribe("jobs.dead", "earliest") as dead:  # what hangs had one chance
            assert (await dead.get(5)).payload == first.payload


async def test_refused_messages_come_again_and_end_as_dead_letters(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("jobs", group="g", max_deliveries=3)
        await client.publish("jobs", b"poison", key=b"k", headers={"h": b"v"})
        await client.publish("jobs", b"fine")
        seen = []
        async for message in subscription:
            seen.append((message.payload, message.deliveries))
            if message.payload == b"poison":
                message.nack(delay=0.02, reason="it is bitter")
            if len(seen) == 4:
                break
        assert sorted(seen) == [(b"fine", 1), (b"poison", 1), (b"poison", 2), (b"poison", 3)]
        async with client.subscribe("jobs.dead", "earliest") as dead:
            letter = await dead.get(5)
        assert (letter.payload, letter.key) == (b"poison", b"k")
        assert letter.headers == {
            "h": b"v",
            "portask-dead-reason": "refused: it is bitter",
            "portask-dead-group": "g",
            "portask-dead-topic": "jobs",
            "portask-dead-partition": "0",
            "portask-dead-offset": "0",
            "portask-dead-deliveries": "3",
        }
        await until_done(client)
        (info,) = await client.groups("g")
        assert (info.max_deliveries, info.partitions[0].dead_lettered) == (3, 1)


async def test_dead_letters_of_compressed_batches(broker: RunningBroker) -> None:
    pytest.importorskip("zstandard")
    async with connect(broker.url, compression="always") as client:
        subscription = await client.subscribe("jobs", "earliest", group="g", max_deliveries=1)
        await client.publish_many("jobs", [b"%04d" % number * 50 for number in range(200)])
        async for batch in subscription.batches():
            batch.nack()
            break
        async with client.subscribe("jobs.dead", "earliest") as dead:
            letters = [await dead.get(5) for _ in range(200)]
    assert [letter.payload for letter in letters] == [b"%04d" % number * 50 for number in range(200)]


async def test_what_is_refused_is_not_acknowledged_by_going_on(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("jobs", "earliest", group="g")
        await client.publish_many("jobs", [b"%d" % number for number in range(10)])
        async for batch in subscription.batches():
            batch.at(3).nack(delay=60)
            batch.at(7).nack(delay=60)
            break
        with pytest.raises(RequestTimeout):
            await subscription.get(0.05)
        assert await lag(client) == 2


async def test_the_message_that_is_left_with_is_not_done_and_those_behind_were_not_seen(
    broker: RunningBroker,
) -> None:
    async with connect(broker.url) as client:
        async with client.subscribe("jobs", "earliest", group="g") as subscription:
            await client.publish_many("jobs", [b"%d" % number for number in range(10)])
            async for message in subscription:
                if message.offset == 4:
                    break
        async with client.subscribe("jobs", group="g") as subscription:
            got = [await subscription.get(5) for _ in range(6)]
        assert [(message.offset, message.deliveries) for message in got] == [
            (4, 2),
            (5, 1),
            (6, 1),
            (7, 1),
            (8, 1),
            (9, 1),
        ]


async def test_one_by_one_all_but_the_last_are_done(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        await client.publish_many("jobs", [b"%d" % number for number in range(10)])
        async with client.subscribe("jobs", "earliest", group="g") as subscription:
            assert [(await subscription.get(5)).offset for _ in range(10)] == list(range(10))
            assert list(subscription.positions.values()) == [10]
        (info,) = await client.groups("g")
        assert (info.partitions[0].committed, info.lag) == (9, 1)


async def test_draining_leaves_nothing_behind(broker: RunningBroker) -> None:
    async with connect(broker.url) as other:
        client = await connect(broker.url)
        subscription = await client.subscribe("jobs", "earliest", group="g")
        await other.publish_many("jobs", [b"x"] * 100)
        await subscription.get(5)
        await subscription.get(5)
        await client.drain()
        assert [message async for message in subscription] == []
        got = await other.subscribe("jobs", group="g")
        assert sorted([(await got.get(5)).offset for _ in range(99)]) == list(range(1, 100))
        await client.close()


async def test_messages_can_be_acknowledged_on_any_thread(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        subscription = await client.subscribe("jobs", "earliest", group="g", auto_ack=False)
        await client.publish_many("jobs", [b"x"] * 400)
        messages = [await subscription.get(5) for _ in range(400)]

        def acknowledge(part: int) -> None:
            for each in messages[part::4]:
                each.ack()

        threads = [threading.Thread(target=acknowledge, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        await until_done(client)
        for thread in threads:
            thread.join()


async def test_the_blocking_client(broker: RunningBroker) -> None:
    def use() -> list[int]:
        with sync.connect(broker.url) as client:
            client.publish_many("jobs", [b"%d" % number for number in range(100)])
            with client.subscribe("jobs", "earliest", group="g", ack_wait=0.3) as subscription:
                seen = []
                for message in subscription:
                    seen.append(message.offset)
                    if message.offset < 20:
                        time.sleep(0.02)  # longer than ack_wait, all together
                    elif message.offset == 30:
                        message.nack()
                    elif message.offset == 60:
                        break
                (info,) = client.groups()
                assert 1 <= info.partitions[0].committed <= 60  # said while the batch was worked on
                for message in subscription:
                    seen.append(message.offset)
                    if message.offset == 70:
                        message.ack()
                        break
                for batch in subscription.batches():
                    seen += [message.offset for message in batch.delivered()]
                    if 99 in seen and seen.count(30) == 2:
                        batch.ack()
                        break
            (info,) = client.groups("g")
            assert (info.lag, info.partitions[0].redelivered) == (0, 1)
            client.drop_group("g")
            assert client.groups() == []
            with pytest.raises(UnknownGroup):
                client.drop_group("g")
            return seen

    seen = await asyncio.to_thread(use)
    assert Counter(seen) == Counter([*range(100), 30])


async def test_what_cannot_be_decoded_is_said_and_tried_elsewhere() -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        subscribed(peer, frame)
        body = pack(0, 1, 1) + batch_of(0, 2, codec=99)
        peer.connection.send(Opcode.DELIVER, body, 0, control.DELIVERY_CHANNELS, WINDOW)
        body = pack(4, 5, 3) + batch_of(2, 8)
        peer.connection.send(Opcode.DELIVER, body, 0, control.DELIVERY_CHANNELS, WINDOW)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker:
        async with connect(broker.url) as client:
            subscription = await client.subscribe("t", group="g")
            with pytest.raises(CodecError):
                await subscription.get(5)
            got = [await subscription.get(5) for _ in range(2)]
            assert [(m.offset, m.payload, m.deliveries) for m in got] == [(4, b"4", 3), (5, b"5", 3)]
            with pytest.raises(RequestTimeout):
                await subscription.get(0.05)
        (nack,) = [control.decode(frame.body, control.Nack) for frame in broker.of(Opcode.NACK)]
        assert nack.ranges == [(0, 1)]
        assert "cannot be decoded" in nack.reason
        acks = [control.decode(frame.body, control.Ack) for frame in broker.of(Opcode.ACK)]
        assert [ranges for ack in acks for ranges in ack.ranges] == [(4, 5)]


@pytest.mark.parametrize(
    ("body", "flags"),
    [
        (batch_of(0, 2), 0),
        (pack(0, 5, 1) + batch_of(0, 2), WINDOW),
        (pack(0, 1, 1) + batch_of(5, 2), WINDOW),
        (pack(0, 1, 1) + batch_of(0, 2) + batch_of(2, 2), WINDOW),
        (pack(0, 3, 1) + batch_of(0, 2) + batch_of(3, 1), WINDOW),
        (pack(1, 0, 1) + batch_of(0, 2), WINDOW),
        (pack(0, 1, 0) + batch_of(0, 2), WINDOW),
        (pack(0, 1, 1), WINDOW),
    ],
)
async def test_windows_that_cannot_be_end_the_connection(body: bytes, flags: int) -> None:
    def subscribe(peer: Peer, frame: Frame) -> None:
        subscribed(peer, frame)
        peer.connection.send(Opcode.DELIVER, body, 0, control.DELIVERY_CHANNELS, flags)

    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribe}) as broker:
        client = await connect(broker.url, reconnect=False)
        subscription = client.subscribe("t", group="g")
        with pytest.raises(Exception, match=r"window|record|batch"):
            await subscription.get(5)
        with suppress(Exception):
            await client.close()


async def test_arguments(broker: RunningBroker) -> None:
    async with connect(broker.url) as client:
        wrong: dict[str, Any]
        for wrong in ({"ack_wait": 1}, {"max_deliveries": 1}, {"dead_letter": "x"}, {"auto_ack": False}):
            with pytest.raises(ValueError, match="group="):
                client.subscribe("a", **wrong)
        with pytest.raises(ValueError, match="ack_wait"):
            client.subscribe("a", group="g", ack_wait=-1)
        with pytest.raises(InvalidTopic, match="group name"):
            await client.subscribe("a", group="no name")
        first = await client.subscribe("a", group="g", ack_wait=5)
        with pytest.raises(NotPermitted, match="ack_wait"):
            await client.subscribe("a", group="g", ack_wait=6)
        with pytest.raises(NotPermitted, match="members"):
            await client.drop_group("g")
        await first.close()
        await client.publish("a", b"x")
        plain = await client.subscribe("a", "earliest")
        with pytest.raises(ClientError, match="group="):
            (await plain.get(5)).ack()
        member = await client.subscribe("a", "earliest", group="g")
        with pytest.raises(ValueError, match="delay"):
            (await member.get(5)).nack(delay=-1)


async def test_groups_are_described(broker: RunningBroker) -> None:
    async with connect(broker.url, name="worker-7") as client:
        subscription = await client.subscribe("a.*", "earliest", group="team.one", auto_ack=False)
        await client.subscribe("b", group="team.two")
        for topic in ("a.x", "a.y"):
            await client.publish_many(topic, [b"x"] * 10)
        for _ in range(20):
            message = await subscription.get(5)
        message.ack()
        await asyncio.sleep(0.02)
        one, two = await client.groups("team.*")
        assert (one.group, two.group, two.partitions) == ("team.one", "team.two", [])
        assert (one.lag, one.pending, one.ack_wait, one.max_deliveries) == (19, 19, 30_000, 0)
        (member,) = one.members
        assert (member.client, member.in_flight) == ("worker-7", 19)
        assert [(part.topic, part.end, part.next) for part in one.partitions] == [
            ("a.x", 10, 10),
            ("a.y", 10, 10),
        ]
        (described,) = await client.topics("a.x")
        assert described.partitions[0].subscribers == 1


def test_ranges_without_holes() -> None:
    assert list(without(0, 9, [(3, 4), (8, 12), (20, 30)])) == [(0, 2), (5, 7)]
    assert list(without(0, 9, [])) == [(0, 9)]
    assert list(without(5, 9, [(9, 9), (5, 5), (0, 2)])) == [(6, 8)]
    assert list(without(5, 9, [(0, 20)])) == []


async def test_a_group_survives_a_restart_of_its_broker(start_broker: StartBroker, tmp_path: Any) -> None:
    settings = {"storage.variant": "segment-log", "storage.options.path": str(tmp_path / "log")}
    first = start_broker(settings)
    async with connect(first.url) as client:
        subscription = await client.subscribe("jobs", group="g", ack_wait=20, auto_ack=False)
        await client.publish_many("jobs", [b"%d" % number for number in range(100)])
        for _ in range(50):
            message = await subscription.get(5)
            if message.offset % 2:
                message.ack()
    first.stop()
    first.engine.storage.close()  # type: ignore[attr-defined]
    second = start_broker(settings | {"server.port": 0})
    async with connect(second.url) as client:
        (info,) = await client.groups("g")
        assert (info.lag, info.ack_wait, info.members) == (75, 20_000, [])
        subscription = await client.subscribe("jobs", group="g")
        got = [await subscription.get(5) for _ in range(75)]
        assert sorted(message.offset for message in got) == sorted([*range(0, 50, 2), *range(50, 100)])
        assert {message.deliveries for message in got if message.offset < 50} == {2}
    second.stop()
    second.engine.storage.close()  # type: ignore[attr-defined]
