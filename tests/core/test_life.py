"""Connections begin, fall silent, misbehave and end; the broker outlives them all."""

from __future__ import annotations

import gc

import msgspec
import pytest
from structlog.testing import capture_logs

from portask.core import requests
from portask.core.broker import HANG_UPS, SWEEP, Broker, Options
from portask.core.session import Session
from portask.wire import control
from portask.wire.connection import TRANSITIONS, Role, State
from portask.wire.frames import REPLY, Frame, Opcode, frame_header
from tests.core.talking import SECOND, Desk, batch_of


def test_a_client_that_never_says_hello_is_told_and_hung_up_on() -> None:
    desk = Desk(Options(hello_timeout=3 * SECOND, keepalive=0))
    early = desk.client()
    silent = desk.client(greet=False)
    half = desk.client(greet=False)
    half.raw = frame_header(Opcode.HELLO, 50)[:20]
    desk.settle()
    desk.settle(3 * SECOND - SWEEP)
    assert not silent.hung_up
    late = desk.client(greet=False)
    desk.settle(2 * SWEEP)
    for client in (silent, half):
        assert client.hung_up
        ((number, error),) = client.errors()
        assert number == 0
        assert "no HELLO within 3 s" in error.message
    assert not early.hung_up
    assert not late.hung_up
    late.connection.send_hello("late")
    desk.settle(3 * SECOND)
    assert late.take(Opcode.WELCOME)
    desk.settle(100 * SECOND)
    assert not late.hung_up


def test_many_who_never_say_hello_are_hung_up_on_over_several_turns() -> None:
    desk = Desk(Options(hello_timeout=3 * SECOND, keepalive=0))
    silent = [desk.client(greet=False) for _ in range(3 * HANG_UPS + 1)]
    desk.turn(5 * SECOND)
    assert sum(client.hung_up for client in silent) == HANG_UPS
    assert desk.broker.deadline() == 0
    desk.settle(0)
    assert all(client.hung_up for client in silent)
    late = desk.client(greet=False)
    desk.settle(2 * SECOND)
    assert not late.hung_up


def test_silence_ends_a_connection_and_any_word_keeps_it() -> None:
    desk = Desk(Options(keepalive=30 * SECOND))
    silent, pinging, reading = desk.client(), desk.client(), desk.client()
    assert pinging.connection.welcome is not None
    assert pinging.connection.welcome.keepalive == 30
    reading.subscribe("a")
    for _ in range(5):
        pinging.connection.send(Opcode.PING, b"", 3)
        desk.settle(10 * SECOND)
        assert pinging.take(Opcode.PONG)
    assert not pinging.hung_up
    for client in (silent, reading):
        assert client.hung_up
        assert "PING" in client.errors()[0][1].message


def test_no_keepalive_means_no_end() -> None:
    desk = Desk(Options(keepalive=0))
    client = desk.client()
    desk.settle(10_000_000 * SECOND)
    assert not client.hung_up


def test_connections_above_the_limit_are_refused_with_the_reason() -> None:
    desk = Desk(Options(max_connections=2))
    one, two = desk.client(), desk.client()
    three = desk.client(greet=False)
    assert desk.broker.deadline() == 0, "the refusal must leave although nothing arrives"
    desk.settle()
    assert three.hung_up
    ((_, error),) = three.errors()
    assert error.code == "not-permitted"
    assert "2 connections" in error.message
    two.hang_up()
    desk.client()
    assert not one.hung_up


@pytest.mark.parametrize("kind", ["channels", "subscriptions"])
def test_channels_and_subscriptions_are_bounded(kind: str) -> None:
    desk = Desk(Options(max_channels=3))
    client = desk.client()
    for channel in range(1, 4):
        if kind == "channels":
            client.open("a", channel)
        else:
            client.subscribe("a", channel)
    desk.settle()
    if kind == "channels":
        client.connection.send_control(Opcode.OPEN, control.Open("a"), 5, 4)
    else:
        client.subscribe("a", 4)
    desk.settle()
    ((_, error),) = client.errors()
    assert error.code == "not-permitted"
    client.connection.send(Opcode.UNSUBSCRIBE, b"", 6, 1)
    desk.settle()
    assert not client.errors()


def test_the_partitions_of_a_connections_subscriptions_are_bounded() -> None:
    desk = Desk(Options(max_assignments=5))
    client, other = desk.client(), desk.client()
    for number in range(1, 4):
        other.open(f"a.{number}", number)
    desk.settle()
    client.subscribe("a.*", 1)
    client.subscribe("a.*", 2)
    client.subscribe("a.1", 3)
    client.subscribe("a.2", 4)
    desk.settle()
    assert [code for _, code in client.codes()] == ["not-permitted"]
    client.subscribe("a.3", 5)
    desk.settle()
    ((_, error),) = client.errors()
    assert "more than 5 partitions (limits.max_assignments)" in error.message
    assert not client.hung_up
    client.connection.send(Opcode.UNSUBSCRIBE, b"", 6, 3)
    client.subscribe("a.3", 7)
    desk.settle()
    assert not client.errors()


def test_who_is_given_more_partitions_than_it_may_have_is_hung_up_on_with_a_reason() -> None:
    """Nobody asked: to leave a partition out would lose its messages without a word."""
    desk = Desk(Options(max_assignments=2))
    client, other = desk.client(), desk.client()
    client.subscribe("a.*", 1)
    for number in range(1, 3):
        other.open(f"a.{number}", number)
    desk.settle()
    assert not client.errors()
    other.open("a.3", 3)
    desk.settle()
    assert client.hung_up
    ((number, error),) = client.errors()
    assert number == 0
    assert error.code == "not-permitted"
    assert "limits.max_assignments" in error.message
    assert not other.errors()


def test_the_partitions_of_all_topics_are_bounded() -> None:
    desk = Desk(Options(max_partitions=5, max_topic_partitions=4))
    client = desk.client()
    for correlation, (topic, partitions) in enumerate([("a", 4), ("b", 2), ("c", 1), ("d", 1), ("a", 4)], 1):
        body = control.Open(topic, 0, partitions)
        client.connection.send_control(Opcode.OPEN, body, correlation, correlation)
    desk.settle()
    errors = client.errors()
    assert [(number, error.code) for number, error in errors] == [(2, "not-permitted"), (4, "not-permitted")]
    assert "2 more would be above 5 (limits.max_partitions)" in errors[0][1].message
    assert desk.broker.partitions == 5


# ── draining ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_that_drains_gets_its_acks_then_the_answer_then_the_end() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a")
    client.publish(batch_of(b"last"))
    client.connection.send(Opcode.DRAIN)
    desk.settle()
    assert [frame.opcode for frame in client.arrived] == [Opcode.PUBACK, Opcode.DRAIN]
    assert client.arrived[-1].flags & REPLY
    assert client.hung_up


def test_a_draining_client_may_ask_nothing_new() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a")
    client.connection.send(Opcode.DRAIN)
    client.publish(batch_of(b"too late"))
    desk.settle()
    assert client.codes() == [(0, "remote-protocol")]
    assert desk.broker.topics["a"].partitions[0].next == 0


def test_a_draining_broker_finishes_what_it_has_and_takes_nothing_new() -> None:
    desk = Desk()
    client, reader, greeting = desk.client(), desk.client(), desk.client(greet=False)
    client.open("a")
    reader.subscribe("a", messages=1)
    client.publish(batch_of(b"0", producer=1))
    client.publish(batch_of(b"1", producer=1))
    desk.settle()
    desk.broker.drain(desk.now)
    assert desk.broker.deadline() == 0, "DRAIN must leave although nothing arrives"
    desk.turn()
    for one in (client, reader):
        (told,) = one.take(Opcode.DRAIN)
        assert not told.flags & REPLY
        assert not one.hung_up
    late = client.publish(batch_of(b"late"))
    client.connection.send_control(Opcode.OPEN, control.Open("new"), 8, 2)
    reader.credit(1)
    desk.settle()
    assert client.codes() == [(late, "draining"), (8, "draining")]
    assert reader.payloads() == [b"0", b"1"], "consuming goes on"
    greeting.connection.send_hello("in between")
    desk.settle()
    assert [frame.opcode for frame in greeting.arrived] == [Opcode.WELCOME, Opcode.DRAIN]
    for one in (client, reader, greeting):
        one.connection.send(Opcode.DRAIN)
    desk.settle()
    assert not desk.broker.sessions


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bug_in_a_handler_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = requests.HANDLERS[Opcode.DESCRIBE]

    def buggy(broker: Broker, session: Session, frame: Frame) -> None:
        if frame.correlation == 13:
            raise KeyError("a bug")
        describe(broker, session, frame)

    monkeypatch.setitem(requests.HANDLERS, int(Opcode.DESCRIBE), buggy)
    desk = Desk()
    unlucky, other = desk.client(), desk.client()
    unlucky.open("a")
    other.open("b")
    kept = unlucky.publish(batch_of(b"before"))
    unlucky.connection.send_control(Opcode.DESCRIBE, control.Describe(), 13)
    unlucky.publish(batch_of(b"after"))
    other.connection.send_control(Opcode.DESCRIBE, control.Describe(), 14)
    other.publish(batch_of(b"fine"))
    desk.settle()
    ((number, error),) = unlucky.errors()
    assert (number, error.code) == (0, "broker")
    assert "a bug" not in error.message, "the inside of the broker is nobody else's business"
    assert unlucky.acks() == [(kept, [0])], "what was done before is acknowledged"
    assert unlucky.hung_up
    assert not other.hung_up
    assert other.acked() == [0]
    assert len(other.take(Opcode.DESCRIBE)) == 1


@pytest.mark.parametrize("correlation", [0, 7])
def test_garbage_behind_good_requests_leaves_them_done(correlation: int) -> None:
    """All in one piece: the requests before the garbage count, those that fail cannot be answered any more."""
    desk = Desk()
    client, reader = desk.client(), desk.client()
    client.open("a")
    reader.subscribe("a")
    desk.settle()
    good = batch_of(b"good")
    client.connection.send(Opcode.PUBLISH, good.data, 5, 1)
    client.connection.send(Opcode.PUBLISH, bytes(good.data)[:-1], correlation, 1)
    client.connection.send_control(Opcode.OPEN, control.Open("b"), 8, 2)
    client.subscribe("a", 3)
    client.fetch("a")
    client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 9)
    client.raw = b"garbage" * 10
    desk.settle()
    assert client.hung_up
    assert reader.payloads() == [b"good"]
    assert client.codes()[-1] == (0, "remote-protocol")
    assert list(desk.broker.sessions) == [reader.session]


def test_a_connection_that_breaks_costs_nothing_to_who_creates_a_topic_it_waits_for() -> None:
    desk = Desk()
    broken, client = desk.client(), desk.client()
    broken.subscribe(">")
    desk.settle()
    broken.raw = b"garbage" * 10
    client.open("a")
    client.publish(batch_of(b"x"))
    desk.settle()
    assert client.acked() == [0]


def test_nothing_is_taken_after_the_end() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a")
    client.raw = b"garbage" * 10
    client.deaf = True
    desk.settle()
    assert client.session.connection.state is State.CLOSED
    held = client.session
    held.receive(frame_header(Opcode.PUBLISH, 64, 3, 1) + bytes(64))
    desk.settle()
    assert not held.inbox
    assert desk.broker.topics["a"].partitions[0].next == 0


@pytest.mark.parametrize(
    ("opcode", "body", "channel", "code"),
    [
        (Opcode.OPEN, control.Open("a b"), 1, "invalid-topic"),
        (Opcode.OPEN, control.Open("t", partition=9), 1, "unknown-partition"),
        (Opcode.OPEN, control.Open("t", partitions=10**6), 1, "not-permitted"),
        (Opcode.OPEN, control.Open("t"), 0, "remote-protocol"),
        (Opcode.OPEN, b"\x00", 1, "remote-protocol"),
        (Opcode.PUBLISH, bytes(batch_of(b"x").data), 3, "remote-protocol"),
        (Opcode.SUBSCRIBE, control.Subscribe("a..b"), 7, "invalid-topic"),
        (Opcode.SUBSCRIBE, control.Subscribe("t", start=-3), 7, "remote-protocol"),
        (Opcode.SUBSCRIBE, control.Subscribe("t", messages=-1), 7, "remote-protocol"),
        (Opcode.FETCH, control.Fetch("nowhere"), 0, "unknown-topic"),
        (Opcode.DESCRIBE, control.Describe("a..b"), 0, "invalid-topic"),
    ],
)
@pytest.mark.parametrize("one_way", [False, True])
def test_a_bad_request_is_answered_and_a_bad_one_way_frame_ends_the_connection(
    opcode: Opcode, body: msgspec.Struct | bytes, channel: int, code: str, one_way: bool
) -> None:
    desk = Desk()
    client, bystander = desk.client(), desk.client()
    data = body if isinstance(body, bytes) else control.encode(body)
    client.connection.send(opcode, data, 0 if one_way else 5, channel)
    desk.settle()
    ((number, error),) = client.errors()
    assert number == (0 if one_way else 5)
    assert client.hung_up is one_way
    if not one_way:
        assert error.code == code
        client.open("t")
    bystander.open("t")


def test_turns_are_asked_for_as_long_as_there_is_somebody() -> None:
    desk = Desk()
    assert desk.broker.deadline() is None
    client = desk.client()
    due = desk.broker.deadline()
    assert due is not None
    assert desk.now < due <= desk.now + SWEEP
    client.hang_up()
    desk.settle(2 * SWEEP)
    assert desk.broker.deadline() is None


def test_every_request_that_the_wire_lets_through_is_handled() -> None:
    answered_by_the_wire = {Opcode.HELLO, Opcode.PING}
    let_through = {opcode for (role, _), row in TRANSITIONS.items() if role is Role.BROKER for opcode in row}
    assert let_through - answered_by_the_wire == set(requests.HANDLERS)


def test_unknown_opcodes_are_answered_and_the_connection_goes_on() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a")
    client.raw = frame_header(200, 3, 9, 4) + b"new" + frame_header(201, 0)
    desk.settle()
    client.publish(batch_of(b"x"))
    desk.settle()
    assert client.codes() == [(9, "remote-protocol")]
    assert client.acked() == [0]


@pytest.mark.parametrize(
    "data",
    [
        b"garbage" * 10,
        frame_header(Opcode.HELLO, 1 << 30),
        frame_header(Opcode.HELLO, 3) + b"abc",
        frame_header(Opcode.PING, 0),
    ],
)
def test_a_connection_that_failed_is_freed_at_once_with_what_it_sent(data: bytes) -> None:
    """In time, and not when the garbage collector comes by: a flood of them would fill the memory until then."""
    desk = Desk()
    gc.collect()
    gc.disable()
    try:
        client = desk.client(greet=False)
        client.raw = data
        desk.turn()
        assert client.hung_up
        desk.clients.clear()
        del client
        assert [each for each in gc.get_objects() if type(each) is Session] == []
    finally:
        gc.enable()


def test_what_a_client_should_not_ask_for_is_in_the_log_once_a_connection() -> None:
    desk = Desk(Options(max_channels=2))
    with capture_logs() as logs:
        for peer in ("a:1", "b:2"):
            client = desk.client(peer=peer)
            for number in range(1, 6):
                client.subscribe(f"a.{number}", number)
            client.fetch("nothing-of-that-name")  # an error, and no offence
            desk.settle()
            assert [code for _, code in client.codes()] == ["not-permitted"] * 3 + ["unknown-topic"]
    assert [(line["event"], line["peer"], line["code"]) for line in logs] == [
        ("a request was refused", "a:1", "not-permitted"),
        ("a request was refused", "b:2", "not-permitted"),
    ]
    assert all("2 subscriptions" in line["reason"] for line in logs)
