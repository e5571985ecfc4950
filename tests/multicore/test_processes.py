"""Workers as processes: killed, multiplied, told new settings, and sent home."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from portask import registry
from portask.client import Client, connect
from portask.errors import PortaskError
from portask.multicore.owners import owner_of
from tests.access.conftest import Authority, authority
from tests.cli.conftest import Running, run, serving
from tests.redis_streams.conftest import Place, servers

Start = Callable[..., Running]
__all__ = ["authority", "serving"]
PARTITIONS = 6


def workers_of(broker: Running) -> list[int]:
    """Process ids, in the order in which they were started."""
    pid = broker.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"portask.multicore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


async def everything(url: str, topic: str) -> dict[int, list[bytes]]:
    """What is stored of a topic, by partition and in order."""
    found: dict[int, list[bytes]] = {}
    async with connect(url) as client:
        (info,) = (await client.describe(topic)).topics
        for part in info.partitions:
            records = found[part.partition] = []
            while batches := await client.fetch(topic, part.partition, len(records)):
                records += [message.payload for batch in batches for message in batch.messages]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("server", ["epoll", "native-epoll", "asyncio-protocol"])
async def test_kill_9_of_any_worker_loses_nothing_that_was_acknowledged(
    serving: Start, tmp_path: Path, server: str
) -> None:
    reason = registry.get("server", server).unavailable()
    if reason:
        pytest.skip(reason)
    broker = serving(
        "--workers", "3", "--server", server, "--data", str(tmp_path / "log"), "--log-level", "error"
    )
    acked: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    stopping = False

    async def publish(client: Client, number: int) -> None:
        sent = 0
        while not stopping:
            payload = b"%d" % sent
            await client.publish("t", payload, partition=number)
            acked[number].append(payload)
            sent += 1

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                connect(broker.url, idempotent=True, reconnect_delay=0.01, request_timeout=60)
            )
            for _ in range(PARTITIONS)
        ]
        await clients[0].create_topic("t", PARTITIONS)
        tasks = [asyncio.create_task(publish(client, number)) for number, client in enumerate(clients)]
        chance = random.Random(3)
        for _ in range(4):
            before = {number: len(each) for number, each in acked.items()}
            await asyncio.sleep(0.5)
            victim = chance.choice([pid for pid in workers_of(broker) if is_worker(pid)])
            os.kill(victim, signal.SIGKILL)
            await until(lambda: len([pid for pid in workers_of(broker) if is_worker(pid)]) == 3)
            await until(partial(all_moved, before, acked))
        stopping = True
        await asyncio.gather(*tasks)
    stored = await everything(broker.url, "t")
    for number, payloads in acked.items():
        assert len(payloads) > 80
        assert stored[number] == payloads, "every one once, in order"
    assert broker.end().code == 0


def all_moved(before: dict[int, int], acked: dict[int, list[bytes]]) -> bool:
    return all(len(acked[number]) > before[number] + 20 for number in acked)


async def until_done(client: Client) -> None:
    while (await client.groups())[0].lag:  # noqa: ASYNC110 - it is another process that has to get there
        await asyncio.sleep(0.01)


async def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_no_dead_letter_is_lost_with_a_worker(serving: Start, tmp_path: Path) -> None:
    """Each is of a topic whose partition another worker has; all of them are killed in the midst of it."""
    assert all(owner_of("orders", each, 3) != owner_of("orders.dead", each, 3) for each in range(PARTITIONS))
    broker = serving(
        "--workers", "3", "--server", "epoll", "--data", str(tmp_path / "log"), "--log-level", "critical",
        PORTASK_TOPICS_DEFAULT_PARTITIONS=str(PARTITIONS),
    )  # fmt: skip
    published: set[bytes] = set()
    stopping = False

    async def publish(client: Client) -> None:
        while not stopping:
            payloads = [b"%d" % number for number in range(len(published), len(published) + 20)]
            await client.publish_many("orders", payloads, partition=len(published) // 20 % PARTITIONS)
            published.update(payloads)
            await asyncio.sleep(0.005)

    def more(before: int) -> bool:
        return len(published) > before + 100

    async def refuse(client: Client) -> None:
        async with client.subscribe("orders", "earliest", group="g", max_deliveries=1, ack_wait=1) as members:
            async for batch in members.batches():
                batch.nack(reason="refused")

    async with (
        connect(broker.url, idempotent=True, reconnect_delay=0.01, request_timeout=60) as client,
        connect(broker.url, reconnect_delay=0.01, request_timeout=60) as other,
    ):
        await client.create_topic("orders", PARTITIONS)
        publishing, refusing = asyncio.create_task(publish(client)), asyncio.create_task(refuse(other))
        for place in (0, 1, 2, 0, 1, 2):
            before = len(published)
            await asyncio.sleep(0.3)
            os.kill(sorted(filter(is_worker, workers_of(broker)))[place], signal.SIGKILL)
            await until(lambda: len([*filter(is_worker, workers_of(broker))]) == 3)
            await until(partial(more, before))
        stopping = True
        await publishing
        async with asyncio.timeout(60):
            await until_done(client)
        refusing.cancel()
    letters = [payload for each in (await everything(broker.url, "orders.dead")).values() for payload in each]
    assert set(letters) == published
    assert len(letters) < 3 * len(published), "what goes aside twice was under way when a worker died"
    assert broker.end().code == 0


async def test_messages_and_groups_follow_the_number_of_workers(serving: Start, tmp_path: Path) -> None:
    data = str(tmp_path / "log")
    published = 0
    consumed: list[bytes] = []
    for workers in ("1", "3", "2", "1"):
        broker = serving("--workers", workers, "--server", "epoll", "--data", data, "--log-level", "error")
        async with connect(broker.url) as client:
            if not published:
                await client.create_topic("t", PARTITIONS)
                first = await client.subscribe("t", "earliest", group="g")
                await first.close()
            for number in range(PARTITIONS * 2):
                await client.publish("t", b"%d" % published, partition=number % PARTITIONS)
                published += 1
            async with await client.subscribe("t", group="g") as group:
                for _ in range(PARTITIONS * 2):
                    message = await group.get(10)
                    consumed.append(message.payload)
                    message.ack()
            await until_done(client)
            (info,) = await client.groups()
            assert (info.lag, len(info.partitions)) == (0, PARTITIONS)
        assert broker.end().code == 0
    assert sorted(map(int, consumed)) == list(range(published)), "the group goes on where it was"


@pytest.fixture
def store() -> Iterator[Place]:
    """A server that keeps records for brokers."""
    with servers("valkey") as place:
        yield place


@pytest.mark.slow
async def test_workers_over_a_server_lose_nothing_with_one_of_them(serving: Start, store: Place) -> None:
    """Each opens the store for what it owns; what one held for a group is its successor's, after a while."""
    broker = serving(
        "--workers", "3", "--server", "epoll", "--log-level", "critical",
        PORTASK_STORAGE_VARIANT="redis",
        PORTASK_STORAGE_OPTIONS_URL=store.options["url"],
        PORTASK_STORAGE_OPTIONS_PREFIX="workers",
        PORTASK_STORAGE_OPTIONS_LEASE_S="1",
    )  # fmt: skip
    acked: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    consumed: set[bytes] = set()
    stopping = False

    async def publish(client: Client, number: int) -> None:
        while not stopping:
            payload = b"%d:%d" % (number, len(acked[number]))
            await client.publish("t", payload, partition=number)
            acked[number].append(payload)

    async def consume(client: Client) -> None:
        async with client.subscribe("t", "earliest", group="g", ack_wait=5) as group:
            async for message in group:
                consumed.add(message.payload)

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                connect(broker.url, idempotent=True, reconnect_delay=0.01, request_timeout=60)
            )
            for _ in range(PARTITIONS + 2)
        ]
        await clients[0].create_topic("t", PARTITIONS)
        consuming = [asyncio.create_task(consume(client)) for client in clients[PARTITIONS:]]
        publishing = [asyncio.create_task(publish(clients[number], number)) for number in acked]
        for place in (0, 1, 2):
            before = {number: len(each) for number, each in acked.items()}
            await asyncio.sleep(0.3)
            os.kill(sorted(filter(is_worker, workers_of(broker)))[place], signal.SIGKILL)
            await until(lambda: len([*filter(is_worker, workers_of(broker))]) == 3)
            await until(partial(all_moved, before, acked))
        stopping = True
        await asyncio.gather(*publishing)
        everyone = {payload for payloads in acked.values() for payload in payloads}
        await until(lambda: consumed == everyone)
        async with asyncio.timeout(30):
            await until_done(clients[0])
        (info,) = await clients[0].groups()
        assert sorted(part.partition for part in info.partitions) == list(range(PARTITIONS))
        reply = asyncio.create_task(clients[0].request("ask", b"?", timeout=10))
        async with clients[1].subscribe("ask", "earliest") as requests:
            await clients[1].respond(await requests.get(10), b"!")
        assert (await reply).payload == b"!", "whichever workers the two are at"
        for task in consuming:
            task.cancel()
        await asyncio.gather(*consuming, return_exceptions=True)
    assert await everything(broker.url, "t") == acked, "every one once, in order"
    assert broker.end().code == 0


def test_what_cannot_be_shared_is_refused_in_one_line(tmp_path: Path) -> None:
    for arguments, complaint in (
        (
            ("--storage", "sqlite"),
            "server.workers: 2 workers cannot share the storage sqlite: choose memory or ",
        ),
        (("--storage", "lmdb"), "server.workers: 2 workers cannot share the storage lmdb: choose memory or "),
    ):
        done = run("serve", "--workers", "2", "--port", "0", *arguments, cwd=tmp_path)
        assert done.code != 0
        (line,) = [line for line in done.err.splitlines() if complaint in line]
        assert "or workers = 1" in line
    done = run(
        "serve", "--workers", "2", "--port", "0", "--storage", "memory", PORTASK_RING_VARIANT="bytearray"
    )
    assert "ring.variant: bytearray does not reach from one process to another" in done.err
    assert done.code != 0


def test_a_worker_that_cannot_start_ends_the_broker_with_its_reason(tmp_path: Path) -> None:
    data = tmp_path / "log"
    done = run(
        "serve", "--workers", "2", "--server", "epoll", "--port", "0", "--data", str(data),
        PORTASK_STORAGE_OPTIONS_SEGMENT_BYTES="1",
    )  # fmt: skip
    assert done.code != 0
    assert "segment_bytes" in done.err
    assert "Traceback" not in done.err


def test_a_port_in_use_is_said_before_anything_starts(serving: Start) -> None:
    first = serving("--workers", "2", "--server", "epoll", "--storage", "memory")
    done = run(
        "serve", "--workers", "2", "--server", "epoll", "--storage", "memory", "--port", str(first.port)
    )
    assert done.code != 0
    assert f"127.0.0.1:{first.port} is in use" in done.err


async def test_all_workers_read_settings_again(serving: Start, tmp_path: Path) -> None:
    config = tmp_path / "portask.toml"
    base = '[server]\nvariant = "epoll"\nworkers = 3\n[storage]\nvariant = "memory"\n'
    config.write_text(base)
    broker = serving("--config", str(config))
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(broker.url)) for _ in range(12)]
        for number, client in enumerate(clients):
            await client.publish(f"t{number}", b"x")
        config.write_text(base + "[topics]\nauto_create = false\n")
        broker.process.send_signal(signal.SIGHUP)
        broker.wait_for_log("settings read again")
        await asyncio.sleep(0.3)
        for number, client in enumerate(clients):
            await client.publish(f"t{number}", b"y")
            with pytest.raises(PortaskError, match="does not create topics"):
                await client.publish(f"new{number}", b"x")
    result = broker.end()
    assert result.code == 0
    assert all("worker" in json.loads(line) for line in result.err.splitlines() if '"portask.worker"' in line)


def test_a_worker_that_cannot_take_over_settings_is_named(
    serving: Start, authority: Authority, tmp_path: Path
) -> None:
    """Its files are gone when it looks: the supervisor saw them a moment before."""
    pair = authority.issue("127.0.0.1")
    config = tmp_path / "portask.toml"
    config.write_text(
        '[server]\nvariant = "asyncio-protocol"\nworkers = 2\n[storage]\nvariant = "memory"\n'
        f'[tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    )
    broker = serving("--config", str(config))
    victim = min(filter(is_worker, workers_of(broker)))
    os.kill(victim, signal.SIGSTOP)
    try:
        broker.process.send_signal(signal.SIGHUP)
        time.sleep(1)  # the other one and the supervisor have read them
        Path(pair.key).write_text("nothing")
    finally:
        os.kill(victim, signal.SIGCONT)
    said = json.loads(broker.wait_for_log('"settings '))
    assert said["event"] == "settings not taken over"
    (problem,) = said["problems"]
    assert problem.startswith("worker 0: tls.")


@pytest.mark.parametrize("ring", ["shared-memory", "native-shm"])
async def test_any_ring_that_reaches_other_processes_will_do(serving: Start, ring: str) -> None:
    if reason := registry.get("ring", ring).unavailable():
        pytest.skip(reason)
    broker = serving(
        "--workers", "3", "--server", "epoll", "--storage", "memory", "--log-level", "critical",
        PORTASK_RING_VARIANT=ring,
    )  # fmt: skip
    assert f" ring={ring}" in broker.ready_line
    payloads = [b"%d" % number * 5000 for number in range(300)]
    async with connect(broker.url, reconnect_delay=0.01) as client:
        await client.create_topic("t", PARTITIONS)
        for _ in range(2):
            for number in range(PARTITIONS):
                await client.publish_many("t", payloads, partition=number)
            found = await everything(broker.url, "t")
            assert all(each[-300:] == payloads for each in found.values())
            os.kill(next(filter(is_worker, workers_of(broker))), signal.SIGKILL)
            await until(lambda: len([*filter(is_worker, workers_of(broker))]) == 3)
    assert broker.end().code == 0


async def test_the_limit_of_connections_is_of_all_workers(serving: Start) -> None:
    broker = serving(
        "--workers", "3", "--server", "epoll", "--storage", "memory", PORTASK_LIMITS_MAX_CONNECTIONS="20"
    )
    async with AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(connect(broker.url, reconnect=False))
        with pytest.raises(PortaskError, match="takes 20 connections"):
            async with connect(broker.url, reconnect=False):
                pass


async def test_ending_it_finishes_what_is_under_way(serving: Start) -> None:
    broker = serving("--workers", "3", "--server", "epoll", "--storage", "memory", "--log-level", "error")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(broker.url, reconnect=False)) for _ in range(9)]
        for number, client in enumerate(clients):
            await client.publish("t", b"x", partition=0)
            assert number >= 0
        pending = [client.publish_nowait("t", b"y") for client in clients]
        await asyncio.sleep(0.05)
        broker.process.send_signal(signal.SIGTERM)
        done = await asyncio.gather(*pending, return_exceptions=True)
        assert not [each for each in done if isinstance(each, Exception)]
    await asyncio.to_thread(broker.process.wait, 20)
    result = broker.end()
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_built_is_no_affair_of_the_garbage_collector(
    serving: Start, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc, os\n"
        "def tell():\n"
        f"    with open({str(tmp_path / 'frozen')!r}, 'a') as file:\n"
        "        print(gc.get_freeze_count(), file=file)\n"
        "atexit.register(tell)\n"
    )
    broker = serving(
        "--workers", workers, "--server", "epoll", "--storage", "memory", PYTHONPATH=str(tmp_path)
    )
    assert broker.end().code == 0
    counts = sorted(int(line) for line in (tmp_path / "frozen").read_text().split())
    serve = [count for count in counts if count > 10_000]
    assert len(serve) == int(workers), f"each process that has clients freezes what it was built of: {counts}"


def test_workers_end_with_their_supervisor(serving: Start) -> None:
    broker = serving("--workers", "2", "--server", "epoll", "--storage", "memory")
    pids = [pid for pid in workers_of(broker) if is_worker(pid)]
    assert len(pids) == 2
    broker.end(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while any(is_worker(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their supervisor"
        time.sleep(0.05)
