"""What besiegers do: ``python -m portask_lab.loadgen.assaults PORT TOKEN`` is their process.

An order names an assault, see `ASSAULTS`. Each keeps at it for so many seconds, then waits until the broker has hung up
on everybody, and says who that was: a promise of the broker is about each of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from portask.config import tokens
from portask.errors import PortaskError
from portask.messages import Buffer
from portask.wire import batches, control, windows
from portask.wire.compression import LZ4, ZSTD
from portask.wire.frames import VERSION, Opcode, frame_header
from portask_lab.loadgen import links
from portask_lab.loadgen.besieger import Crew, Order, Report
from portask_lab.loadgen.crowd import most
from portask_lab.loadgen.team import answer

TOPIC = "siege"
BOMBS = f"{TOPIC}.bombs"
_MIB = 1 << 20


def _hello(token: str) -> bytes:
    body = control.encode(control.Hello([VERSION], client="portask-lab", token=token))
    return frame_header(Opcode.HELLO, len(body)) + body


def _client_hello() -> bytes:
    """What a TLS client says first."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(theirs, ours, server_hostname="localhost").do_handshake()
    return ours.read()


# ── assaults ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _trickle(crew: Crew, text: bytes) -> Report:
    """So many connections that say what one says first, a byte every 100 ms; who is hung up on comes again."""
    while crew.on:
        for _ in range(crew.order.count - len(crew.open)):
            crew.begin()
        for enemy in list(crew.open.values()):
            if enemy.up and enemy.place < len(text) - 1:
                crew.send(enemy, text[enemy.place : enemy.place + 1])
                enemy.place += 1
        rest = time.monotonic() + 0.1
        while time.monotonic() < rest:
            crew.look()
    return crew.wait()


def _slow_hello(crew: Crew) -> Report:
    return _trickle(crew, _hello(crew.token))


def _slow_handshake(crew: Crew) -> Report:
    return _trickle(crew, _client_hello())


def _half_open(crew: Crew) -> Report:
    """So many connections that say nothing."""
    for _ in range(crew.order.count):
        crew.begin()
    while crew.on:
        crew.look()
    return crew.wait()


def _at_rate(crew: Crew, firsts: Iterator[tuple[bytes, bool]]) -> Report:
    """So many new connections a second."""
    began = time.monotonic()
    made = 0
    while crew.on:
        due = int((time.monotonic() - began) * crew.order.count) + 1
        while made < due and crew.on:
            first, leaves = next(firsts)
            crew.begin(first, leaves=leaves)
            made += 1
        crew.look(0.005)
    return crew.wait()


def _wrong_token(crew: Crew) -> Report:
    wrong = _hello(tokens.mint("friend"))
    return _at_rate(crew, itertools.repeat((wrong, False)))


def _garbage(crew: Crew) -> Report:
    """Random bytes, plain HTTP, and the half of a handshake, whose client hangs up."""
    chance = random.Random(1)
    hello = _client_hello()

    def texts() -> Iterator[tuple[bytes, bool]]:
        while True:
            yield chance.randbytes(300), False
            yield b"GET / HTTP/1.1\r\nHost: broker.example\r\n\r\n", False
            yield hello[: chance.randrange(6, len(hello))], True

    return _at_rate(crew, texts())


def _oversized(crew: Crew) -> Report:
    """All at once: half of them newcomers, half let in, and each begins a frame that is too large."""
    filling = bytes(64 << 10)
    newcomer = frame_header(Opcode.HELLO, 1 << 30) + filling
    known = frame_header(Opcode.PUBLISH, 1 << 30, 1, 1) + filling
    hello = _hello(crew.token)
    while True:
        for number in range(crew.order.count):
            crew.begin(hello if number % 2 else b"")
        while crew.connecting:
            crew.look()
        for enemy in list(crew.open.values()):
            crew.send(enemy, known if enemy.first else newcomer)
        until = time.monotonic() + crew.order.patience
        while crew.open and time.monotonic() < until:
            crew.look()
        if not crew.on or crew.open:
            return crew.wait()


def _let_in(crew: Crew) -> tuple[links.Setup, str]:
    sock = socket.create_connection(("127.0.0.1", crew.port), 10.0, (f"127.{crew.order.source}.0.1", 0))
    host, port = sock.getsockname()
    return links.Setup(sock, crew.token), f"{host}:{port}"


def _subscriptions(crew: Crew) -> Report:
    """One connection that subscribes as fast as it can, to ever more filters."""
    setup, peer = _let_in(crew)
    sock, report = setup.sock, crew.report
    sock.setblocking(False)
    cut = out = b""
    poller = select.poll()
    answered = 0
    while crew.on or answered < report.attempts:
        if crew.on and not out:
            frames = []
            for number in range(report.attempts + 1, report.attempts + 101):
                filter_ = f"{TOPIC}.>" if number % 10 == 0 else f"{TOPIC}.{number}.*"
                body = control.encode(control.Subscribe(filter_, messages=1, bytes=1))
                frames.append(frame_header(Opcode.SUBSCRIBE, len(body), number, number) + body)
            report.attempts += 100
            out = b"".join(frames)
        poller.register(sock, select.POLLIN | (select.POLLOUT if out else 0))
        if time.monotonic() > crew.end + crew.order.patience:
            report.error = (
                f"{report.attempts - answered:,} of {report.attempts:,} requests were not answered in time"
            )
            break
        for _, event in poller.poll(100):
            if event & select.POLLOUT:
                out = out[sock.send(out) :]
            if event & ~select.POLLOUT:
                came = sock.recv(1 << 18)
                if not came:
                    raise PortaskError("the broker hung up")
                found, cut = links.whole_frames(cut + came)
                for opcode, correlation, body in found:
                    answered += correlation > 0
                    if opcode == Opcode.ERROR:
                        crew.heard(links.read_error(body))
    report.offenders.append(peer)
    sock.close()
    return report


def _bombs(crew: Crew) -> Report:
    """Two connections: one publishes bombs, one is a member of a group that gives every record up."""
    report = crew.report
    member, _ = _let_in(crew)
    publisher, peer = _let_in(crew)
    publisher.request(Opcode.OPEN, control.Open(BOMBS), 1)
    body = control.Subscribe(
        BOMBS, messages=1 << 40, bytes=1 << 40, group=f"{TOPIC}-{os.getpid()}", max_deliveries=1
    )
    member.request(Opcode.SUBSCRIBE, body, 1)
    kinds = itertools.cycle(_kinds())
    crew.end = time.monotonic() + crew.order.seconds  # making them takes its time
    for sock in (member.sock, publisher.sock):
        sock.setblocking(False)
    poller = select.poll()
    poller.register(member.sock, select.POLLIN)
    poller.register(publisher.sock, select.POLLIN)
    under_way = 0
    given_up = bytearray()
    until = crew.end + crew.order.patience
    while crew.on or (under_way and time.monotonic() < until):
        while crew.on and under_way < 4:
            report.attempts += 1
            batch = next(kinds)
            publisher.sock.setblocking(True)
            publisher.sock.sendall(frame_header(Opcode.PUBLISH, len(batch), report.attempts, 1) + batch)
            publisher.sock.setblocking(False)
            under_way += 1
        for fd, _ in poller.poll(20):
            if fd == publisher.sock.fileno():
                for frame in publisher.connection.receive(publisher.sock.recv(1 << 16)):
                    if frame.opcode == Opcode.ERROR:
                        under_way -= 1
                        crew.heard(links.read_error(frame.body))
                    elif frame.opcode == Opcode.PUBACK:
                        under_way -= len(control.decode_puback(frame.body))
            else:
                for frame in member.connection.receive(member.sock.recv(1 << 20)):
                    if frame.opcode == Opcode.DELIVER:
                        nack = control.encode(control.Nack(_scattered(frame.body), reason="a bomb"))
                        given_up += frame_header(Opcode.NACK, len(nack), 0, frame.channel) + nack
                if member.connection.fault is not None:
                    raise member.connection.fault
        if given_up:
            sent = member.sock.send(given_up)
            del given_up[:sent]
    if under_way:
        report.error = f"{under_way} publishes were never answered"
    report.offenders.append(peer)
    for setup in (member, publisher):
        setup.sock.close()
    return report


def _scattered(body: Buffer) -> list[tuple[int, int]]:
    """All records of a DELIVER to a member; many of them one by one, which costs most."""
    (first, last, _), _ = windows.split(memoryview(body))
    single = min(last - first, 1000)
    return [(offset, offset) for offset in range(first, first + single)] + [(first + single, last)]


def _kinds() -> list[bytes]:
    """Batches that unfold into far more than they say, or say more than may be."""
    import lz4.frame  # noqa: PLC0415 - only here
    import zstandard  # noqa: PLC0415 - likewise

    def zstd(size: int, piece: bytes, told: int = -1) -> bytes:
        stream = zstandard.ZstdCompressor(1).compressobj(told)
        return b"".join([*(stream.compress(piece) for _ in range(size // len(piece))), stream.flush()])

    def bomb(body: bytes, attributes: int, raw: int, count: int) -> bytes:
        return batches.build(body, count, codec=1, base_timestamp=0, attributes=attributes, raw_length=raw)

    zeros = bytes(_MIB)
    most_raw = batches.MAX_RAW_LENGTH
    record = b"\x84\x00\xf6\xf6\x40"  # no key, no headers, nothing in it
    unsized = zstd(1024 * _MIB, zeros)
    return [
        bomb(unsized, ZSTD, most_raw, 1000),
        bomb(unsized, ZSTD, most_raw, most_raw),
        bomb(zstd(1024 * _MIB, zeros, 1024 * _MIB), ZSTD, 1000, 10),
        bomb(lz4.frame.compress(bytes(128 * _MIB)), LZ4, most_raw, 1000),
        bomb(unsized, ZSTD, most_raw + 1, 1000),
        bomb(bytes(100), 0, most_raw, 1),
        bomb(zstd(60 * _MIB, record * _MIB), ZSTD, 60 * _MIB, 12 * _MIB),
        bomb(zstd(150_000, record * 30_000), ZSTD, 150_000, 30_000),
    ]


ASSAULTS: dict[str, Callable[[Crew], Report]] = {
    "slow HELLO": _slow_hello,
    "slow handshake": _slow_handshake,
    "half-open": _half_open,
    "bombs": _bombs,
    "subscriptions": _subscriptions,
    "wrong token": _wrong_token,
    "garbage": _garbage,
    "oversized": _oversized,
}


def main() -> None:
    """Its process."""
    port, token = int(sys.argv[1]), sys.argv[2]
    most()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        crew = Crew(port, token, order, sources=1 if order.assault == "wrong token" else 4)
        try:
            answer(ASSAULTS[order.assault](crew))
        except (OSError, PortaskError) as error:
            answer(Report(error=str(error)))


if __name__ == "__main__":
    main()
