"""Whatever the other end does or does not do, no await is endless, and the error names what did not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from portask.client import connect
from portask.errors import (
    BatchCorrupt,
    ConnectFailed,
    FrameTooLarge,
    NotConnected,
    NotPermitted,
    PortaskError,
    RemoteProtocolError,
    RequestTimeout,
)
from portask.wire import control
from portask.wire.frames import Opcode, frame_header
from tests.client.peers import Peer, ScriptedBroker, raw_listener, subscribed
from tests.conftest import RunningBroker

SOON = {"request_timeout": 0.15, "connect_timeout": 0.15}


async def test_a_peer_that_says_nothing() -> None:
    async with raw_listener() as url:
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:\d+ did not answer within 0\.15 s"):
            await connect(url, connect_timeout=0.15)


async def test_nobody_there() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:9"):
        await connect("portask://127.0.0.1:9")
    with pytest.raises(ConnectFailed, match="no-such-host"):
        await connect("portask://no-such-host.invalid")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a Portask frame"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "not a Portask frame"),
        (frame_header(Opcode.WELCOME, 9000), "limit of 8,192"),
        (frame_header(Opcode.DELIVER, 0), "DELIVER came before WELCOME"),
        (frame_header(Opcode.WELCOME, 1) + b"\xff", "Welcome body"),
    ],
)
async def test_a_peer_that_is_no_broker(words: bytes, says: str) -> None:
    async with raw_listener(words) as url:
        with pytest.raises(ConnectFailed, match=says):
            await connect(url)


async def test_a_broker_that_refuses_says_why() -> None:
    body = control.encode(control.Error(NotPermitted.code, "this broker takes 5 connections"))
    async with raw_listener(frame_header(Opcode.ERROR, len(body)) + body) as url:
        with pytest.raises(ConnectFailed, match="takes 5 connections"):
            await connect(url)


async def test_a_broker_that_answers_nothing() -> None:
    async with ScriptedBroker({Opcode.OPEN: lambda *_: None, Opcode.DRAIN: lambda *_: None}) as broker:
        client = await connect(broker.url, **SOON)  # type: ignore[arg-type]
        works = {
            "PING": client.ping(),
            "FETCH": client.fetch("a"),
            "DESCRIBE": client.topics(),
            "SUBSCRIBE": client.subscribe("a").start(),
            "a": client.publish("a", b"x"),
            "b": client.publish_many("b", [b"x"]),
            "c": client.create_topic("c"),
        }
        async with asyncio.timeout(5):
            outcomes: list[object] = list(await asyncio.gather(*works.values(), return_exceptions=True))
            for name, outcome in zip(works, outcomes, strict=True):
                if name != "PING":  # the connection answers PING by itself
                    assert isinstance(outcome, RequestTimeout), (name, outcome)
                    assert name in str(outcome)
            await client.close()


async def test_a_broker_that_never_acknowledges() -> None:
    async with ScriptedBroker({}) as broker:
        client = await connect(broker.url, **SOON, max_in_flight=2, batch_bytes=100)  # type: ignore[arg-type]
        await client.create_topic("a")
        works = [client.publish("a", bytes(200)) for _ in range(6)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(
                *works, client.publish_many("a", [b"x"] * 9), return_exceptions=True
            )
        assert {type(outcome) for outcome in outcomes} == {RequestTimeout}
        assert client.buffered == 0
        await client.close()


async def test_an_ack_after_the_deadline_is_counted_and_ignored() -> None:
    async with ScriptedBroker({}) as broker:
        client = await connect(broker.url, **SOON)  # type: ignore[arg-type]
        with pytest.raises(RequestTimeout, match="may have been stored"):
            await client.publish("a", b"x")
        late = asyncio.create_task(client.publish("a", b"y"))
        while len(broker.of(Opcode.PUBLISH)) < 2:  # noqa: ASYNC110 - the script has no event
            await asyncio.sleep(0.001)
        (peer,) = broker.peers
        first, second = broker.of(Opcode.PUBLISH)
        peer.connection.send(
            Opcode.PUBACK, control.encode(control.PubAck([7, 8])), second.correlation, first.channel
        )
        peer.flush()
        assert (await late).offset == 8
        await client.close()


async def test_a_broker_that_does_not_answer_drain_does_not_hold_the_client() -> None:
    async with ScriptedBroker({Opcode.DRAIN: lambda *_: None}) as broker:
        client = await connect(broker.url, request_timeout=0.1)
        async with asyncio.timeout(5):
            await client.close()


async def test_late_and_unasked_answers_are_ignored() -> None:
    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribed}) as broker, connect(broker.url) as client:
        (peer,) = broker.peers
        for opcode in (
            Opcode.OPEN,
            Opcode.SUBSCRIBE,
            Opcode.DESCRIBE,
            Opcode.DELIVER,
            Opcode.PUBACK,
            Opcode.UNSUBSCRIBE,
        ):
            peer.connection.send(opcode, b"", 999, 77)
        peer.connection.send(Opcode.ERROR, control.encode(control.Error("broker", "late")), 999, 77)
        peer.connection.send(Opcode.PONG, b"", 999)
        peer.connection.send(Opcode.DELIVER, b"", 0, control.DELIVERY_CHANNELS + 9)
        peer.flush()
        await client.ping()
        assert client.connected
        await (await client.subscribe("t")).close()


GARBAGE = [
    b"garbage of more than one header's length",
    frame_header(Opcode.PUBLISH, 0, 1),
    frame_header(Opcode.DELIVER, (1 << 23) + 1, 0, control.DELIVERY_CHANNELS),
    frame_header(Opcode.DELIVER, 3, 0, control.DELIVERY_CHANNELS) + b"bad",
    frame_header(Opcode.PUBACK, 1, 1, 1) + b"\xff",
    frame_header(Opcode.SUBSCRIBE, 1, 0, (1 << 30) + 1) + b"\xff",
    frame_header(Opcode.ERROR, 1, 99, 1) + b"\xff",
    os.urandom(2000),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_ends_the_connection_with_a_reason(garbage: bytes) -> None:
    async with ScriptedBroker({Opcode.SUBSCRIBE: subscribed}) as broker:
        client = await connect(broker.url, reconnect=False)
        await client.create_topic("t")
        subscription = await client.subscribe("t")
        broker.peers[0].writer.write(garbage)
        with pytest.raises(NotConnected) as caught:
            await subscription.get(5)
        assert "is lost: " in str(caught.value)
        assert "the broker closed it" not in str(caught.value)
        await client.close()
        # The broker was told what was wrong with it.
        error = broker.peers[0].connection.fault
        assert isinstance(error, (RemoteProtocolError, BatchCorrupt, FrameTooLarge))


async def test_garbage_is_recovered_from_by_reconnecting() -> None:
    async with ScriptedBroker({}) as broker, connect(broker.url, reconnect_delay=0.01) as client:
        for number, garbage in enumerate(GARBAGE[:2]):
            broker.peers[number].writer.write(garbage)
            while len(broker.peers) < number + 2:  # noqa: ASYNC110 - the script has no event
                await asyncio.sleep(0.001)
            with contextlib.suppress(NotConnected):
                await client.ping()
        assert await client.create_topic("a") == 1


async def test_an_answer_that_is_no_answer_fails_its_request() -> None:
    def confused(peer: Peer, frame: object) -> None:
        peer.reply(frame, Opcode.DESCRIBE, b"\xff")  # type: ignore[arg-type]

    async with (
        ScriptedBroker({Opcode.DESCRIBE: confused, Opcode.FETCH: confused}) as broker,
        connect(broker.url) as client,
    ):
        for ask in (client.topics(), client.fetch("a")):
            with pytest.raises(PortaskError):
                await ask


async def test_a_broker_that_hangs_up_at_once(broker: RunningBroker) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with connect([f"portask://127.0.0.1:{port}", broker.url]) as client:
        assert client.address == f"127.0.0.1:{broker.port}"
    with pytest.raises(ConnectFailed, match=r"closed it|reset"):
        await connect(f"portask://127.0.0.1:{port}")
    server.close()
