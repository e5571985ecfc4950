"""Requests find their replies, or end when they said they would; headers arrive as they were sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import portask
from portask import sync
from portask.client import Client, Delivered, connect
from portask.errors import (
    BatchTooLarge,
    InvalidTopic,
    NotConnected,
    NotPermitted,
    RequestTimeout,
    UnknownTopic,
)
from portask.messages import Message
from portask.wire import batches, control, inboxes
from portask.wire.frames import REPLY, Frame, Opcode
from tests.client.peers import Handler, Peer, Proxy, ScriptedBroker, subscribed
from tests.client.test_publish import everything
from tests.client.test_reconnect import until
from tests.conftest import RunningBroker, StartBroker

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}


@pytest.fixture
async def client(broker: RunningBroker) -> AsyncIterator[Client]:
    async with connect(broker.url) as made:
        yield made


@contextlib.asynccontextmanager
async def responder(url: str, topic: str, group: str = "") -> AsyncIterator[list[Delivered]]:
    """Answers every request to ``topic`` with its payload in capitals; gives the list of those it saw."""
    seen: list[Delivered] = []

    async def serve(client: Client) -> None:
        options = {"group": group} if group else {}
        async with client.subscribe(topic, **options) as requests:  # type: ignore[arg-type]
            ready.set()
            async for request in requests:
                idle.clear()
                seen.append(request)
                with contextlib.suppress(UnknownTopic):
                    await client.respond(request, request.payload.upper())
                idle.set()

    ready = asyncio.Event()
    idle = asyncio.Event()
    idle.set()
    async with connect(url) as own:
        task = asyncio.create_task(serve(own))
        await ready.wait()
        yield seen
        await idle.wait()  # a request that is answered and not acknowledged would be another member's, too
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_request_gets_its_reply(broker: RunningBroker, client: Client) -> None:
    async with responder(broker.url, "shout"):
        reply = await client.request("shout", b"hello", key=b"k", headers={"own": "header"})
        assert reply.payload == b"HELLO"
        assert reply.topic.startswith(inboxes.PREFIX)
        many = await asyncio.gather(*(client.request("shout", b"x%d" % number) for number in range(200)))
        assert [each.payload for each in many] == [b"X%d" % number for number in range(200)]
    (first, *_) = await everything(client, "shout")
    assert (first.payload, first.key) == (b"hello", b"k")
    assert first.headers is not None
    assert first.headers["own"] == "header"
    assert first.headers["reply-to"] == reply.topic
    assert reply.headers == {"correlation-id": first.headers["correlation-id"]}
    assert [info.topic for info in await client.topics()] == ["shout"], "inboxes are no topics"


async def test_members_of_a_group_share_requests(broker: RunningBroker, client: Client) -> None:
    async with (
        responder(broker.url, "jobs", "workers") as one,
        responder(broker.url, "jobs", "workers") as other,
    ):
        await asyncio.gather(*(client.request("jobs", b"%d" % number) for number in range(100)))
    assert len(one) + len(other) == 100


async def test_nobody_answers(client: Client) -> None:
    with pytest.raises(RequestTimeout, match=r"nobody answered the request to void within 0\.05 s"):
        await client.request("void", b"x", timeout=0.05)
    assert len(await everything(client, "void")) == 1


async def test_a_request_is_not_delivered_after_its_time() -> None:
    def note(peer: Peer, frame: Frame) -> None:
        ttls.append(batches.parse(frame.body).ttl)
        peer.connection.send(Opcode.PUBACK, control.encode_puback([0]), frame.correlation, frame.channel)

    ttls: list[int] = []
    handlers: dict[int, Handler] = {Opcode.PUBLISH: note, Opcode.SUBSCRIBE: subscribed}
    async with ScriptedBroker(handlers) as broker, connect(broker.url) as client:
        for seconds in (0.01, 1):
            with contextlib.suppress(RequestTimeout):
                await client.request("t", b"x", timeout=seconds)
    assert ttls == [1000, 1000]


async def test_only_the_first_reply_counts_and_late_ones_disturb_nobody(
    broker: RunningBroker, client: Client
) -> None:
    async with connect(broker.url) as other, other.subscribe("t") as requests:
        early = asyncio.create_task(client.request("t", b"1", timeout=0.05))
        first = await requests.get(5)
        with pytest.raises(RequestTimeout):
            await early
        later = asyncio.create_task(client.request("t", b"2"))
        second = await requests.get(5)
        await other.respond(first, b"too late")
        for payload in (b"right", b"again"):
            await other.respond(second, payload)
        assert (await later).payload == b"right"


async def test_who_asked_has_gone(broker: RunningBroker, client: Client) -> None:
    async with connect(broker.url) as other:
        requests = await client.subscribe("t")
        task = asyncio.create_task(other.request("t", b"x"))
        request = await requests.get(5)
        task.cancel()
    with pytest.raises(UnknownTopic, match="who asked has gone"):
        await client.respond(request, b"y")
    assert not len(broker.engine.inboxes)


async def test_a_lost_connection_loses_replies_and_no_more(broker: RunningBroker, client: Client) -> None:
    async with Proxy(broker.port) as proxy, connect(proxy.url, reconnect_delay=0.01) as asking:
        requests = await client.subscribe("t")
        proxy.refusing = False
        lost = asyncio.create_task(asking.request("t", b"1", timeout=1))
        request = await requests.get(5)
        proxy.refusing = True
        proxy.cut()
        await until(lambda: not len(broker.engine.inboxes))
        with pytest.raises(UnknownTopic):
            await client.respond(request, b"lost")
        proxy.refusing = False
        await until(lambda: asking.connected and len(broker.engine.inboxes))
        await client.respond(request, b"there again")
        assert (await lost).payload == b"there again"


async def test_closing_ends_requests(broker: RunningBroker) -> None:
    client = await connect(broker.url)
    task = asyncio.create_task(client.request("t", b"x"))
    await until(lambda: len(broker.engine.inboxes))
    await client.close()
    with pytest.raises(NotConnected):
        await task
    with pytest.raises(NotConnected):
        await client.request("t", b"x")


async def test_refusals_come_at_once(start_broker: StartBroker) -> None:
    broker = start_broker({"topics.auto_create": False, "limits.max_frame_bytes": 100_000})
    async with connect(broker.url) as client:
        with pytest.raises(NotPermitted, match="does not create"):
            await client.request("t", b"x")
        with pytest.raises(InvalidTopic):
            await client.request("not a topic", b"x")
        with pytest.raises(NotPermitted, match="takes replies only"):
            await client.publish("_inbox.x", b"x")
        with pytest.raises(ValueError, match="above 0"):
            await client.request("t", b"x", timeout=0)
        asked = Delivered("t", 0, 7, b"", None, {"reply-to": "_inbox.x"}, 0, 0)
        with pytest.raises(BatchTooLarge):
            await client.respond(asked, bytes(200_000))
        with pytest.raises(UnknownTopic):
            await client.respond(Delivered("t", 0, 7, b"", None, {"reply-to": b"_inbox.x"}, 0, 0), b"x")
        for headers in (None, {"a": "b"}):
            with pytest.raises(ValueError, match="t:0@7 asks for no reply"):
                await client.respond(Delivered("t", 0, 7, b"", None, headers, 0, 0), b"x")
        for name in ("", b"\xff", "_inbox.ä", "_inbox." + "x" * 300):
            with pytest.raises(InvalidTopic):
                await client.respond(Delivered("t", 0, 7, b"", None, {"reply-to": name}, 0, 0), b"x")


async def test_a_reply_may_go_to_a_topic(client: Client) -> None:
    asked = Delivered("t", 0, 0, b"", None, {"reply-to": "answers", "correlation-id": "8", **TRACE}, 0, 0)
    await client.respond(asked, b"x", headers={"tracestate": "b=2", "more": b"\0"})
    (answer,) = await everything(client, "answers")
    assert answer.headers == {**TRACE, "correlation-id": "8", "tracestate": "b=2", "more": b"\0"}


async def test_a_reply_that_cannot_be_read_costs_nobody_else() -> None:
    """Nor does one that answers nothing."""

    def answer(peer: Peer, frame: Frame) -> None:
        found = batches.parse(frame.body)
        peer.connection.send(Opcode.PUBACK, control.encode_puback([0]), frame.correlation, frame.channel)
        good = bytes(found.body)
        bad = good.replace(b"\x84", b"\x00", 1)
        for offset, body in enumerate((bad, good.replace(b"correlation-id", b"correlation-ix"), good)):
            data = batches.build(body, 1, codec=1, base_timestamp=0, base_offset=offset)
            peer.connection.send(Opcode.DELIVER, data, 0, control.DELIVERY_CHANNELS)

    def assign(peer: Peer, frame: Frame) -> None:
        name = control.decode(frame.body, control.Subscribe).filter
        first = control.encode(control.Assigned(name, 0, control.DELIVERY_CHANNELS, 0))
        peer.connection.send(Opcode.SUBSCRIBE, first, 0, frame.channel, REPLY)
        peer.reply(frame, Opcode.SUBSCRIBE, control.encode(control.Assigned("", 0, 0, 0)))

    handlers: dict[int, Handler] = {Opcode.PUBLISH: answer, Opcode.SUBSCRIBE: assign}
    async with ScriptedBroker(handlers) as broker, connect(broker.url) as client:
        assert (await client.request("t", b"echo", timeout=5)).payload == b"echo"


def test_the_blocking_client_asks_and_answers(broker: RunningBroker) -> None:
    with (
        sync.connect(broker.url) as asking,
        sync.connect(broker.url) as answering,
        answering.subscribe("t") as requests,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(asking.request, "t", b"x", timeout=5)
        answering.respond(requests.get(5), b"y")
        assert asked.result(5).payload == b"y"
        with pytest.raises(RequestTimeout):
            asking.request("t", b"x", timeout=0.05)


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_trace_headers() -> None:
    assert portask.trace_headers(Message(b"")) == {}
    assert portask.trace_headers(Message(b"", headers={"a": "b"})) == {}
    assert portask.trace_headers(Message(b"", headers={"a": "b", **TRACE})) == TRACE
    assert portask.trace_headers(Delivered("t", 0, 0, b"", None, {"tracestate": b"x"}, 0, 0)) == {
        "tracestate": b"x"
    }


async def test_headers_survive_the_whole_way(broker: RunningBroker, client: Client) -> None:
    """Published, delivered, passed on, replied to, and as a dead letter."""
    given: dict[str, str | bytes] = {**TRACE, "text": "ä", "bytes": bytes(range(256)), "": ""}
    async with (
        client.subscribe("first") as first,
        client.subscribe("second", group="g", max_deliveries=1) as second,
        client.subscribe("second.dead") as dead,
    ):
        asked = asyncio.create_task(client.request("first", b"x", headers=given))
        message = await first.get(5)
        assert message.headers is not None
        assert {name: message.headers[name] for name in given} == given
        await client.publish("second", b"y", headers=portask.trace_headers(message) | {"hop": "2"})
        await client.respond(message, b"z")
        assert portask.trace_headers(await asked) == TRACE
        passed = await second.get(5)
        assert passed.headers == {**TRACE, "hop": "2"}
        passed.nack(reason="no use")
        letter = await dead.get(5)
        assert letter.headers is not None
        assert letter.headers.items() >= {**TRACE, "hop": "2"}.items()
