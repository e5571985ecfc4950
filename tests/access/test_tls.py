"""TLS with every server that has it: what goes through, and what does not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from portask.client import Subscription, connect
from portask.config.access import TlsSettings
from portask.config.settings import Choice, ServerSettings, Settings
from portask.errors import AuthenticationFailed, ConfigError, ConnectFailed, TlsFailed
from portask.server import tls
from portask.server.build import build
from portask.server.tls import _Failures
from portask.wire.connection import Connection, Role
from portask.wire.frames import Opcode
from tests.access.conftest import Authority, Pair, People, Write
from tests.conftest import RunningBroker, StartBroker

PATIENCE = 5.0


@pytest.fixture
def broker(start_broker: StartBroker, authority: Authority, write: Write, server: str) -> RunningBroker:
    """One that shows a certificate for its address and asks for none."""
    return start_broker({"server.variant": server}, write(authority.issue("127.0.0.1", "broker.example")))


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    context.check_hostname = False
    return context


def dial(broker: RunningBroker, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((broker.host, broker.port), PATIENCE)
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=broker.host)
    except BaseException:
        plain.close()
        raise


def greets(sock: socket.socket) -> bool:
    """Whether the other end is a broker that lets us in."""
    client = Connection(Role.CLIENT)
    client.send_hello()
    sock.sendall(b"".join(client.take_output()))
    return [frame.opcode for frame in client.receive(sock.recv(4096))] == [Opcode.WELCOME]


async def works(url: str, **options: object) -> None:
    async with connect(url, reconnect=False, **options) as client:  # type: ignore[arg-type]
        await client.publish("works", b"yes")


async def test_messages_of_all_sizes_go_through_in_order(broker: RunningBroker, authority: Authority) -> None:
    assert broker.url.startswith("portasks://")
    payloads = [bytes([n % 251]) * size for n, size in enumerate([1, 100, 70_000, 0, 3_000_000, 5] * 5)]
    async with connect(broker.url, ca=authority.ca) as client, client.subscribe("big") as subscription:
        await client.publish_many("big", payloads)
        assert await take(subscription, len(payloads)) == payloads


async def take(subscription: Subscription, count: int) -> list[bytes]:
    """The payloads of the next messages."""
    found: list[bytes] = []
    async for message in subscription:
        found.append(message.payload)
        if len(found) == count:
            break
    return found


async def test_many_at_once(broker: RunningBroker, authority: Authority) -> None:
    async def one(number: int) -> None:
        async with connect(broker.url, ca=authority.ca) as client:
            await client.publish_many(f"many.{number}", [b"x" * 1000] * 200)
            batches = await client.fetch(f"many.{number}", max_bytes=1 << 20)
            assert sum(len(batch.messages) for batch in batches) == 200

    await asyncio.gather(*[one(number) for number in range(20)])


async def test_a_consumer_that_does_not_read_is_not_waited_for(
    broker: RunningBroker, authority: Authority
) -> None:
    """The server's own back-pressure, with TLS between: the others go on, and it gets everything in the end."""
    payload = b"x" * 100_000
    async with (
        connect(broker.url, ca=authority.ca) as slow,
        connect(broker.url, ca=authority.ca) as fast,
        slow.subscribe("a", credit_bytes=1 << 30) as subscription,
    ):
        link = slow._connector.link
        assert link is not None
        assert link._transport is not None
        link._transport.pause_reading()
        await fast.publish_many("a", [payload] * 300)
        await fast.publish("b", b"others go on")
        (session,) = [each for each in broker.engine.sessions if each.subscriptions]
        assert session.congested
        link._transport.resume_reading()
        assert await take(subscription, 300) == [payload] * 300


# ── the broker's certificate ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broker_that_somebody_else_vouches_for_is_not_trusted(
    broker: RunningBroker, stranger: Authority
) -> None:
    for options in ({}, {"ca": stranger.ca}):
        with pytest.raises(
            TlsFailed, match=r"certificate is not trusted here .*: name its authority's file \(ca=…"
        ):
            await works(broker.url, **options)


async def test_an_expired_certificate_is_refused(
    start_broker: StartBroker, authority: Authority, write: Write
) -> None:
    broker = start_broker({}, write(authority.issue("127.0.0.1", expired=True)))
    with pytest.raises(TlsFailed, match=r"its certificate is not good \(certificate has expired"):
        await works(broker.url, ca=authority.ca)


async def test_the_name_must_be_the_one_in_the_certificate(
    broker: RunningBroker, authority: Authority
) -> None:
    url = f"portasks://localhost:{broker.port}"
    with pytest.raises(
        TlsFailed, match=r"its certificate is another's .*localhost.*use the name that is in it"
    ):
        await works(url, ca=authority.ca)
    await works(url, ca=authority.ca, server_name="broker.example")
    with pytest.raises(TlsFailed, match="another's"):
        await works(broker.url, ca=authority.ca, server_name="other.example")


async def test_a_context_of_ones_own(broker: RunningBroker, authority: Authority) -> None:
    await works(broker.url, tls=ssl.create_default_context(cafile=authority.ca))


async def test_several_addresses_may_have_tls_or_not(
    broker: RunningBroker, authority: Authority, start_broker: StartBroker
) -> None:
    plain = start_broker()
    for urls in ([plain.url, broker.url], [broker.url, plain.url]):
        await works(urls, ca=authority.ca)  # type: ignore[arg-type]


# ── versions, and what is no TLS ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "least", "fine"),
    [
        ("TLSv1", "1.2", False),
        ("TLSv1_1", "1.2", False),
        ("TLSv1_2", "1.2", True),
        ("TLSv1_3", "1.2", True),
        ("TLSv1_2", "1.3", False),
        ("TLSv1_3", "1.3", True),
    ],
)
def test_old_versions_are_refused(
    start_broker: StartBroker,
    authority: Authority,
    write: Write,
    server: str,
    *,
    version: str,
    least: str,
    fine: bool,
) -> None:
    broker = start_broker(
        {"server.variant": server}, write(authority.issue("127.0.0.1"), minimum_version=least)
    )
    context = trusting(authority)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own side would not even offer the old ones
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if fine:
        with dial(broker, context) as sock:
            assert sock.version() == version.replace("_", ".")  # type: ignore[attr-defined]
            assert greets(sock)
    else:
        with pytest.raises(OSError, match=r"(?i)ssl|reset|eof|version"):
            dial(broker, context)
    with dial(broker, trusting(authority)) as sock:
        assert greets(sock)


async def test_a_client_without_tls_is_told_what_to_try(broker: RunningBroker, authority: Authority) -> None:
    with pytest.raises(ConnectFailed, match="if it speaks TLS, use portasks://"):
        await works(broker.url.replace("portasks", "portask"))
    await works(broker.url, ca=authority.ca)


async def test_a_broker_without_tls_is_named_as_one(start_broker: StartBroker, authority: Authority) -> None:
    broker = start_broker()
    with pytest.raises(
        TlsFailed, match=r"does not speak TLS .*: use portask://, or give that broker a certificate"
    ):
        await works(broker.url.replace("portask", "portasks"), ca=authority.ca)
    await works(broker.url)


# ── clients' certificates ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_certificate_is_asked_for_and_has_to_be_good(
    start_broker: StartBroker, authority: Authority, stranger: Authority, write: Write, server: str
) -> None:
    config = write(authority.issue("127.0.0.1"), client_ca=authority.ca, require_client_certificate=True)
    broker = start_broker({"server.variant": server}, config)
    await works(broker.url, ca=authority.ca, **authority.issue("client.example").options)
    for options in (
        {},
        stranger.issue("client.example").options,
        authority.issue("client.example", expired=True).options,
    ):
        with pytest.raises(ConnectFailed) as caught:
            await works(broker.url, ca=authority.ca, **options)
        assert "certificate" in str(caught.value)
    assert not broker.engine.sessions
    await works(broker.url, ca=authority.ca, **authority.issue("other.example").options)


async def test_the_names_in_a_certificate_say_who_it_is(
    start_broker: StartBroker, authority: Authority, write: Write, server: str, people: People
) -> None:
    token = people.add("boss")
    tables = """
    [auth.identities.by-name]
    certificate = ["CN:orders service"]
    [auth.identities.by-host]
    certificate = ["DNS:Host.example"]
    [auth.identities.by-uri]
    certificate = ["URI:spiffe://example.org/orders"]
    [auth.identities.by-mail]
    certificate = ["EMAIL:o@example.org"]
    """
    config = write(authority.issue("127.0.0.1"), tables, people.toml, client_ca=authority.ca)
    broker = start_broker({"server.variant": server}, config)
    pairs = {
        "by-name": authority.issue("x.example", common_name="orders service"),
        "by-host": authority.issue("y.example", "host.example"),
        "by-mail": authority.issue("o@example.org"),
    }
    for name, pair in pairs.items():
        async with connect(broker.url, ca=authority.ca, **pair.options) as client:
            assert client.broker.identity == name
    async with connect(broker.url, ca=authority.ca, token=token, **pairs["by-name"].options) as client:
        assert client.broker.identity == "boss"
    for pair in (authority.issue("z.example"), authority.issue("host.example", common_name="orders service")):
        with pytest.raises(AuthenticationFailed):
            await works(broker.url, ca=authority.ca, **pair.options)
    with pytest.raises(AuthenticationFailed):
        await works(broker.url, ca=authority.ca)


# ── who takes their time ──────────────────────────────────────────────────────────────────────────────────────────────


def hung_up_on(sock: socket.socket) -> bool:
    sock.settimeout(PATIENCE)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_who_does_not_finish_the_handshake_is_hung_up_on(
    start_broker: StartBroker, authority: Authority, write: Write, server: str, said: bytes
) -> None:
    settings = {"server.variant": server, "limits.hello_timeout_s": 0.3}
    broker = start_broker(settings, write(authority.issue("127.0.0.1")))
    with dial(broker, None) as sock:
        sock.sendall(said)
        assert hung_up_on(sock)
    assert not broker.engine.sessions


def drip(sock: socket.socket, data: bytes) -> None:
    """A byte every 5 ms."""
    for at in range(len(data)):
        sock.sendall(data[at : at + 1])
        time.sleep(0.005)


def test_who_says_hello_byte_by_byte_is_hung_up_on(
    start_broker: StartBroker, authority: Authority, write: Write, server: str
) -> None:
    settings = {"server.variant": server, "limits.hello_timeout_s": 0.3}
    broker = start_broker(settings, write(authority.issue("127.0.0.1")))
    client = Connection(Role.CLIENT)
    client.send_hello("x" * 4000)
    data = b"".join(client.take_output())
    with (
        dial(broker, trusting(authority)) as sock,
        pytest.raises(OSError, match=r"(?i)pipe|reset|eof|closed|protocol"),
    ):
        drip(sock, data)


def test_handshakes_beyond_the_limit_are_not_even_begun(
    start_broker: StartBroker,
    authority: Authority,
    write: Write,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portask.server.tls._HANDSHAKES", 1)
    settings = {"server.variant": server, "limits.max_connections": 2}
    broker = start_broker(settings, write(authority.issue("127.0.0.1")))
    good = [dial(broker, trusting(authority)) for _ in range(2)]
    assert all(greets(sock) for sock in good)
    with dial(broker, trusting(authority)) as third:
        assert b"limits.max_connections" in third.recv(4096)
        # it still counts: its connection is not closed yet at this end
        with pytest.raises(OSError, match=r"(?i)reset|eof|ssl"):
            dial(broker, trusting(authority))
    good[0].close()
    end = time.monotonic() + PATIENCE
    while True:  # the broker has to notice
        try:
            with dial(broker, trusting(authority)) as again:
                assert greets(again)
            break
        except (OSError, AssertionError):
            assert time.monotonic() < end
            time.sleep(0.01)
    good[1].close()


def test_memory_of_failed_handshakes_is_given_back_and_not_all_the_time(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    collected: list[float] = []
    monkeypatch.setattr("portask.server.tls.time.monotonic", lambda: now)
    monkeypatch.setattr("portask.server.tls.gc.collect", lambda: collected.append(now))
    monkeypatch.setattr("portask.server.tls._give_back", lambda: None)
    pair = authority.issue("127.0.0.1")
    door = tls.Tls(TlsSettings(certificate=pair.certificate, key=pair.key), 5.0, 10)
    for failures in (255, 1, 300, 300):
        for _ in range(failures):
            door.end(door.begin(), "it failed")
        door.sweep()
        now += 1.0
    assert collected == [1001.0], "everybody waits for it: not each second of an attack"
    door.sweep()  # nothing failed since the last one
    assert collected == [1001.0, 1004.0]
    for _ in range(10):
        now += 1.0
        for _ in range(300):
            door.end(door.begin(), "it failed")
        door.sweep()
    assert collected == [1001.0, 1004.0, 1014.0]


def test_handshakes_that_come_to_no_end_are_logged_and_then_counted(
    start_broker: StartBroker,
    authority: Authority,
    write: Write,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = _Failures()
    failures.WINDOW = 1.0
    monkeypatch.setattr("portask.server.tls._failures", failures)
    settings = {"server.variant": server, "limits.hello_timeout_s": 0.3}
    with capture_logs() as logs, ExitStack() as stack:
        broker = start_broker(settings, write(authority.issue("127.0.0.1")))
        for number in range(13):
            sock = stack.enter_context(dial(broker, None))
            if number % 2:
                sock.close()
        end = time.monotonic() + PATIENCE
        while not any("count" in line for line in logs) and time.monotonic() < end:
            time.sleep(0.01)
        said = [line for line in logs if "TLS" in line["event"]]
    assert [line["event"] for line in said] == ["TLS handshake failed"] * 10 + ["more TLS handshakes failed"]
    assert "not finished within 0.3 s" in said[0]["reason"]
    assert said[-1]["count"] == 3


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, authority: Authority, stranger: Authority, write: Write, start_broker: StartBroker
) -> None:
    pair = authority.issue("127.0.0.1")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    locked = tmp_path / "locked.key"
    locked.write_text(Path(pair.key).read_text().replace("EC PRIVATE", "ENCRYPTED PRIVATE"))
    gone = str(tmp_path / "gone.pem")
    for bad, ca, key, part in [
        (Pair(gone, pair.key), "", "tls.certificate", "gone.pem cannot be read: No such file"),
        (Pair(pair.certificate, gone), "", "tls.key", "gone.pem cannot be read: No such file"),
        (Pair(pair.certificate, str(tmp_path)), "", "tls.key", "cannot be read: Is a directory"),
        (
            Pair(str(nothing), pair.key),
            "",
            "tls.certificate",
            "must be a certificate and its key, in PEM form",
        ),
        (Pair(pair.certificate, stranger.issue("a.b").key), "", "tls.key", "is not the key of"),
        (Pair(pair.certificate, ""), "", "tls.certificate", "say where that is with tls.key"),
        (pair, gone, "tls.client_ca", "cannot be read: No such file"),
        (pair, str(nothing), "tls.client_ca", "has no certificates in PEM form"),
    ]:
        with pytest.raises(ConfigError) as caught:
            start_broker({}, write(bad, client_ca=ca))
        said = str(caught.value)
        assert said.startswith(f"{key}: "), said
        assert part in said
        assert "\n" not in said


def test_an_encrypted_key_is_an_error_and_no_question_on_the_terminal(
    tmp_path: Path, authority: Authority, write: Write, start_broker: StartBroker
) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = authority.issue("127.0.0.1")
    key = serialization.load_pem_private_key(Path(pair.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(
        ConfigError, match=r"tls\.key: .*locked\.key is encrypted: decrypt it with `openssl pkey"
    ):
        start_broker({}, write(Pair(pair.certificate, str(locked))))


def test_one_file_may_hold_both(
    tmp_path: Path, authority: Authority, write: Write, start_broker: StartBroker
) -> None:
    pair = authority.issue("127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_text(Path(pair.key).read_text() + Path(pair.certificate).read_text())
    broker = start_broker({}, write(Pair(str(both), "")))
    with dial(broker, trusting(authority)) as sock:
        assert greets(sock)


async def test_a_client_s_files_are_named_too(authority: Authority, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    pair = authority.issue("a.example")
    for options, part in [
        ({"ca": gone}, "ca: "),
        ({"certificate": gone}, "certificate: "),
        ({"certificate": pair.certificate, "key": gone}, "key: "),
        ({"key": pair.key}, "key is of no use without certificate"),
        ({"tls": ssl.create_default_context(), "ca": authority.ca}, "tls is a whole context"),
    ]:
        with pytest.raises(ConfigError, match=part):
            connect("portasks://127.0.0.1:1", **options)  # type: ignore[arg-type]
    for options in (
        {"ca": authority.ca},
        {"server_name": "a"},
        pair.options,
        {"tls": ssl.create_default_context()},
    ):
        with pytest.raises(ConfigError, match="is for TLS: begin the URL with portasks://"):
            connect("portask://127.0.0.1:1", **options)


def test_a_server_that_cannot_is_not_started_without(authority: Authority) -> None:
    """Settings that nobody checked must not lead to a broker that speaks plain text."""
    pair = authority.issue("127.0.0.1")
    settings = Settings(
        server=ServerSettings(variant="epoll"), tls=TlsSettings(*pair), storage=Choice("memory")
    )
    with pytest.raises(ConfigError, match=r"server\.variant: epoll has no TLS"):
        build(settings)
