"""The blocking client does what the asyncio one does, from any thread, and leaves none behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from portask import sync
from portask.client import Receipt
from portask.errors import (
    ConfigError,
    ConnectFailed,
    NotConnected,
    NotPermitted,
    RequestTimeout,
    UnknownPartition,
)
from portask.messages import Message, TopicPartition
from tests.conftest import RunningBroker, StartBroker


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "portask-client"]


def test_publish_and_iterate(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        assert client.broker.durability == "memory"
        assert client.connected
        assert client.address == f"127.0.0.1:{broker.port}"
        assert client.ping() > 0
        assert client.publish("a.b", b"0", key=b"k", headers={"h": "v"}) == Receipt("a.b", 0, 0)
        pending = [client.publish_nowait("a.b", b"%d" % number) for number in range(1, 5)]
        assert [item.result(5).offset for item in pending] == [1, 2, 3, 4]
        assert all(item.done() for item in pending)
        assert client.publish_many("a.b", (b"%d" % number for number in range(5, 25_000))).count == 24_995
        client.flush()
        assert client.buffered == 0
        assert client.published.messages == 25_000
        with client.subscribe("a.>", "earliest") as subscription:
            assert subscription.filter == "a.>"
            seen = [subscription.get(5).offset]
            for message in subscription:
                seen.append(message.offset)
                if len(seen) == 100:
                    break
            for message in subscription:
                seen.append(message.offset)
                break
            seen.append(subscription.get(5).offset)
            assert seen == list(range(102))
            for batch in subscription.batches():
                assert batch.base_offset > 100
                break
            assert subscription.positions[TopicPartition("a.b", 0)] > 100
            assert subscription.buffered[0] > 0
        assert client.fetch("a.b", 0, 24_999)[0].messages[-1].payload == b"24999"
        assert [info.topic for info in client.topics()] == ["a.b"]
        assert client.describe().durability == "memory"
        assert client.create_topic("c", 3) == 3
    assert client_threads() == []


def test_a_producer(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        with client.producer("a", linger_ms=3_600_000) as producer:
            assert producer.topic == "a"
            pending = producer.publish_nowait(b"x")
            producer.flush()
            assert pending.result(5).offset == 0
            lingering = producer.publish_nowait(b"y")
            with pytest.raises(RequestTimeout):
                lingering.result(0.01)
            assert producer.publish_many([Message(b"z", b"k")]).count == 1
        assert lingering.result(5).offset == 1
        with pytest.raises(NotConnected):
            producer.publish(b"x")


def test_errors_are_the_same(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.auto_create": False})
    with pytest.raises(ConfigError):
        sync.connect("nonsense")
    with pytest.raises(ConnectFailed):
        sync.connect("portask://127.0.0.1:9")
    with sync.connect(broker.url) as client:
        with pytest.raises(NotPermitted):
            client.publish("a", b"x")
        client.publish_nowait("a", b"x")
        with pytest.raises(NotPermitted):
            client.flush()
        client.flush()
        looked_at = client.publish_nowait("a", b"x")
        with pytest.raises(NotPermitted):
            looked_at.result(5)
        client.flush()
        subscription = client.subscribe("a").start()
        with pytest.raises(RequestTimeout):
            subscription.get(0.02)
    for use in (client.ping, client.flush, subscription.start):
        with pytest.raises(NotConnected):
            use()
    client.close()
    assert client_threads() == []


def test_a_failure_that_nobody_looked_at_is_raised_at_the_end(broker: RunningBroker) -> None:
    def use(then: Exception | None) -> None:
        with sync.connect(broker.url) as client:
            client.publish_nowait("a", b"x", partition=5)
            if then is not None:
                raise then

    with pytest.raises(UnknownPartition):
        use(None)
    with pytest.raises(ZeroDivisionError) as caught:
        use(ZeroDivisionError())
    assert "partitions 0 to 0" in caught.value.__notes__[0]
    assert client_threads() == []


def test_iteration_ends_when_another_thread_closes(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        subscription = client.subscribe("a").start()
        got: list[bytes] = []
        consumer = threading.Thread(target=lambda: got.extend(message.payload for message in subscription))
        consumer.start()
        client.publish("a", b"x")
        while not got:
            time.sleep(0.001)
        subscription.close()
        consumer.join(5)
        assert not consumer.is_alive()
    assert got == [b"x"]


def test_draining_leaves_what_arrived(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        subscription = client.subscribe("a").start()
        client.publish_many("a", [b"x"] * 10)
        client.ping()
        client.drain()
        assert len(list(subscription)) == 10


def test_ctrl_c_interrupts_a_wait(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        subscription = client.subscribe("a").start()
        here = threading.get_ident()
        timer = threading.Timer(0.05, signal.pthread_kill, (here, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in subscription:
                pass
        timer.join()
        client.publish("a", b"still alive")
        assert subscription.get(5).payload == b"still alive"


def test_many_threads_share_a_client(broker: RunningBroker) -> None:
    with sync.connect(broker.url) as client:
        offsets: list[int] = []

        def publish() -> None:
            offsets.extend(client.publish("a", b"x").offset for _ in range(20))

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(offsets) == list(range(160))
