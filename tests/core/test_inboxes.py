"""Inboxes come with their subscriber and go with it; what is sent to one is handed over or refused, never stored."""

from __future__ import annotations

import pytest

from portask.core.broker import Options
from portask.errors import RemoteProtocolError
from portask.wire import batches, control, inboxes
from portask.wire.frames import Opcode
from tests.core.talking import LOTS, Client, Desk, batch_of

INBOX = "_inbox.me"


def send(client: Client, *payloads: bytes, inbox: str = INBOX) -> int:
    number = client.correlation()
    client.connection.send(Opcode.SEND, inboxes.pack(inbox, batch_of(*payloads).data), number)
    return number


def both(options: Options | None = None) -> tuple[Desk, Client, Client]:
    """A desk, who asks, and who answers."""
    desk = Desk(options)
    asking, answering = desk.client(), desk.client()
    asking.subscribe(INBOX)
    desk.settle()
    (assigned,) = asking.assigned()
    assert (assigned.topic, assigned.partition, assigned.offset) == (INBOX, 0, 0)
    return desk, asking, answering


def sent(client: Client) -> list[int]:
    return [frame.correlation for frame in client.take(Opcode.SEND)]


def test_a_reply_arrives_in_the_same_turn_and_is_stored_nowhere() -> None:
    desk, asking, answering = both()
    numbers = [send(answering, b"1", b"2"), send(answering, b"3")]
    desk.turn()
    assert [(at, found.payload) for at, found in asking.delivered()] == [(0, b"1"), (1, b"2"), (2, b"3")]
    assert sent(answering) == numbers
    assert list(desk.storage.partitions()) == []  # type: ignore[attr-defined]


def test_nobody_there_is_said() -> None:
    desk, asking, answering = both()
    asking.connection.send(Opcode.UNSUBSCRIBE, b"", asking.correlation(), 1)
    desk.settle()
    gone = send(answering, b"x")
    never = send(answering, b"x", inbox="_inbox.you")
    topic = send(answering, b"x", inbox="orders")
    desk.settle()
    assert answering.codes() == [(number, "unknown-topic") for number in (gone, never, topic)]
    assert len(desk.broker.inboxes) == 0


def test_a_lost_connection_takes_the_inbox_along_and_the_next_one_goes_on() -> None:
    desk, asking, answering = both()
    send(answering, b"0")
    desk.settle()
    assert asking.payloads() == [b"0"]
    asking.hang_up()
    assert len(desk.broker.inboxes) == 0
    again = desk.client()
    again.subscribe(INBOX, resume={INBOX: [1]})
    desk.settle()
    send(answering, b"1")
    desk.settle()
    assert [(at, found.payload) for at, found in again.delivered()] == [(1, b"1")]


@pytest.mark.parametrize("offset", [-1, 1 << 63, (1 << 64) - 1])
def test_an_offset_that_cannot_be_begins_at_0(offset: int) -> None:
    desk, asking, answering = both()
    asking.subscribe("_inbox.other", 2, resume={"_inbox.other": [offset]})
    desk.settle()
    send(answering, b"x", inbox="_inbox.other")
    desk.settle()
    assert [at for at, _ in asking.delivered()] == [0]


def test_without_credit_it_is_refused_and_nothing_is_kept() -> None:
    desk, asking, answering = both()
    asking.subscribe("_inbox.few", 2, messages=1)
    desk.settle()
    numbers = [send(answering, b"%d" % number, inbox="_inbox.few") for number in range(2)]
    desk.settle()
    assert sent(answering) == numbers[:1]
    assert answering.codes() == [(numbers[1], "not-permitted")]
    asking.credit(1, LOTS, 2)
    send(answering, b"2", inbox="_inbox.few")
    desk.settle()
    assert [(at, found.payload) for at, found in asking.delivered()] == [(0, b"0"), (2, b"2")]


def test_a_congested_connection_gets_none() -> None:
    desk, asking, answering = both()
    asking.session.congested = True
    number = send(answering, b"x")
    desk.settle()
    assert answering.codes() == [(number, "not-permitted")]
    desk.broker.uncongested(asking.session)
    send(answering, b"y")
    desk.settle()
    assert asking.payloads() == [b"y"]


def test_a_batch_too_large_for_who_asked_is_refused() -> None:
    desk = Desk()
    asking, answering = desk.client(max_frame=10_000), desk.client()
    asking.subscribe(INBOX)
    desk.settle()
    number = send(answering, bytes(20_000))
    desk.settle()
    assert answering.codes() == [(number, "not-permitted")]
    assert not asking.hung_up


def test_every_subscriber_of_an_inbox_gets_it() -> None:
    desk, asking, answering = both()
    other = desk.client()
    other.subscribe(INBOX)
    desk.settle()
    send(answering, b"x")
    desk.settle()
    assert asking.payloads() == other.payloads() == [b"x"]
    other.hang_up()
    send(answering, b"y")
    desk.settle()
    assert asking.payloads() == [b"y"]


def test_inboxes_are_no_topics() -> None:
    desk, asking, answering = both()
    watching = desk.client()
    watching.subscribe(">")
    watching.fetch(INBOX)
    watching.connection.send_control(Opcode.DESCRIBE, control.Describe(), 5)
    refused = []
    for number, body in enumerate((control.Subscribe("_inbox.*"), control.Subscribe(INBOX, group="g")), 11):
        watching.connection.send_control(Opcode.SUBSCRIBE, body, number, number)
        refused.append((number, "not-permitted"))
    watching.connection.send_control(Opcode.OPEN, control.Open(INBOX), 20, 20)
    send(answering, b"x")
    desk.settle()
    assert not watching.payloads()
    (described,) = watching.take(Opcode.DESCRIBE)
    assert control.decode(described.body, control.Described).topics == []
    codes = watching.codes()
    assert codes[0][1] == "unknown-topic"
    assert codes[1:] == [*refused, (20, "not-permitted")]
    assert asking.payloads() == [b"x"]


def test_what_is_no_send_is_refused() -> None:
    desk, asking, answering = both(Options(max_raw=1000))
    damaged = bytearray(batch_of(b"x").data)
    damaged[-1] ^= 1
    bodies = {
        b"": "remote-protocol",
        b"\0": "remote-protocol",
        b"\x05ab": "remote-protocol",
        b"\x01\xff": "remote-protocol",
        inboxes.pack(INBOX, b""): "batch-corrupt",
        inboxes.pack(INBOX, damaged): "batch-corrupt",
        inboxes.pack(INBOX, batch_of(bytes(2000)).data): "batch-too-large",
    }
    for number, body in enumerate(bodies, 1):
        answering.connection.send(Opcode.SEND, body, number)
    desk.settle()
    assert [code for _, code in answering.codes()] == list(bodies.values())
    one_way = inboxes.pack(INBOX, batch_of(b"x").data)
    answering.connection.send(Opcode.SEND, one_way)
    desk.settle()
    assert answering.hung_up
    assert not asking.payloads()


def test_a_broker_that_drains_takes_no_replies() -> None:
    desk, _, answering = both()
    desk.broker.drain(desk.now)
    number = send(answering, b"x")
    desk.settle()
    assert answering.codes() == [(number, "draining")]


@pytest.mark.parametrize("name", ["_inbox.a", "_inbox." + "x" * 248])
def test_the_body_of_a_send(name: str) -> None:
    data = batch_of(b"x").data
    assert inboxes.unpack(memoryview(inboxes.pack(name, data))) == (name, data)
    for end in range(1 + len(name)):
        with pytest.raises(RemoteProtocolError):
            inboxes.unpack(memoryview(inboxes.pack(name, data))[:end])
    assert batches.parse(inboxes.unpack(memoryview(inboxes.pack(name, data)))[1]).count == 1
