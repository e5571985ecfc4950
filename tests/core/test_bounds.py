"""The broker's memory is not a client's to fill: neither by what it sends nor by what it does not read."""

from __future__ import annotations

import pytest

from portask.core.broker import Options
from portask.core.session import ANSWERS_LIMIT
from portask.wire import control
from portask.wire.batches import STAMP_SIZE
from portask.wire.frames import Opcode, frame_header
from tests.core.talking import Client, Desk, batch_of

MIB = 1 << 20


def filled(megabytes: int = 4) -> Desk:
    desk = Desk()
    publisher = desk.client()
    publisher.open("a")
    for _ in range(megabytes * 16):
        publisher.publish(batch_of(bytes(65_536)))
        desk.turn()
    publisher.hang_up()
    return desk


def waiting(client: Client) -> int:
    """Bytes that wait for this client to read."""
    return client.session.connection.queued


def test_fetches_in_one_piece_are_answered_a_few_at_a_time() -> None:
    """A kilobyte of requests must not become a gigabyte of answers in one turn; all are answered in the end."""
    desk = filled()
    client = desk.client()
    client.connection.send(Opcode.PING, b"", 1)
    asked = [client.fetch("a", size=MIB) for _ in range(200)]
    client.connection.send(Opcode.DRAIN)
    desk.turn()
    most = 0
    answered: list[int] = []
    for _ in range(1000):
        answered += [frame.correlation for frame in client.take(Opcode.DELIVER)]
        if client.hung_up:
            break
        most = max(most, waiting(client))
        desk.turn(0)
    assert answered == asked, "each once, in order"
    assert [frame.opcode for frame in client.arrived] == [Opcode.PONG, Opcode.DRAIN]


def test_what_a_turn_answers_is_bounded() -> None:
    desk = filled()
    client = desk.client()
    for _ in range(200):
        client.fetch("a", size=MIB)
    for _ in range(5):
        desk.now += 1
        client.sends()
        desk.broker.turn(desk.now)
        size = waiting(client)
        assert 0 < size <= ANSWERS_LIMIT + 2 * MIB
        assert client.session.paused, "nothing more is read from it until these are answered"
        assert desk.broker.deadline() == 0
        client.reads()


def test_a_congested_client_is_answered_once_it_reads() -> None:
    desk = filled()
    client = desk.client()
    client.session.congested = True
    asked = [client.fetch("a", size=MIB) for _ in range(3)]
    client.credit(1)
    desk.settle()
    assert client.session.paused
    assert not client.take(Opcode.DELIVER)
    due = desk.broker.deadline()
    assert due is None or due > desk.now, "there is nothing to do until it reads"
    desk.broker.uncongested(client.session)
    desk.settle()
    assert [frame.correlation for frame in client.take(Opcode.DELIVER)] == asked
    assert not client.session.paused


@pytest.mark.parametrize("kind", ["pings", "errors", "describes", "subscribes"])
def test_a_client_that_asks_and_does_not_read_is_not_read_from(kind: str) -> None:
    desk = filled(1)
    client = desk.client()
    client.deaf = True
    client.session.congested = True
    sent = 0
    while not client.session.paused and sent < 64 * MIB:
        for number in range(200):
            if kind == "pings":
                client.connection.send(Opcode.PING, bytes(1000), 1 + number)
            elif kind == "errors":
                client.connection.send(Opcode.PUBLISH, bytes(100), 1 + number, 77)
            elif kind == "describes":
                client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 1 + number)
            else:
                client.subscribe("a", 5)
                client.connection.send(Opcode.UNSUBSCRIBE, b"", 1 + number, 5)
        sent += len(client.sends())
        desk.turn()
    assert client.session.paused
    assert waiting(client) <= ANSWERS_LIMIT + MIB
    client.deaf = False
    client.reads()
    desk.broker.uncongested(client.session)
    desk.settle()
    assert not client.session.paused


def test_a_congested_client_that_is_only_quietly_alive_is_read_from() -> None:
    """A subscriber that works on what it got sends PINGs meanwhile: that must keep its connection."""
    desk = filled(1)
    client = desk.client()
    client.session.congested = True
    for _ in range(1000):
        client.connection.send(Opcode.PING, b"", 1)
        client.credit(1)
        desk.settle(1_000_000)
        assert not client.session.paused


def test_a_cut_frame_holds_no_more_than_came_of_it() -> None:
    desk = Desk(Options(max_frame=64 * MIB))
    client = desk.client()
    client.raw = frame_header(Opcode.PUBLISH, 60 * MIB, 5, 1) + bytes(1000)
    desk.settle()
    parser = client.session.connection._parser
    assert parser is not None
    assert parser.buffered == 1024
    assert not client.errors()


def test_a_frame_above_the_limit_is_refused_at_its_header() -> None:
    desk = Desk(Options(max_frame=MIB))
    client = desk.client()
    client.raw = frame_header(Opcode.PUBLISH, MIB + 1, 5, 1)
    desk.settle()
    ((_, error),) = client.errors()
    assert error.code == "frame-too-large"
    assert client.hung_up


def test_a_fetch_reads_no_more_than_its_connection_takes() -> None:
    desk = filled()
    client = desk.client(max_frame=100_000)
    asked: list[int] = []
    read = desk.storage.read
    desk.storage.read = lambda key, offset, limit, done: (asked.append(limit), read(key, offset, limit, done))  # type: ignore[method-assign, assignment, func-returns-value]
    client.fetch("a", size=1 << 50)
    desk.settle()
    assert len(client.take(Opcode.DELIVER)) == 1
    assert asked == [100_000]


def test_a_publish_that_waits_behind_other_requests_is_stored_as_it_came() -> None:
    """Its bytes are valid for one turn only; the desk destroys them, as a receive buffer is reused."""
    desk = filled()
    client = desk.client()
    client.open("b")
    for _ in range(20):
        client.fetch("a", size=MIB)
    batch = batch_of(b"after all that", producer=1)
    sent = client.publish(batch)
    desk.settle()
    client.take(Opcode.DELIVER)
    assert [correlation for correlation, _ in client.acks()] == [sent]
    client.fetch("b")
    desk.settle()
    (found,) = client.take(Opcode.DELIVER)
    assert bytes(found.body)[STAMP_SIZE:] == bytes(batch.data)[STAMP_SIZE:]
