"""Tokens and permissions as a client meets them: over a real server, typed, in one line."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from portask import sync
from portask.client import Subscription, connect
from portask.client.options import INSECURE, Options
from portask.config import load, tokens
from portask.core.admission import FAILURES, PENALTY
from portask.errors import AuthenticationFailed, ConfigError, ConnectFailed, NotConnected, NotPermitted
from portask.server.authentication import authenticator
from portask.wire import control
from tests.access.conftest import Authority, People, Write, not_said
from tests.conftest import RunningBroker, StartBroker

WRITES = '{action = ["publish", "create"], filter = "a.>"}'
READS = '{action = ["subscribe", "describe"], filter = "a.>"}, {action = "group", filter = "g"}'


@pytest.fixture
def broker(start_broker: StartBroker, people: People, write: Write, any_server: str) -> RunningBroker:
    people.add("writer", WRITES)
    people.add("reader", READS)
    people.add("boss")
    return start_broker({"server.variant": any_server}, write(None, people.toml))


async def test_everybody_does_what_they_may(broker: RunningBroker, people: People) -> None:
    async with (
        connect(broker.url, token=people.tokens["writer"]) as writer,
        connect(broker.url, token=people.tokens["reader"]) as reader,
    ):
        assert (writer.broker.identity, reader.broker.identity) == ("writer", "reader")
        await writer.publish("a.b", b"x")
        (batch,) = await reader.fetch("a.b")
        assert batch.messages[0].payload == b"x"
        assert [info.topic for info in await reader.topics()] == ["a.b"]


async def test_what_is_not_permitted_says_who_may_not_do_what(broker: RunningBroker, people: People) -> None:
    async with (
        connect(broker.url, token=people.tokens["writer"]) as writer,
        connect(broker.url, token=people.tokens["reader"]) as reader,
    ):
        await writer.publish("a.b", b"x")
        for work, text in [
            (writer.publish("b", b"x"), "'writer' may not publish 'b'"),
            (writer.publish_many("b.c", [b"x"]), "'writer' may not publish 'b.c'"),
            (writer.create_topic("c"), "'writer' may not publish 'c'"),
            (writer.fetch("a.b"), "'writer' may not subscribe 'a.b'"),
            (writer.topics(), "'writer' may not describe '>'"),
            (reader.publish("a.b", b"x"), "'reader' may not publish 'a.b'"),
            (reader.subscribe(">").start(), "'reader' may not subscribe '>'"),
            (reader.subscribe("a.b", group="h").start(), "'reader' may not group 'h'"),
            (reader.drop_group("g"), "'reader' may not drop_group 'g'"),
        ]:
            with pytest.raises(NotPermitted) as caught:
                await work
            assert str(caught.value).startswith(text)
            assert "\n" not in str(caught.value)
        # none of that cost anybody the connection
        await writer.publish("a.b", b"y")
        assert await reader.ping() > 0


@pytest.mark.parametrize("shown", ["nothing", "another's token", "a password"])
async def test_who_is_not_known_is_told_so_and_no_more(broker: RunningBroker, shown: str) -> None:
    wrong = {"nothing": None, "another's token": tokens.mint("writer"), "a password": "hunter2"}[shown]
    with pytest.raises(AuthenticationFailed) as caught:
        await connect(broker.url, token=wrong)
    assert str(caught.value) == (
        f"cannot connect: 127.0.0.1:{broker.port}: this broker asks who is there: "
        "show a valid token, or a certificate that it knows"
    )


async def test_who_keeps_failing_waits_for_the_answer_and_a_good_token_comes_in(
    broker: RunningBroker, people: People
) -> None:
    async def fails() -> float:
        began = time.monotonic()
        with pytest.raises(AuthenticationFailed):
            await connect(broker.url, token=tokens.mint("writer"))
        return time.monotonic() - began

    for _ in range(FAILURES):
        await fails()
    late = [asyncio.create_task(fails()) for _ in range(5)]
    async with connect(broker.url, token=people.tokens["writer"]) as client:
        await client.publish("a.b", b"x")
    assert min(await asyncio.gather(*late)) >= PENALTY / 1e6 - 0.01


def test_the_blocking_client_too(broker: RunningBroker, people: People) -> None:
    with pytest.raises(AuthenticationFailed):
        sync.connect(broker.url)
    with sync.connect(broker.url, token=people.tokens["writer"]) as client:
        client.publish("a.b", b"x")
        with pytest.raises(NotPermitted):
            client.publish("b", b"x")


async def test_requests_and_replies_stay_between_the_two(
    start_broker: StartBroker, people: People, write: Write
) -> None:
    asks = people.add("asks", '{action = ["publish", "create"], filter = "ask.>"}')
    answers = people.add(
        "answers", '{action = "subscribe", filter = "ask.>"}, {action = "publish", filter = "_inbox.asks.>"}'
    )
    broker = start_broker({}, write(None, people.toml))
    async with (
        connect(broker.url, token=asks) as asking,
        connect(broker.url, token=answers) as answering,
        answering.subscribe("ask.>") as requests,
    ):
        reply = asyncio.create_task(asking.request("ask.a", b"?", timeout=5))
        async for request in requests:
            where = str((request.headers or {})["reply-to"])
            assert where.startswith("_inbox.asks.")
            with pytest.raises(NotPermitted, match="inbox"):
                await answering.subscribe(where).start()
            await answering.respond(request, b"!")
            break
        assert (await reply).payload == b"!"


# ── the token on its way ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_does_not_travel_readable_unless_that_is_said_in_words() -> None:
    token = tokens.mint("a")
    two = ["portasks://a.example", "portask://b.example"]
    for url in ("portask://broker.example", "portask://10.0.0.1:1", two):
        with pytest.raises(ConfigError) as caught:
            connect(url, token=token)
        said = str(caught.value)
        assert "the token would travel readable to " in said
        assert "use portasks://, or say 'token in plain text'" in said
        assert token[-40:] not in said
        connect(url, token=token, insecure=INSECURE)
    for url in ("portask://127.0.0.1", "portask://localhost", "portask://[::1]:5", "portasks://h.example"):
        connect(url, token=token)
    connect("portask://broker.example")
    with pytest.raises(ConfigError, match="insecure is 'yes': it must be 'token in plain text'"):
        connect("portask://broker.example", token=token, insecure="yes")


def test_a_token_is_in_no_text_about_a_client() -> None:
    token = tokens.mint("a")
    with not_said(token) as said:
        said += [repr(Options(token=token)), str(Options(token=token))]
        said.append(repr(control.Hello([2], token=token)))
        for url in (
            f"portask://{token}@h",
            f"portask://u:{token}@h:x",
            f"http://{token}@h",
            f"portask://h/{token}",
        ):
            with pytest.raises(ConfigError) as caught:
                connect(url)
            said.append(str(caught.value))
    assert "token=None" in repr(Options())


async def test_nothing_that_a_connection_holds_shows_it(broker: RunningBroker, people: People) -> None:
    token = people.tokens["boss"]
    async with connect(broker.url, token=token):
        (session,) = broker.engine.sessions
        with not_said(token) as said:
            said += [repr(session.standing.credentials)]


# ── losing and coming back ────────────────────────────────────────────────────────────────────────────────────────────


def change(broker: RunningBroker, config: Path) -> None:
    """What SIGHUP does, without a process."""
    for engine in broker.engines:
        engine.admission.authenticator = authenticator(load(config).auth)
        engine.wake()


async def drain(subscription: Subscription) -> None:
    """Takes messages until there are no more."""
    async for _ in subscription:
        pass


async def test_a_client_goes_on_with_what_is_still_allowed(
    broker: RunningBroker, people: People, write: Write
) -> None:
    """The rules change: it is hung up on, comes back, and only what is forbidden now fails."""
    people.tables["boss"] = people.tables["boss"].replace('filter = ">"', 'filter = "a.>"')
    async with connect(broker.url, token=people.tokens["boss"]) as client:
        await client.publish("a.b", b"1")
        await client.publish("b", b"1")
        good, bad = client.subscribe("a.b", "earliest"), client.subscribe("b", "earliest")
        await asyncio.gather(good.start(), bad.start())
        change(broker, write(None, people.toml))
        with pytest.raises(NotPermitted, match="'boss' may not subscribe 'b'"):
            await drain(bad)
        await client.publish("a.b", b"2")
        found = []
        async for message in good:
            found.append(message.payload)
            if message.payload == b"2":
                break
        assert found == [b"1", b"2"]
        with pytest.raises(NotPermitted, match="'boss' may not publish 'b'"):
            await client.publish("b", b"2")


async def test_a_client_that_is_not_known_any_more_gives_up(
    broker: RunningBroker, people: People, write: Write
) -> None:
    async with connect(broker.url, token=people.tokens["writer"]) as client:
        subscription = client.subscribe("_inbox.writer.1")
        await subscription.start()
        del people.tables["writer"]
        change(broker, write(None, people.toml))
        with pytest.raises(AuthenticationFailed):
            await drain(subscription)
        with pytest.raises(NotConnected, match="asks who is there"):
            await client.ping()


async def test_another_address_may_know_it(broker: RunningBroker, start_broker: StartBroker) -> None:
    stranger, elsewhere = tokens.mint("stranger"), start_broker()
    async with connect([broker.url, elsewhere.url], token=stranger) as client:
        assert client.address == f"127.0.0.1:{elsewhere.port}"
    with pytest.raises(AuthenticationFailed):
        await connect([broker.url, "portask://127.0.0.1:1"], token=stranger)
    with pytest.raises(ConnectFailed):
        await connect("portask://127.0.0.1:1", token=stranger)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_publishes_too_fast_is_slowed_down_and_loses_nothing(
    start_broker: StartBroker, people: People, write: Write, any_server: str
) -> None:
    token = people.add("fast", more="limits.max_published_per_s = 2000")
    other = people.add("other")
    broker = start_broker({"server.variant": any_server}, write(None, people.toml))
    async with (
        connect(broker.url, token=token) as one,
        connect(broker.url, token=token) as two,
        connect(broker.url, token=other) as free,
    ):
        began = time.monotonic()
        await asyncio.gather(
            *(client.publish_many("a", [b"%d" % n for n in range(2500)]) for client in (one, two)),
            free.publish_many("b", [b"x"] * 50_000),
        )
        batches = await free.fetch("a", max_bytes=1 << 22)
        assert sum(len(batch.messages) for batch in batches) == 5000
        # whoever published last over the rate is not read before the bucket is level again
        await one.publish("a", b"taken, and paid for later")
        await one.publish("a", b"waits")
        assert time.monotonic() - began >= (5001 - 2000) / 2000 - 0.01


async def test_connections_and_subscriptions_of_one_identity(
    start_broker: StartBroker, people: People, write: Write, any_server: str
) -> None:
    token = people.add("few", more="limits.max_connections = 2\nlimits.max_subscriptions = 3")
    broker = start_broker({"server.variant": any_server}, write(None, people.toml))
    async with connect(broker.url, token=token) as one, connect(broker.url, token=token) as two:
        with pytest.raises(ConnectFailed, match="'few' has 2 connections"):
            await connect(broker.url, token=token, reconnect=False)
        held = [client.subscribe("_inbox.few.1") for client in (one, one, two)]
        for subscription in held:
            await subscription.start()
        with pytest.raises(NotPermitted, match="'few' has 3 subscriptions"):
            await two.subscribe("b").start()
        await held[0].close()
        await two.subscribe("b").start()
    end = time.monotonic() + 5
    while broker.engine.sessions:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    async with connect(broker.url, token=token):
        pass


async def test_over_tls_all_the_same(
    start_broker: StartBroker, people: People, write: Write, authority: Authority, server: str
) -> None:
    token = people.add("writer", WRITES)
    broker = start_broker({"server.variant": server}, write(authority.issue("127.0.0.1"), people.toml))
    async with connect(broker.url, token=token, ca=authority.ca) as client:
        await client.publish("a.b", b"x")
    with pytest.raises(AuthenticationFailed):
        await connect(broker.url, token=tokens.mint("writer"), ca=authority.ca)
