"""SIGHUP: certificates and identities change under a running broker, and those who are in go on."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from portask import sync
from portask.client import Client, connect
from portask.errors import AuthenticationFailed
from portask.wire.connection import Connection, Role
from portask.wire.frames import Opcode
from tests.access.conftest import Authority, Pair, People, Write, not_said
from tests.cli.conftest import Running

Start = Callable[..., Running]
CURRENT = Pair("current.pem", "current.key")


@pytest.fixture(params=["1", "3"], ids=["alone", "workers"])
def serving(request: pytest.FixtureRequest, serving: Start) -> Start:
    """A broker of one process, and one of three workers: what SIGHUP says is so holds for all of them."""
    return partial(serving, "--workers", request.param)


def start(serving: Start, config: Path, server: str) -> tuple[Running, str]:
    """A broker in the folder of its settings, and its URL."""
    broker = serving("--config", str(config), "--server", server, "--storage", "memory", cwd=config.parent)
    broker.wait_for_log('"ready"')
    return broker, f"portasks://127.0.0.1:{broker.port}"


def put(config: Path, pair: Pair) -> None:
    """Makes a certificate the broker's current one."""
    for source, target in zip(pair, CURRENT, strict=True):
        shutil.copy(source, config.parent / target)


def reload(broker: Running) -> str:
    """SIGHUP; returns what the broker says to it."""
    broker.process.send_signal(signal.SIGHUP)
    return broker.wait_for_log("settings ")


def shown_by(broker: Running, ca: str) -> int:
    """The serial number of the certificate that a new connection sees."""
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection(("127.0.0.1", broker.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        found = sock.getpeercert()
        assert found
        return int(str(found["serialNumber"]), 16)


def serial(pair: Pair) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(Path(pair.certificate).read_bytes()).serial_number


async def until(true: Callable[[], bool]) -> None:
    """Waits for it."""
    while not true():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)


async def test_certificates_change_under_load(
    serving: Start, authority: Authority, stranger: Authority, write: Write, server: str
) -> None:
    config = write(CURRENT)
    both = config.with_name("both.pem")
    both.write_text(authority.text + stranger.text)
    put(config, authority.issue("127.0.0.1"))
    broker, url = start(serving, config, server)
    over = asyncio.Event()
    newcomer = asyncio.Event()

    async def newcomers() -> None:
        while not over.is_set():
            async with connect(url, ca=str(both), reconnect=False) as client:
                await client.publish_many("new", [b"x" * 500] * 50)
            newcomer.set()

    async def stays(client: Client) -> None:
        while not over.is_set():
            await client.publish("old", b"y" * 500)

    async with connect(url, ca=str(both)) as old:
        link = old._connector.link
        work = [asyncio.create_task(newcomers()) for _ in range(4)] + [asyncio.create_task(stays(old))]
        for signer in (stranger, authority) * 3:
            pair = signer.issue("127.0.0.1")
            put(config, pair)
            assert "settings read again" in await asyncio.to_thread(reload, broker)
            assert await asyncio.to_thread(shown_by, broker, signer.ca) == serial(pair)
            newcomer.clear()
            await newcomer.wait()
        over.set()
        await asyncio.gather(*work)
        assert old._connector.link is link, "who was in was not disturbed"


def test_files_that_cannot_be_used_change_nothing(
    serving: Start, authority: Authority, stranger: Authority, write: Write, server: str
) -> None:
    pair = authority.issue("127.0.0.1")
    config = write(CURRENT)
    put(config, pair)
    broker, _ = start(serving, config, server)
    before = shown_by(broker, authority.ca)
    shutil.copy(stranger.issue("127.0.0.1").key, config.parent / CURRENT.key)
    said = json.loads(reload(broker))
    assert said["event"] == "settings not taken over"
    assert said["problems"] == ["tls.key: current.key is not the key of current.pem"]
    assert shown_by(broker, authority.ca) == before


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_an_authority_that_is_trusted_no_more_lets_nobody_in_by_an_old_session_either(
    serving: Start,
    authority: Authority,
    stranger: Authority,
    write: Write,
    server: str,
    *,
    request: pytest.FixtureRequest,
    version: str,
) -> None:
    pair = authority.issue("127.0.0.1")
    ca = Path(authority.ca).with_name("clients.pem")
    shutil.copy(authority.ca, ca)
    config = write(CURRENT, client_ca=str(ca), require_client_certificate=True)
    put(config, pair)
    broker, _ = start(serving, config, server)
    context = ssl.create_default_context(cafile=authority.ca)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.load_cert_chain(*authority.issue("client.example"))

    @contextmanager
    def dial(session: ssl.SSLSession | None = None) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", broker.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as sock,
        ):
            yield sock

    def greets(sock: ssl.SSLSocket) -> bool:
        client = Connection(Role.CLIENT)
        client.send_hello()
        sock.sendall(b"".join(client.take_output()))
        return [frame.opcode for frame in client.receive(sock.recv(4096))] == [Opcode.WELCOME]

    with dial() as sock:
        assert greets(sock)
        session = sock.session
    assert session is not None
    with dial(session) as sock:
        # each worker has keys of its own for its sessions, and who comes goes to any
        assert sock.session_reused or "workers" in request.node.name
        assert greets(sock)
    shutil.copy(stranger.ca, ca)
    assert "settings read again" in reload(broker)
    for old in (session, None):
        try:
            with dial(old) as sock:
                assert not sock.session_reused
                assert not greets(sock)
        except OSError:
            pass  # refused in the handshake, or right after it


async def test_identities_change(
    serving: Start, authority: Authority, write: Write, people: People, server: str
) -> None:
    first = people.add("one")
    people.add("two")
    pair = authority.issue("127.0.0.1")
    broker, url = start(serving, write(pair, people.toml), server)
    async with (
        connect(url, ca=authority.ca, token=first, reconnect=False) as one,
        connect(url, ca=authority.ca, token=people.tokens["two"], reconnect=False) as two,
    ):
        new = people.add("one")
        write(pair, people.toml)
        said = await asyncio.to_thread(reload, broker)
        with not_said(first, new) as texts:
            texts.append(said)
        assert json.loads(said)["applied"] == ['auth.identities.one.token_hash: ["…"] → ["…"]']
        async with asyncio.timeout(5):
            await until(lambda: not one.connected)
        await two.publish("a", b"goes on")
    with pytest.raises(AuthenticationFailed):
        await connect(url, ca=authority.ca, token=first)
    async with connect(url, ca=authority.ca, token=new):
        pass


def test_what_would_open_the_door_is_not_taken_over(
    serving: Start, authority: Authority, write: Write, people: People
) -> None:
    """The new settings are fine for the address that they name, and not for the one in use."""
    people.add("one")
    pair = authority.issue("127.0.0.1")
    config = write(pair, people.toml, '[server]\nhost = "0.0.0.0"\n')
    broker, url = start(serving, config, "asyncio-streams")
    write(pair, '[server]\nhost = "127.0.0.1"\n')
    said = json.loads(reload(broker))
    assert said["event"] == "settings not taken over"
    assert "everybody who reaches this address could do everything" in said["problems"][0]
    with pytest.raises(AuthenticationFailed):
        sync.connect(url, ca=authority.ca)
