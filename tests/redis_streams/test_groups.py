"""Groups whose members are at several brokers: they share the work, and nothing gets lost when a broker does."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from portask.client import Client, connect
from portask.errors import NotPermitted, UnknownGroup
from tests.conftest import RunningBroker, StartBroker
from tests.redis_streams.conftest import place_of
from tests.redis_streams.test_brokers import QUICK, clients, in_processes, known, settings_of

LEASE = 1.5


@pytest.fixture(params=["valkey", "cluster"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**settings_of(place_of(request.param)), "storage.options.lease_s": LEASE}


@pytest.fixture
def two(store: dict[str, Any], start_broker: StartBroker) -> Iterator[tuple[RunningBroker, RunningBroker]]:
    brokers = start_broker(store), start_broker(store)
    yield brokers
    for broker in brokers:
        broker.stop()
        broker.engine.storage.close()  # type: ignore[attr-defined]


class Worker:
    """A member that takes jobs and acknowledges them."""

    def __init__(self, client: Client, name: str, **options: Any) -> None:
        self.name = name
        self.got: list[bytes] = []
        self._client = client
        self._options = {"start": "earliest", "group": "g", "credit_messages": 20, **options}
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        async with await self._client.subscribe("jobs", **self._options) as subscription:
            self.ready.set()
            async for message in subscription:
                self.got.append(message.payload)
                await asyncio.sleep(0.001)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(holds: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what others did shows in many places
            await asyncio.sleep(0.01)


async def settled(client: Client, group: str = "g") -> Any:
    """The group's description, once nothing of it is under way."""
    async with asyncio.timeout(20):
        while True:
            (info,) = await client.groups(group)
            if not info.lag:
                return info
            await asyncio.sleep(0.05)


async def test_members_at_two_brokers_share_one_partition(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("jobs", 1)
        workers = [Worker(one, "a"), Worker(one, "b"), Worker(other, "c"), Worker(other, "d")]
        for worker in workers:
            await worker.ready.wait()
        sent = [b"%d" % number for number in range(1000)]
        for start in range(0, 1000, 50):
            await (one if start % 100 else other).publish_many("jobs", sent[start : start + 50])
        await until(lambda: sum(len(worker.got) for worker in workers) >= 1000)
        await asyncio.sleep(0.1)
        counts = Counter(payload for worker in workers for payload in worker.got)
        assert counts == Counter(sent), "each once"
        assert all(len(worker.got) > 50 for worker in workers), [len(worker.got) for worker in workers]
        info = await settled(one)
        assert [(part.end, part.next, part.committed, part.redelivered) for part in info.partitions] == [
            (1000, 1000, 1000, 0)
        ]
        assert (await settled(other)).partitions == info.partitions, "any broker can tell"
        for worker in workers:
            await worker.stop()


async def test_a_broker_that_dies_leaves_its_records_to_the_others(store: dict[str, Any]) -> None:
    with in_processes(store, 2) as children:
        urls = [f"portask://127.0.0.1:{child.port}" for child in children]
        async with connect(urls[0], **QUICK) as doomed, connect(urls[1], **QUICK) as staying:
            await staying.create_topic("jobs", 3)
            holding = await doomed.subscribe(
                "jobs", "earliest", group="g", auto_ack=False, credit_messages=50
            )
            await staying.publish_many("jobs", [b"%d" % number for number in range(300)])
            held = [await holding.get(10) for _ in range(50)]
            for message in held[:20]:
                message.ack()
            await asyncio.sleep(0.5)
            worker = Worker(staying, "rescuer", credit_messages=1000)
            await until(lambda: len(worker.got) >= 230)
            await asyncio.sleep(0.3)
            assert 230 <= len(worker.got) <= 250, "what the other broker holds is its own: 30, or 50 by now"
            children[0].kill()
            await until(lambda: len(worker.got) >= 280)
            info = await settled(staying)
            assert info.pending == 0
            done = {message.payload for message in held[:20]}
            assert sorted([*worker.got, *done]) == sorted(b"%d" % number for number in range(300))
            await worker.stop()


async def test_three_brokers_share_the_work_and_two_go_on_without_the_third(
    store: dict[str, Any], record_property: Callable[[str, Any], None]
) -> None:
    """Three producers and six members, each with a broker of its own to begin with; one broker is killed under load."""
    with in_processes(store, 3) as children:
        places = [f"127.0.0.1:{child.port}" for child in children]
        urls = ["portask://" + ",".join(places[at:] + places[:at]) for at in range(3)]
        acked: set[bytes] = set()
        got: list[bytes] = []
        stopped = asyncio.Event()

        async def produce(name: int) -> None:
            async with connect(urls[name], **QUICK) as client:
                for number in itertools.count():
                    if stopped.is_set():
                        return
                    jobs = [b"%d:%d:%d" % (name, number, at) for at in range(10)]
                    await client.publish_many("jobs", jobs)
                    acked.update(jobs)

        async with AsyncExitStack() as open_clients:
            members = [
                await open_clients.enter_async_context(connect(urls[at % 3], **QUICK)) for at in range(6)
            ]
            await members[0].create_topic("jobs", 4)
            workers = [Worker(client, f"member {at}") for at, client in enumerate(members)]
            for worker in workers:
                worker.got = got
                await worker.ready.wait()
            producing = [asyncio.create_task(produce(name)) for name in range(3)]
            await until(lambda: len(acked) >= 1000 and len(got) >= 500)
            children[0].kill()
            before = len(acked)
            await until(lambda: len(acked) >= before + 1000)
            stopped.set()
            await asyncio.gather(*producing)
            await until(lambda: acked <= set(got), 30)
            info = await settled(members[1])
            assert (info.lag, info.pending) == (0, 0)
            for worker in workers:
                await worker.stop()
    record_property("acked", len(acked))
    record_property("delivered", len(got))
    twice = len(got) - len(set(got))
    record_property("delivered twice", twice)
    assert twice < before, (
        "what the dead broker had given out, and what it stored and could not say so any more"
    )


async def test_what_is_given_back_is_taken_at_once(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("jobs", 1)
        holding = await one.subscribe("jobs", "earliest", group="g", auto_ack=False)
        await one.publish_many("jobs", [b"%d" % number for number in range(100)])
        for _ in range(100):
            await holding.get(10)
        worker = Worker(other, "next")
        await worker.ready.wait()
        await asyncio.sleep(0.1)
        assert worker.got == []
        begun = asyncio.get_running_loop().time()
        await holding.close()
        await until(lambda: len(worker.got) == 100)
        assert asyncio.get_running_loop().time() - begun < LEASE * 2
        info = await settled(one)
        assert info.partitions[0].redelivered == 100
        await worker.stop()


async def test_a_broker_that_was_late_forgets_what_others_got(store: dict[str, Any]) -> None:
    """It hangs for longer than its lease; afterwards it works on, and everything was done at least once."""
    with in_processes(store, 2) as children:
        urls = [f"portask://127.0.0.1:{child.port}" for child in children]
        async with connect(urls[0], **QUICK) as late, connect(urls[1], **QUICK) as other:
            await other.create_topic("jobs", 1)
            slow = await late.subscribe("jobs", "earliest", group="g", auto_ack=False, credit_messages=40)
            await other.publish_many("jobs", [b"%d" % number for number in range(100)])
            held = [await slow.get(10) for _ in range(40)]
            os.kill(children[0].pid, signal.SIGSTOP)
            worker = Worker(other, "other", credit_messages=1000)
            try:
                await until(lambda: len(worker.got) >= 100)
            finally:
                os.kill(children[0].pid, signal.SIGCONT)
            for message in held:
                message.ack()
            info = await settled(other)
            assert info.partitions[0].committed == 100
            await worker.stop()
            await other.publish_many("jobs", [b"more %d" % number for number in range(10)])
            again = [await slow.get(20) for _ in range(10)]
            assert sorted(message.payload for message in again) == [
                b"more %d" % number for number in range(10)
            ]


async def test_settings_hold_at_every_broker(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("jobs", 1)
        await known(other, "jobs")
        first = await one.subscribe("jobs", group="g", ack_wait=5, max_deliveries=3)
        with pytest.raises(NotPermitted, match="ack_wait=5000000 µs"):
            await other.subscribe("jobs", group="g", ack_wait=7)
        second = await other.subscribe("jobs", group="g")
        (info,) = await other.groups("g")
        assert (info.ack_wait, info.max_deliveries) == (5000, 3)
        await first.close()
        await second.close()


async def test_a_group_is_dropped_when_nobody_is_there(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("jobs", 2)
        subscription = await one.subscribe("jobs", "earliest", group="g")
        with pytest.raises(NotPermitted, match="has 1 members"):
            await one.drop_group("g")
        with pytest.raises(NotPermitted, match="has members at some broker"):
            await other.drop_group("g")
        await subscription.close()
        await other.drop_group("g")
        assert await one.groups("g") == []
        with pytest.raises(UnknownGroup):
            await one.drop_group("g")
        await one.publish("jobs", b"x")
        async with await other.subscribe("jobs", "earliest", group="g") as again:
            assert (await again.get(10)).payload == b"x"


async def test_dead_letters_are_found_at_every_broker(two: tuple[RunningBroker, RunningBroker]) -> None:
    async with clients(*two) as (one, other):
        await one.create_topic("jobs", 1)
        await one.publish("jobs", b"poison")
        async with await other.subscribe("jobs.dead", "earliest") as dead:
            members = [
                await client.subscribe("jobs", "earliest", group="g", auto_ack=False, max_deliveries=4)
                for client in (one, other)
            ]

            async def refuse(subscription: Any) -> None:
                async for message in subscription:
                    message.nack(reason="no")

            refusing = [asyncio.create_task(refuse(subscription)) for subscription in members]
            async with asyncio.timeout(20):
                message = await dead.get()
            assert message.payload == b"poison"
            assert dict(message.headers or {})["portask-dead-deliveries"] == "4"
            for task in refusing:
                task.cancel()
            await asyncio.gather(*refusing, return_exceptions=True)
            for subscription in members:
                await subscription.close()


async def test_a_filter_takes_topics_that_are_made_elsewhere(
    two: tuple[RunningBroker, RunningBroker],
) -> None:
    async with clients(*two) as (one, other):
        async with await other.subscribe("jobs.*", "earliest", group="g") as subscription:
            for number in range(3):
                await one.publish(f"jobs.{number}", b"%d" % number)
            got = [await subscription.get(10) for _ in range(3)]
        assert sorted(message.payload for message in got) == [b"0", b"1", b"2"]
