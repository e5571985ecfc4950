"""What every server must do: move every byte, in order, whatever its clients do to it.

The broker behind it is the real one, on a free port and a thread of its own; only the server varies. What bad
clients may cost is in `server_strangers`, what slow ones may in `server_limits`.
"""

from __future__ import annotations

import contextlib
import socket
import time

from portask.registry import Entry
from portask.wire import batches, control
from portask.wire.frames import REPLY, Opcode
from portask_lab.conformance import server_limits, server_strangers
from portask_lab.conformance.server_support import (
    GRACE,
    PATIENCE,
    TOPIC,
    Client,
    Running,
    batch_of,
    eventually,
    settles,
)
from portask_lab.conformance.server_workers import with_workers
from portask_lab.conformance.suite import Check, Violation, check, require

SUITE: list[Check] = []


# ── what it is for ────────────────────────────────────────────────────────────────────────────────────────────────


@check(SUITE)
def handshakes(entry: Entry) -> None:
    """HELLO is answered by WELCOME with version, limits and durability; PING by PONG."""
    with Running(entry) as broker, Client(broker, greet=False) as client:
        client.connection.send_hello("conformance")
        client.flush()
        welcome = control.decode(client.expect(Opcode.WELCOME).body, control.Welcome)
        require(welcome.version == 2, f"the version is {welcome.version}")
        require(
            welcome.durability == "memory",
            f"the durability is {welcome.durability!r}, the storage says memory",
        )
        client.ping()


@check(SUITE)
def delivers_what_was_published(entry: Entry) -> None:
    """Batches reach the subscriber in order, byte for byte behind the stamp, and are acknowledged in order."""
    sent = [batch_of(b"%d" % number, 1 + number % 3, producer=1) for number in range(50)]
    records = sum(batches.parse(batch).count for batch in sent)
    with Running(entry) as broker, Client(broker) as publisher, Client(broker) as subscriber:
        publisher.open()
        require(subscriber.subscribe() == 1, "the topic has one partition")
        for number, batch in enumerate(sent):
            publisher.publish(batch, 10 + number)
        acked: list[int] = []
        while len(acked) < len(sent):
            frame = publisher.expect(Opcode.PUBACK)
            acked += control.decode(frame.body, control.PubAck).offsets
            require(
                frame.correlation == 9 + len(acked), "an ack names another publish than it has offsets for"
            )
        came = subscriber.deliveries(records)
        require(
            [batch[16:] for batch in came] == [batch[16:] for batch in sent],
            "the bytes behind the stamp differ",
        )
        offsets = [batches.peek(batch)[0] for batch in came]
        require(offsets == acked, f"delivered at {offsets}, acknowledged at {acked}")


@check(SUITE)
def keeps_to_credit(entry: Entry) -> None:
    """Nothing is delivered without credit; more credit brings more, and nothing was lost meanwhile."""
    with Running(entry) as broker, Client(broker) as publisher, Client(broker) as subscriber:
        publisher.open()
        subscriber.subscribe(messages=0, size=0)
        for number in range(4):
            publisher.publish(batch_of(b"%d" % number, producer=1), 10 + number)
        subscriber.expect_silence()
        for _ in range(4):
            subscriber.connection.send_control(Opcode.CREDIT, control.Credit(1, 1000), 0, 7)
            subscriber.flush()
            require(len(subscriber.deliveries(1)) == 1, "credit for one message brings one batch")
            subscriber.expect_silence(0.01)


@check(SUITE)
def answers_fetch_and_describe(entry: Entry) -> None:
    """FETCH reads without a subscription, an offset that is not there names those that are; DESCRIBE counts."""
    with Running(entry) as broker, Client(broker) as client:
        client.open()
        client.publish(batch_of(b"x", 3), 5)
        client.expect(Opcode.PUBACK, 5)
        client.connection.send_control(Opcode.FETCH, control.Fetch(TOPIC), 6)
        client.flush()
        found = batches.split(client.expect(Opcode.DELIVER, 6).body)
        require([batch.count for batch in found] == [3], "three records were published in one batch")
        client.connection.send_control(Opcode.FETCH, control.Fetch(TOPIC, start=4), 7)
        client.flush()
        error = client.expect_error(7)
        require((error.code, error.first, error.next) == ("offset-out-of-range", 0, 3), f"it said {error}")
        client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 8)
        client.flush()
        described = control.decode(client.expect(Opcode.DESCRIBE, 8).body, control.Described)
        require(described.topics[0].partitions[0].next == 3, f"it described {described.topics}")


@check(SUITE)
def takes_acks(entry: Entry) -> None:
    """ACK of what was delivered is taken in silence; ACK of what was not is the client's error."""
    with Running(entry) as broker, Client(broker) as client:
        client.open()
        client.subscribe()
        client.publish(batch_of(b"x", 2), 0)
        delivery = client.expect(Opcode.DELIVER).channel
        client.connection.send_control(Opcode.ACK, control.Ack([(0, 1)]), 0, delivery)
        client.ping()
        client.connection.send_control(Opcode.ACK, control.Ack([(0, 2)]), 0, delivery)
        client.flush()
        client.expect_error()
        client.expect_end()


@check(SUITE)
def drains_a_client(entry: Entry) -> None:
    """A client's DRAIN is answered once all it published is acknowledged; then the broker hangs up."""
    with Running(entry) as broker, Client(broker) as client:
        client.open()
        client.connection.send(Opcode.PUBLISH, batch_of(b"last"), 5, 1)
        client.connection.send(Opcode.DRAIN)
        client.flush()
        client.expect(Opcode.PUBACK, 5)
        require(client.expect(Opcode.DRAIN).flags & REPLY, "the answer to DRAIN is marked as one")
        client.expect_end()


# ── however the bytes come ────────────────────────────────────────────────────────────────────────────────────────


@check(SUITE)
def takes_bytes_one_at_a_time(entry: Entry) -> None:
    """A conversation fed byte by byte means the same."""
    with Running(entry) as broker, Client(broker, greet=False) as client:
        client.connection.send_hello("slow")
        _trickle(client)
        client.expect(Opcode.WELCOME)
        client.connection.send_control(Opcode.OPEN, control.Open(TOPIC), 1, 1)
        client.connection.send(Opcode.PUBLISH, batch_of(b"drop by drop"), 5, 1)
        _trickle(client)
        client.expect(Opcode.OPEN, 1)
        client.expect(Opcode.PUBACK, 5)


def _trickle(client: Client) -> None:
    for byte in client.output():
        client.send(bytes((byte,)))


@check(SUITE)
def moves_large_batches(entry: Entry) -> None:
    """Batches far above any buffer's size arrive whole, between small ones."""
    large = batch_of(bytes(range(256)) * 12_000)  # 3 MB
    sent = [batch_of(b"before"), large, batch_of(b"between", producer=1), large, batch_of(b"after")]
    with Running(entry) as broker, Client(broker) as publisher, Client(broker) as subscriber:
        publisher.open()
        subscriber.subscribe()
        for number, batch in enumerate(sent):
            publisher.publish(batch, 10 + number)
        came = subscriber.deliveries(len(sent))
        require(
            [batch[64:] for batch in came] == [batch[64:] for batch in sent],
            "what arrived is not what was sent",
        )


@check(SUITE)
def holds_many_connections(entry: Entry) -> None:
    """Two hundred connections at once, each alive, also after half of them left."""
    with Running(entry) as broker, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(broker)) for _ in range(200)]
        for client in clients:
            client.ping()
        for client in clients[::2]:
            client.close()
        for client in clients[1::2]:
            client.ping()
        eventually(
            lambda: len(broker.broker.sessions) == 100, "the broker still counts connections that are gone"
        )


# ── its own life ──────────────────────────────────────────────────────────────────────────────────────────────────


@check(SUITE)
def takes_a_turn_when_woken(entry: Entry) -> None:
    """`Engine.wake`, called on any thread, brings a turn soon."""
    with Running(entry) as broker:
        settles(lambda: broker.broker.turns)
        before = broker.broker.turns
        broker.broker.wake()
        eventually(lambda: broker.broker.turns > before, "no turn came", 0.5)


@check(SUITE)
def drains_when_stopped(entry: Entry) -> None:
    """`stop`, on another thread, says DRAIN to every client, finishes what is under way, ends and frees the port."""
    with Running(entry) as broker, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(broker)) for _ in range(3)]
        clients[0].open()
        clients[0].subscribe()
        clients[0].publish(batch_of(b"just before"), 0)
        clients[0].deliveries(1)
        began = time.monotonic()
        broker.server.stop()
        for client in clients:
            client.expect(Opcode.DRAIN)
            client.connection.send(Opcode.DRAIN)
            client.flush()
            client.expect_end()
        broker.thread.join(GRACE + PATIENCE)
        require(not broker.thread.is_alive(), "run() did not return")
        require(time.monotonic() - began < GRACE + PATIENCE, "it took longer than its grace")
        with socket.create_server(("127.0.0.1", broker.port)):
            pass


@check(SUITE)
def stops_in_spite_of_clients(entry: Entry) -> None:
    """Clients that stay are hung up on when the grace is over; `stop` may be called twice, and after the end."""
    with Running(entry) as broker, Client(broker) as client:
        broker.server.stop()
        broker.server.stop()
        client.expect(Opcode.DRAIN)
        client.expect_end()
        broker.thread.join(GRACE + PATIENCE)
        require(not broker.thread.is_alive(), "run() did not return")
        broker.server.stop()


@check(SUITE)
def says_that_the_port_is_taken(entry: Entry) -> None:
    """A port in use is an OSError out of `run`."""
    with Running(entry) as broker, Client(broker) as bystander:
        try:
            with Running(entry, port=broker.port):
                raise Violation("two servers listen on one port")
        except OSError:
            pass
        bystander.ping()


SUITE += server_strangers.SUITE
SUITE += server_limits.SUITE
MORE = with_workers(SUITE)
