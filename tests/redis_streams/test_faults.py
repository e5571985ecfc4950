"""Servers that die, hang, refuse, are full, fail over: nothing acknowledged is lost, errors are clear and in time."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from portask.client import connect
from portask.errors import PortaskError, StorageError, StorageFull, StorageUnavailable
from portask.messages import TopicPartition
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of
from portask_lab.loadgen.processes import free_port
from portask_lab.sandboxes import Cluster
from tests.conftest import StartBroker
from tests.redis_streams.conftest import Make, Place, executable, servers, start, until

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """The processes hang: their sockets accept and nothing answers."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Load:
    """Appends without end in a thread, and remembers what was acknowledged."""

    def __init__(self, driver: Driver, keys: list[TopicPartition]) -> None:
        self.acked: dict[TopicPartition, dict[int, bytes]] = {key: {} for key in keys}
        self.overwritten = 0
        self.errors: list[PortaskError] = []
        self._driver = driver
        self._over = False
        self._thread = threading.Thread(target=self._run, args=(keys,))
        self._thread.start()

    @property
    def count(self) -> int:
        return sum(map(len, self.acked.values()))

    def reached(self, count: int) -> bool:
        return self.count > count

    def _run(self, keys: list[TopicPartition]) -> None:
        storage: Any = self._driver.storage
        waiting = 0
        for number in itertools.count():
            key = keys[number % len(keys)]
            payload = b"%s %d" % (str(key).encode(), number)

            def done(
                offset: int, error: PortaskError | None, key: Any = key, payload: bytes = payload
            ) -> None:
                nonlocal waiting
                waiting -= 1
                if error is None:
                    self.overwritten += offset in self.acked[key]
                    self.acked[key][offset] = payload
                else:
                    self.errors.append(error)

            waiting += 1  # noqa: SIM113 - it goes down, too
            storage.append(key, batch_of(payload), BASE + number, done)
            storage.poll()
            while waiting >= 64 or (self._over and waiting):
                time.sleep(0.0005)
                storage.poll()
            if self._over:
                return

    def stop(self) -> None:
        self._over = True
        self._thread.join()


def check_all_there(load: Load, driver: Driver) -> None:
    """Every acknowledged record is at its offset, and nothing is there twice."""
    for key, acked in load.acked.items():
        found = driver.messages(0, key)
        assert [offset for offset, _ in found] == list(range(len(found)))
        payloads = {offset: message.payload for offset, message in found}
        assert acked.items() <= payloads.items(), (
            "an acknowledged record is gone, or another stands in its place"
        )
        assert len(set(payloads.values())) == len(payloads), "a record was stored twice"


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged(
    kind: str, make: Make, tmp_path: Path
) -> None:
    keys = [TopicPartition("load", number) for number in range(3)]
    port = free_port()
    arguments = (*ALWAYS, "--dir", str(tmp_path))
    child = start(kind, *arguments, port=port)
    driver = make(Place(kind, child), timeout_s=20)
    load = Load(driver, keys)
    try:
        for _ in range(3):
            mark = load.count
            until(partial(load.reached, mark + 200))
            child.kill()
            time.sleep(0.2)
            child = start(kind, *arguments, port=port)
        mark = load.count
        until(lambda: load.count > mark + 200)
        load.stop()
        assert load.errors == []
        check_all_there(load, driver)
        driver.storage.close()
    finally:
        load.stop()
        child.kill()


def test_publishers_wait_while_the_server_is_away_and_go_on(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    """A whole broker: clients keep their messages, and each is stored once."""
    port = free_port()
    arguments = (*ALWAYS, "--dir", str(tmp_path))
    child = start("valkey", *arguments, port=port)
    broker = start_broker(
        {
            "storage.variant": "redis",
            "storage.options.url": f"redis://127.0.0.1:{port}",
            "limits.max_unacked_bytes": 65536,
        }
    )

    async def publish() -> list[bytes]:
        nonlocal child
        async with connect(broker.url) as client:
            await client.publish("a", b"first")
            child.kill()
            pending = [client.publish_nowait("a", b"%d" % number + bytes(4000)) for number in range(100)]
            for _ in range(20):
                await asyncio.sleep(0.02)
            sessions = [session for engine in broker.engines for session in engine.readers()]
            assert any(session.paused for session in sessions), "the broker takes no more than it may hold"
            assert not any(each.done() for each in pending)
            child = start("valkey", *arguments, port=port)
            receipts = await asyncio.gather(*pending)
            assert [receipt.offset for receipt in receipts] == list(range(1, 101))
            found: list[bytes] = []
            async with await client.subscribe("a", start="earliest") as subscription:
                while len(found) < 101:
                    found.append((await subscription.get()).payload)
            return found

    try:
        found = asyncio.run(publish())
    finally:
        broker.stop()
        broker.engine.storage.close()  # type: ignore[attr-defined]
        child.kill()
    assert found == [b"first", *(b"%d" % number + bytes(4000) for number in range(100))]


def test_a_hanging_server_is_an_error_in_time_and_healed_when_it_goes_on(make: Make) -> None:
    with servers("valkey") as place:
        driver = make(place, timeout_s=1.0, attempt_s=0.3)
        driver.append(batch_of(b"0"))
        with stopped(place.made.pid):  # type: ignore[union-attr]
            calls: tuple[Callable[[], Any], ...] = (
                lambda: driver.append(batch_of(b"lost?")),
                lambda: driver.read(0),
                lambda: driver.lookup(-1),
            )
            for call in calls:
                begun = time.monotonic()
                with pytest.raises(
                    StorageError, match=rf"127.0.0.1:{place.ports[0]} does not answer; given up after 1 s"
                ):
                    call()
                assert time.monotonic() - begun < 3
        driver.append(batch_of(b"1"))
        found = [message.payload for _, message in driver.messages()]
        assert found in ([b"0", b"1"], [b"0", b"lost?", b"1"]), "never behind what came later, never twice"


@pytest.mark.parametrize("group", ["", "g"])
def test_readers_outlast_a_server_that_is_away_for_longer_than_the_deadline(
    start_broker: StartBroker, group: str
) -> None:
    """Publishers are told; who reads keeps its connection, and goes on where it was."""
    with servers("valkey") as place:
        options = {**place.options, "timeout_s": 0.8, "attempt_s": 0.3}
        broker = start_broker(
            {
                "storage.variant": "redis",
                **{f"storage.options.{name}": value for name, value in options.items()},
            }
        )

        async def work() -> None:
            async with connect(broker.url) as publisher, connect(broker.url, reconnect=False) as reader:
                await publisher.publish("a", b"0")
                subscription = await reader.subscribe("a", "earliest", group=group)
                assert (await subscription.get(5)).payload == b"0"
                pid = place.made.pid  # type: ignore[union-attr]
                with stopped(pid):
                    with pytest.raises(StorageUnavailable, match="does not answer"):
                        await publisher.publish("a", b"lost?")
                    storage: Any = broker.engine.storage
                    storage.grown(TopicPartition("a", 0), 2)  # a reader that has to ask the store
                    await asyncio.sleep(1.5)
                await publisher.publish("a", b"1")
                async with asyncio.timeout(10):
                    while (await subscription.get()).payload != b"1":
                        continue

        try:
            asyncio.run(work())
        finally:
            broker.stop()
            broker.engine.storage.close()  # type: ignore[attr-defined]


def test_a_short_hang_is_not_noticed(make: Make) -> None:
    with servers("valkey") as place:
        driver = make(place, timeout_s=10.0, attempt_s=0.2)
        driver.append(batch_of(b"begin"))
        load = Load(driver, [KEY])
        for _ in range(3):
            mark = load.count
            until(partial(load.reached, mark + 50))
            with stopped(place.made.pid):  # type: ignore[union-attr]
                time.sleep(0.5)
        load.stop()
        assert load.errors == []
        assert driver.storage.counters["retries"] > 0
        check_all_there(load, driver)


def test_a_full_server_refuses_and_takes_more_after_a_trim(make: Make) -> None:
    with servers("valkey", "--maxmemory", "6mb", "--maxmemory-policy", "noeviction") as place:
        driver = make(place)
        stored = 0

        def fill() -> None:
            nonlocal stored
            for stored in range(2000):  # noqa: B007 - how many there were is what is asked
                driver.append(batch_of(os.urandom(20_000)))

        with pytest.raises(StorageFull, match=r"is full .*maxmemory"):
            fill()
        assert len(driver.messages()) == stored, "reading goes on, and what was refused is not there"
        with pytest.raises(StorageFull):
            driver.append(batch_of(os.urandom(40_000)))
        assert driver.lookup(-1) == stored
        driver.storage.trim(KEY, before=stored - 5)
        assert driver.lookup(-2) >= stored - 6
        assert driver.append(batch_of(b"again")) == stored


def test_a_server_that_may_drop_records_says_so(make: Make) -> None:
    with servers("valkey", "--maxmemory-policy", "allkeys-lru") as place:
        assert "allkeys-lru: IT MAY DROP RECORDS" in make(place).storage.promise


def test_an_unreachable_server_is_said_at_the_start() -> None:
    port = free_port()
    from portask import registry

    for name, options in (
        ("redis", {"url": f"redis://127.0.0.1:{port}"}),
        ("redis-cluster", {"addresses": [f"127.0.0.1:{port}"]}),
    ):
        begun = time.monotonic()
        with pytest.raises(
            StorageError, match=rf"127.0.0.1:{port} cannot be reached|127.0.0.1:{port} is not ready"
        ):
            registry.get("storage", name).make(**options, timeout_s=0.5)
        assert time.monotonic() - begun < 3


def test_a_server_that_hangs_at_the_start_is_said() -> None:
    with (
        servers("valkey") as place,
        stopped(place.made.pid),  # type: ignore[union-attr]
        pytest.raises(StorageError, match=rf"127.0.0.1:{place.ports[0]} does not answer"),
    ):
        place.make(timeout_s=0.6, attempt_s=0.2)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_logins(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    with servers(kind, "--requirepass", "s3cret-default") as place:
        for options in ({}, {"password": "wrong-s3cret"}):
            with pytest.raises(StorageError, match="refuses the login") as caught:
                place.make(**options, timeout_s=1)
            assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("PORTASK_TEST_PASSWORD", "s3cret-default")
        file = tmp_path / "password"
        file.write_text("s3cret-default\n")
        for options in ({"password_env": "PORTASK_TEST_PASSWORD"}, {"password_file": str(file)}):
            storage = place.make(**options)
            Driver(storage).append(batch_of(b"x"))
            storage.close()
    assert "s3cret" not in repr(logged)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_user_of_its_own_needs_no_more_than_what_is_listed(kind: str, make: Make) -> None:
    """The lists of `commands`, as an ACL: enough to run with, and CONFIG may be left out."""
    from portask_variants.storage.redis_streams.commands import COMMANDS, CONNECTING, SCRIPTED

    names = {
        name.replace(" ", "|").lower() for name in (COMMANDS | CONNECTING | SCRIPTED) - {"AUTH", "CONFIG GET"}
    }
    # Redis 7.0 knows no CLIENT SETINFO, and redis-py takes that as it is
    rules = ["+client", *(f"+{name}" for name in names if not name.startswith("client"))]
    with servers(kind) as place:
        place.ask("ACL", "SETUSER", "broker", "on", ">pw", "~mine:*", *rules)
        driver = make(place, username="broker", password="pw", prefix="mine")
        assert "durability unknown (it does not tell appendonly and save)" in driver.storage.promise
        assert driver.append(batch_of(b"x")) == 0
        driver.storage.trim(KEY, before=1)
        assert len(driver.read(0)) == 1
        with pytest.raises(StorageError, match="refuses the login or a command"):
            place.make(username="broker", password="pw", prefix="anothers")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--appendonly", "no"), "appendonly no, no snapshots: lost when the server ends, 0 replicas"),
        (("--appendonly", "yes"), "appendonly yes, appendfsync everysec, 0 replicas"),
        (ALWAYS, "appendonly yes, appendfsync always, 0 replicas"),
        (("--save", "60 1000"), "appendonly no, snapshots only (save 60 1000), 0 replicas"),
    ],
)
@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_durability_is_what_the_server_says(
    kind: str, arguments: tuple[str, ...], said: str, make: Make, start_broker: StartBroker
) -> None:
    with servers(kind, *arguments) as place:
        driver = make(place, health_s=0.05)
        assert said in driver.storage.promise
        assert driver.storage.promise.startswith(kind)
        place.ask("CONFIG", "SET", "appendfsync", "no")
        place.ask("CONFIG", "SET", "appendonly", "yes")
        until(lambda: "appendonly yes, appendfsync no" in driver.storage.promise)


def test_every_client_is_told_what_the_server_promises(start_broker: StartBroker, valkey: Place) -> None:
    broker = start_broker(
        {"storage.variant": "redis", **{f"storage.options.{k}": v for k, v in valkey.options.items()}}
    )

    async def ask() -> None:
        async with connect(broker.url) as client:
            assert client.broker.durability == "server"
            assert "appendonly no" in client.broker.promise
            assert (await client.describe()).promise == client.broker.promise

    try:
        asyncio.run(ask())
    finally:
        broker.stop()
        broker.engine.storage.close()  # type: ignore[attr-defined]


# ── replicas and failovers ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ack_waits_for_replicas_if_it_should(make: Make) -> None:
    with (
        servers("valkey") as primary,
        servers("valkey", "--replicaof", "127.0.0.1", str(primary.ports[0])) as replica,
    ):
        until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        driver = make(primary, wait_replicas=1, timeout_s=1.0, attempt_s=0.4)
        assert "acknowledged once 1 has it" in driver.storage.promise
        assert driver.append(batch_of(b"x")) == 0
        with (
            stopped(replica.made.pid),  # type: ignore[union-attr]
            pytest.raises(StorageError, match="0 of 1 replicas have what was written, after 1 s"),
        ):
            driver.append(batch_of(b"y"))
        assert driver.append(batch_of(b"z")) == 2, (
            "what was refused is stored on the primary, and was told so"
        )


@pytest.mark.parametrize("replicas", [1, 0])
def test_a_cluster_fails_over(
    replicas: int, make: Make, logged: list[Any], record_property: Callable[[str, Any], None]
) -> None:
    """A primary is killed; its replica takes over, and the old one comes back as the replica of that.

    With WAIT nothing that was acknowledged is lost. Without, what is lost is counted, and said.
    """
    cluster = Cluster(*ALWAYS, executable=executable("cluster"))
    driver = make(Place("cluster", cluster), timeout_s=60, attempt_s=1.0, wait_replicas=replicas)
    load = Load(driver, [TopicPartition("load", number) for number in range(8)])
    try:
        until(lambda: min(map(len, load.acked.values())) > 50)
        victim, *others = cluster.nodes
        cluster.nodes[victim].kill()
        until(lambda: _taken_over(cluster, victim, others[0]), 20)
        cluster.start(victim)
        marks = {key: len(acked) for key, acked in load.acked.items()}
        until(lambda: all(len(load.acked[key]) > mark + 50 for key, mark in marks.items()), 40)
        load.stop()
        assert load.errors == []
        lost = driver.storage.counters["lost"]
        record_property("acknowledged and lost", lost)
        assert load.overwritten == lost
        assert (lost > 0) is any("lost records" in str(entry["event"]) for entry in logged)
        assert not (replicas and lost)
        check_all_there(load, driver)
        driver.storage.close()
    finally:
        load.stop()
        cluster.stop()


def test_a_server_that_forgets_is_found_out(make: Make, logged: list[Any]) -> None:
    port = free_port()
    child = start("valkey", port=port)
    driver = make(Place("valkey", child), timeout_s=20)
    heard: list[tuple[TopicPartition, int]] = []
    driver.storage.lost = lambda key, offset: heard.append((key, offset))
    try:
        for number in range(5):
            assert driver.append(batch_of(b"%d" % number)) == number
        child.kill()
        child = start("valkey", port=port)
        assert driver.append(batch_of(b"another")) == 0
        assert driver.append(batch_of(b"and one more")) == 1
        assert driver.storage.counters["lost"] == 5
        assert heard == [(KEY, 0)]
        (said,) = [entry for entry in logged if "lost records" in str(entry["event"])]
        assert (said["log_level"], said["partition"], said["from_offset"]) == ("error", str(KEY), 0)
    finally:
        driver.storage.close()
        child.kill()


def test_subscribers_get_what_follows_when_the_server_forgot(start_broker: StartBroker) -> None:
    """They stand behind the end: what comes next has offsets that they saw before."""
    port = free_port()
    child = start("valkey", port=port)
    settings = {"storage.variant": "redis", "storage.options.url": f"redis://127.0.0.1:{port}"}
    broker = start_broker(settings)

    async def work() -> list[bytes]:
        nonlocal child
        async with connect(broker.url) as client:
            subscription = await client.subscribe("a", "latest")
            await client.publish_many("a", [b"old %d" % number for number in range(9)])
            found = [(await subscription.get(10)).payload for _ in range(9)]
            child.kill()
            child = start("valkey", port=port)
            for number in range(3):
                await client.publish("a", b"new %d" % number)
            return found + [(await subscription.get(10)).payload for _ in range(3)]

    try:
        found = asyncio.run(work())
    finally:
        broker.stop()
        broker.engine.storage.close()  # type: ignore[attr-defined]
        child.kill()
    assert found == [b"old %d" % number for number in range(9)] + [b"new %d" % number for number in range(3)]


def _taken_over(cluster: Cluster, victim: int, port: int) -> bool:
    """Whether another node sees the victim as failed, and three primaries with slots beside it."""
    nodes = [line.split() for line in str(cluster.ask(port, "CLUSTER", "NODES")).splitlines()]
    failed = [node for node in nodes if "fail" in node[2].split(",")]
    primaries = [node for node in nodes if "master" in node[2] and node not in failed and len(node) > 8]
    return [f":{victim}@" in node[1] for node in failed] == [True] and len(primaries) == 3
