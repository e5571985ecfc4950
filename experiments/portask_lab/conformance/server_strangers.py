"""What a server owes to clients that break the rules: their error, and to everybody else that it costs them nothing.

Each check watches a bystander.
"""

from __future__ import annotations

from portask.core.broker import Options
from portask.registry import Entry
from portask.wire import batches, control
from portask.wire.frames import HELLO_LIMIT, Opcode, frame_header
from portask_lab.conformance.server_support import (
    TOPIC,
    Client,
    Running,
    batch_of,
    eventually,
    settles,
)
from portask_lab.conformance.suite import Check, check, require

SUITE: list[Check] = []


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :]


_PING = frame_header(Opcode.PING, 0, 3)
_FAULTS = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "remote-protocol"),
    "zeros": (bytes(100), "remote-protocol"),
    "a flipped bit in the length": (_flip(_PING, 9), "remote-protocol"),
    "a flipped bit in the checksum": (_flip(_PING, 22), "remote-protocol"),
    "an oversized frame": (frame_header(Opcode.PUBLISH, 1 << 30, 3, 1), "frame-too-large"),
    "a frame that only a broker may send": (frame_header(Opcode.PUBACK, 0, 3), "remote-protocol"),
}


@check(SUITE)
def answers_broken_frames(entry: Entry) -> None:
    """Garbage, flipped bits, oversized and misplaced frames get their error and the end; nobody else notices."""
    with Running(entry) as broker, Client(broker) as bystander:
        for name, (data, code) in _FAULTS.items():
            with Client(broker) as client:
                client.send(data)
                error = client.expect_error()
                require(error.code == code, f"{name}: {code} was due, {error.code} came ({error.message})")
                client.expect_end()
            bystander.ping()


@check(SUITE)
def guards_the_handshake(entry: Entry) -> None:
    """Before HELLO nothing else is taken, and no more than 8 KiB of it."""
    hello = control.encode(control.Hello([99]))
    with Running(entry) as broker, Client(broker) as bystander:
        for name, data in {
            "a request before HELLO": _PING,
            "a large HELLO": frame_header(Opcode.HELLO, HELLO_LIMIT + 1),
            "an unknown version": frame_header(Opcode.HELLO, len(hello)) + hello,
            "a HELLO that is no map": frame_header(Opcode.HELLO, 1) + b"\x00",
        }.items():
            with Client(broker, greet=False) as client:
                client.send(data)
                require(client.expect_error().message, f"{name}: the error says nothing")
                client.expect_end()
        bystander.ping()


@check(SUITE)
def refuses_damaged_batches(entry: Entry) -> None:
    """A damaged batch, and one whose raw length lies, get their error; the connection and its good publishes go on."""
    good = batch_of(b"good", 2)
    lying = batches.build(good[64:], 2, codec=1, base_timestamp=0, raw_length=1 << 20)
    bomb = batches.build(good[64:], 2, codec=1, base_timestamp=0, attributes=1, raw_length=1 << 31)
    with Running(entry) as broker, Client(broker) as client, Client(broker) as subscriber:
        client.open()
        subscriber.subscribe()
        bad = {
            "a flipped bit": (_flip(good, 70), "batch-corrupt"),
            "a cut batch": (good[:-1], "batch-corrupt"),
            "less than a header": (good[:40], "batch-corrupt"),
            "a raw length that lies": (lying, "batch-corrupt"),
            "a raw length above the limit": (bomb, "batch-too-large"),
        }
        for number, (name, (batch, code)) in enumerate(bad.items()):
            client.publish(batch, 10 + number)
            error = client.expect_error(10 + number)
            require(error.code == code, f"{name}: {code} was due, {error.code} came ({error.message})")
        client.publish(good, 50)
        client.expect(Opcode.PUBACK, 50)
        require(subscriber.deliveries(2)[0][16:] == good[16:], "what was delivered is not the good batch")


@check(SUITE)
def answers_unknown_opcodes(entry: Entry) -> None:
    """A request that nobody knows is answered with ERROR, and the connection goes on."""
    with Running(entry) as broker, Client(broker) as client:
        client.send(frame_header(200, 3, 41) + b"abc")
        client.expect_error(41)
        client.send(frame_header(201, 0))  # one-way: nothing to answer
        client.ping()


@check(SUITE)
def survives_clients_that_vanish(entry: Entry) -> None:
    """Half a frame and gone, a reset in the middle of deliveries: nobody else notices, nothing is kept of them."""
    with Running(entry) as broker, Client(broker) as bystander:
        bystander.open()
        for _ in range(3):
            half = Client(broker)
            half.send(frame_header(Opcode.PUBLISH, 1000, 3, 1) + b"half")
            half.reset()
            gone = Client(broker)
            gone.subscribe()
            for number in range(20):
                bystander.publish(batch_of(bytes(20_000), producer=1), 10 + number)
            gone.reset()
        bystander.connection.take_output()
        eventually(
            lambda: len(broker.broker.sessions) == 1, "the broker still counts connections that are gone"
        )
        with Client(broker) as fresh:
            fresh.ping()


@check(SUITE)
def hangs_up_on_the_silent(entry: Entry) -> None:
    """A client that never completes HELLO is told so and hung up on; others wait as long as they like."""
    options = Options(hello_timeout=100_000)
    with (
        Running(entry, options) as broker,
        Client(broker) as bystander,
        Client(broker, greet=False) as silent,
    ):
        silent.send(_PING[:10])
        error = silent.expect_error()
        require("HELLO" in error.message, f"the error does not say what was missing: {error.message}")
        silent.expect_end()
        bystander.ping()


@check(SUITE)
def bounds_slow_readers(entry: Entry) -> None:
    """A subscriber that does not read is not written to without bound, whatever its credit, and loses nothing."""
    size, count, most = 64 * 1024, 384, 12 << 20
    with Running(entry) as broker, Client(broker) as publisher, Client(broker, receive_buffer=65_536) as slow:
        publisher.open()
        slow.subscribe()
        for number in range(count):
            batch = batch_of(number.to_bytes(4, "little") + bytes(size), producer=1)
            publisher.publish(batch, 10 + number)
        (cursor,) = broker.broker.topics[TOPIC].partitions[0].cursors
        settles(lambda: cursor.offset)
        handed = cursor.offset * size
        require(
            handed < most,
            f"{handed:,} of {size * count:,} bytes were handed to a client that reads none of them",
        )
        came = slow.deliveries(count)
        numbers = [int.from_bytes(batch[64 + 9 : 64 + 13], "little") for batch in came]
        require(numbers == list(range(count)), "once it read, it did not get everything in order")
