"""Two connections back to back, and one against every kind of stranger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.errors import (
    BatchTooLarge,
    FrameTooLarge,
    LocalProtocolError,
    NotPermitted,
    PortaskError,
    RemoteProtocolError,
)
from portask.wire import control
from portask.wire.connection import TRANSITIONS, Connection, Role, State
from portask.wire.frames import HELLO_LIMIT, REPLY, VERSION, FrameParser, Opcode, frame_header
from tests.wire.feeding import FRAMES, WAYS, Fields, fields, pieces, wire

OFFER = control.Welcome(VERSION, 1 << 20, "test", "memory", ["a", "b"], 30)


def taken(connection: Connection) -> bytes:
    return b"".join(connection.take_output())


def open_pair() -> tuple[Connection, Connection]:
    client, broker = Connection(Role.CLIENT), Connection(Role.BROKER, OFFER)
    client.send_hello("tester")
    assert broker.receive(taken(client)) == []
    (welcome,) = client.receive(taken(broker))
    assert welcome.opcode == Opcode.WELCOME
    return client, broker


def in_state(role: Role, state: State) -> Connection:
    client, broker = open_pair()
    connection = client if role is Role.CLIENT else broker
    if state is State.HANDSHAKE:
        connection = Connection(role, OFFER)
    elif state is State.DRAINING:
        connection.receive(wire((Opcode.DRAIN, 0, 0, 0, b"")))
    elif state is State.CLOSED:
        connection.fail(NotPermitted("enough"))
        taken(connection)
    assert connection.state is state
    return connection


def body_for(opcode: int) -> bytes:
    bodies = {
        Opcode.HELLO: control.encode(control.Hello([VERSION])),
        Opcode.WELCOME: control.encode(OFFER),
        Opcode.ERROR: control.encode(control.Error("broker", "no")),
    }
    return bodies.get(Opcode(opcode), b"")


@pytest.mark.parametrize("way", WAYS)
def test_the_handshake_agrees_on_limits(way: str) -> None:
    client, broker = Connection(Role.CLIENT, max_frame=50_000), Connection(Role.BROKER, OFFER)
    client.send_hello("tester", "token")
    for piece in WAYS[way](taken(client)):
        broker.receive(piece)
    assert broker.client == "tester"
    assert (client.state, broker.state) == (State.HANDSHAKE, State.OPEN)
    for piece in WAYS[way](taken(broker)):
        client.receive(piece)
    assert client.state is State.OPEN
    assert client.welcome == control.Welcome(VERSION, 1 << 20, "test", "memory", [], 30)
    assert (client.max_batch, broker.max_batch) == (1 << 20, 50_000)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("opcode", Opcode)
def test_the_table_decides(role: Role, state: State, opcode: Opcode) -> None:
    connection = in_state(role, state)
    frames = connection.receive(wire((opcode, 0, 7, 1, body_for(opcode))))
    expected = TRANSITIONS[role, state].get(opcode)
    if expected is None:
        assert frames == []
        assert connection.state is State.CLOSED
        assert isinstance(connection.fault, PortaskError)
    else:
        assert connection.state is expected
        answered_here = {Opcode.HELLO, Opcode.PING}
        assert [frame.opcode for frame in frames] == [opcode] * (opcode not in answered_here)


def test_every_state_of_both_roles_is_in_the_table() -> None:
    assert set(TRANSITIONS) == {(role, state) for role in Role for state in State}
    for row in TRANSITIONS.values():
        assert set(row) <= set(Opcode)


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 1000), max_size=5))
def test_frames_pass_in_order_however_they_are_cut(sent: list[Fields], cuts: list[int]) -> None:
    sent = [item for item in sent if item[0] in {Opcode.PUBLISH, Opcode.ACK, Opcode.FETCH}]
    client, broker = open_pair()
    for opcode, flags, correlation, channel, body in sent:
        client.send(opcode, body, correlation, channel, flags)
    received = []
    for piece in pieces(taken(client), cuts):
        received += [fields(frame) for frame in broker.receive(piece)]
    assert received == sent


def test_parts_arrive_as_one_body() -> None:
    client, broker = open_pair()
    broker.send_parts(Opcode.DELIVER, [b"one", b"", b"two"], 6, 0, 9)
    assert broker.has_output
    assert [fields(frame) for frame in client.receive(taken(broker))] == [
        (Opcode.DELIVER, 0, 0, 9, b"onetwo")
    ]
    assert not broker.has_output


def test_ping_is_answered_with_what_it_carried() -> None:
    client, broker = open_pair()
    client.send(Opcode.PING, b"now", 5, 6)
    assert broker.receive(taken(client)) == []
    (pong,) = client.receive(taken(broker))
    assert fields(pong) == (Opcode.PONG, 0, 5, 6, b"now")


@pytest.mark.parametrize("role", Role)
def test_an_unknown_opcode_is_answered_and_the_connection_goes_on(role: Role) -> None:
    connection = in_state(role, State.OPEN)
    assert (
        connection.receive(wire((200, 0, 5, 6, b"?")) + wire((Opcode.PONG, 0, 1, 0, b"")))[0].opcode
        == Opcode.PONG
    )
    peer = in_state(Role.BROKER if role is Role.CLIENT else Role.CLIENT, State.OPEN)
    (answer,) = peer.receive(taken(connection))
    assert (answer.opcode, answer.correlation, answer.channel) == (Opcode.ERROR, 5, 6)
    assert connection.state is State.OPEN


@pytest.mark.parametrize(("flags", "correlation"), [(0, 0), (REPLY, 5)])
def test_an_unknown_opcode_that_wants_no_answer_gets_none(flags: int, correlation: int) -> None:
    connection = in_state(Role.BROKER, State.OPEN)
    assert connection.receive(wire((200, flags, correlation, 0, b""))) == []
    assert taken(connection) == b""
    assert connection.state is State.OPEN


def test_an_error_without_correlation_closes_and_says_why() -> None:
    client, _ = open_pair()
    body = control.encode(control.Error(BatchTooLarge.code, "much too large"))
    client.receive(wire((Opcode.ERROR, 0, 0, 0, body)))
    assert client.state is State.CLOSED
    assert isinstance(client.fault, BatchTooLarge)
    assert str(client.fault) == "much too large"


@pytest.mark.parametrize("after", [200, Opcode.PING, Opcode.DELIVER])
def test_whatever_follows_a_closing_error_is_ignored(after: int) -> None:
    client, _ = open_pair()
    error = wire((Opcode.ERROR, 0, 0, 0, control.encode(control.Error("broker", "bye"))))
    frames = client.receive(error + wire((after, 0, 5, 0, b"")))
    assert [frame.opcode for frame in frames] == [Opcode.ERROR]
    assert taken(client) == b""
    assert str(client.fault) == "bye"


@pytest.mark.parametrize("correlation", [0, 5])
def test_an_error_in_the_handshake_says_why(correlation: int) -> None:
    client = Connection(Role.CLIENT)
    body = control.encode(control.Error(NotPermitted.code, "not you"))
    client.receive(wire((Opcode.ERROR, 0, correlation, 0, body)))
    assert client.state is State.CLOSED
    assert isinstance(client.fault, NotPermitted)


def test_the_handshake_limit_holds_until_the_handshake_is_done() -> None:
    broker = Connection(Role.BROKER, OFFER)
    broker.receive(frame_header(Opcode.HELLO, HELLO_LIMIT + 1))
    assert isinstance(broker.fault, FrameTooLarge)
    client, broker = open_pair()
    client.send(Opcode.PUBLISH, bytes(HELLO_LIMIT + 1), 1, 1)
    assert len(broker.receive(taken(client))) == 1


def test_a_client_may_not_send_above_the_brokers_limit() -> None:
    client, _ = open_pair()
    with pytest.raises(LocalProtocolError, match="limit"):
        client.send(Opcode.PUBLISH, bytes((1 << 20) + 1))
    with pytest.raises(LocalProtocolError, match="limit"):
        client.send_parts(Opcode.PUBLISH, [bytes(1 << 20), b"1"], (1 << 20) + 1)
    assert not client.has_output
    client.send(Opcode.PUBLISH, bytes(1 << 20))


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (control.Hello([1, 3]), "1, 3"),
        (control.Hello([]), "none"),
        (control.Hello([VERSION], 100), "too small"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_with_a_reason(hello: control.Hello, says: str) -> None:
    broker, client = Connection(Role.BROKER, OFFER), Connection(Role.CLIENT)
    broker.receive(wire((Opcode.HELLO, 0, 0, 0, control.encode(hello))))
    assert broker.state is State.CLOSED
    client.receive(taken(broker))
    assert says in str(client.fault)


@pytest.mark.parametrize(
    ("welcome", "says"),
    [
        (control.Welcome(3, 1 << 20, "b", "memory"), "version 3"),
        (control.Welcome(VERSION, HELLO_LIMIT - 1, "b", "memory"), "too small"),
        (control.Welcome(VERSION, -1, "b", "memory"), "too small"),
        (control.Welcome(VERSION, 1 << 20, "b", "memory", [], -1.0), "keepalive"),
        (control.Welcome(VERSION, 1 << 20, "b", "memory", [], float("nan")), "keepalive"),
    ],
)
def test_a_welcome_that_does_not_fit_is_refused_with_a_reason(welcome: control.Welcome, says: str) -> None:
    client, broker = Connection(Role.CLIENT), in_state(Role.BROKER, State.OPEN)
    assert client.receive(wire((Opcode.WELCOME, 0, 0, 0, control.encode(welcome)))) == []
    assert (client.state, client.welcome) == (State.CLOSED, None)
    broker.receive(taken(client))
    assert says in str(client.fault)


def test_only_granted_features_come_back() -> None:
    broker = Connection(Role.BROKER, OFFER)
    hello = control.Hello([VERSION], features=["b", "z"])
    broker.receive(wire((Opcode.HELLO, 0, 0, 0, control.encode(hello))))
    (welcome,) = FrameParser().feed(taken(broker))
    assert control.decode(welcome.body, control.Welcome).features == ["b"]


def test_a_fault_is_told_to_the_peer_after_what_was_queued_and_ends_everything() -> None:
    client, broker = open_pair()
    broker.send(Opcode.PONG, b"queued", 1)
    frames = broker.receive(wire((Opcode.FETCH, 0, 1, 0, b"")) + b"garbage that is no frame at all")
    assert [frame.opcode for frame in frames] == [Opcode.FETCH]
    told = client.receive(taken(broker))
    assert [frame.opcode for frame in told] == [Opcode.PONG, Opcode.ERROR]
    assert isinstance(client.fault, RemoteProtocolError)
    assert broker.receive(wire((Opcode.PING, 0, 1, 0, b""))) == []
    with pytest.raises(LocalProtocolError):
        broker.send(Opcode.PONG)
    with pytest.raises(LocalProtocolError):
        broker.send_parts(Opcode.DELIVER, [b""], 0)
    broker.fail(NotPermitted("again"))
    assert not broker.has_output


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5), st.sampled_from(State))
def test_no_bytes_make_receive_raise(data: bytes, cuts: list[int], state: State) -> None:
    for role in Role:
        connection = in_state(role, state)
        for piece in pieces(data, cuts):
            connection.receive(piece)


FAKES = st.tuples(
    st.integers(0, 255), st.sampled_from([0, REPLY]), st.integers(0, 3), st.just(0), st.binary(max_size=40)
)


@given(st.lists(FAKES, max_size=5), st.sampled_from(State))
def test_no_frames_make_receive_raise(sent: list[Fields], state: State) -> None:
    for role in Role:
        connection = in_state(role, state)
        connection.receive(b"".join(map(wire, sent)))
        if connection.state is State.CLOSED and state is not State.CLOSED:
            assert connection.fault is not None
