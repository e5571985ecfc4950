"""Whatever clients send, in whatever order: a turn never raises, and who behaves is served."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portask.contracts import Storage
from portask.core import broker, requests
from portask.core.broker import Options
from portask.core.retention import Retention
from portask.reference.storage import MemoryStorage
from portask.wire import batches, control, inboxes
from portask.wire.frames import HELLO_LIMIT, REPLY, Opcode, frame_header
from tests.core.later import LaterStorage
from tests.core.talking import SECOND, Desk, batch_of

# Numbers that mean something, numbers at edges, and few channels and topics, so that requests meet.
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 7, -1, -2, -3, 1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 40]) | (
    st.integers(-(2**63), 2**64 - 1)
)
CHANNELS = st.sampled_from([0, 1, 1, 2, 1 << 31, (1 << 31) + 1, (1 << 32) - 1])
TOPICS = st.sampled_from(["a", "a", "b", "a.b", "a.*", ">", "*", "_inbox.a", "", "a..b", "x" * 300])
GROUPS = st.sampled_from(["g", "g", "h", "", "a.b", ">", "x" * 300])
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)
RESUME = st.dictionaries(TOPICS, st.lists(NUMBERS, max_size=3), max_size=2)
CBOR = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)

GOOD = bytes(batch_of(b"good", b"better").data)
BATCHES = st.sampled_from(
    [
        GOOD,
        bytes(batch_of(b"single").data),
        bytes(batch_of(b"fleeting", ttl=1).data),
        bytes(batch_of(bytes(HELLO_LIMIT), producer=3).data),
        *(batches.numbered(GOOD, 3, epoch, number) for epoch in (0, 1) for number in (1, 3, 4)),
        GOOD[:-1] + b"!",
        GOOD[:50],
        b"",
    ]
)


def body(kind: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """A control body with each field there or not, of the right kind mostly."""
    optional = {name: strategy | CBOR if name == "bytes" else strategy for name, strategy in fields.items()}
    assert set(optional) <= set(kind.__struct_fields__)
    return st.fixed_dictionaries({}, optional=optional).map(cbor2.dumps)


BODIES: dict[Opcode, st.SearchStrategy[bytes]] = {
    Opcode.HELLO: body(control.Hello, versions=st.just([2]), max_frame=NUMBERS),
    Opcode.ERROR: body(control.Error, code=TOPICS, message=TOPICS),
    Opcode.OPEN: body(
        control.Open,
        topic=TOPICS,
        partition=NUMBERS,
        partitions=NUMBERS,
        producer=NUMBERS,
        epoch=NUMBERS,
        sequence=NUMBERS,
    ),
    Opcode.PUBLISH: BATCHES,
    Opcode.SEND: st.binary(max_size=10) | BATCHES.map(lambda batch: inboxes.pack("_inbox.a", batch)),
    Opcode.SUBSCRIBE: body(
        control.Subscribe,
        filter=TOPICS,
        start=NUMBERS,
        time=NUMBERS,
        partition=NUMBERS,
        messages=NUMBERS,
        bytes=NUMBERS,
        resume=RESUME,
        group=GROUPS,
        ack_wait=NUMBERS,
        max_deliveries=NUMBERS,
        dead_letter=TOPICS,
        max_in_flight=NUMBERS,
    ),
    Opcode.CREDIT: body(control.Credit, messages=NUMBERS, bytes=NUMBERS),
    Opcode.ACK: body(control.Ack, ranges=RANGES),
    Opcode.NACK: body(control.Nack, ranges=RANGES, delay=NUMBERS),
    Opcode.FETCH: body(
        control.Fetch, topic=TOPICS, partition=NUMBERS, start=NUMBERS, time=NUMBERS, bytes=NUMBERS
    ),
    Opcode.DESCRIBE: body(control.Describe, filter=TOPICS, groups=GROUPS),
    Opcode.DROP_GROUP: body(control.DropGroup, group=GROUPS),
    # bodies that nobody looks into, and frames that only a broker may send
    Opcode.PING: st.binary(max_size=10),
    Opcode.PONG: st.binary(max_size=10),
    Opcode.UNSUBSCRIBE: st.just(b""),
    Opcode.DRAIN: st.just(b""),
    Opcode.WELCOME: st.just(b""),
    Opcode.PUBACK: st.just(b""),
    Opcode.DELIVER: st.just(b""),
}
GROUP = control.Subscribe("a", -2, messages=5, bytes=1 << 30, group="g", ack_wait=1000, max_deliveries=2)
# What opens the way to the rest, so that not every example ends at its first request.
WELL_FORMED = st.sampled_from(
    [
        (Opcode.OPEN, control.encode(control.Open("a"))),
        (Opcode.OPEN, control.encode(control.Open("a.b", 1, 3))),
        (Opcode.PUBLISH, GOOD),
        (Opcode.SUBSCRIBE, control.encode(control.Subscribe(">", -2, messages=3, bytes=1 << 30))),
        (Opcode.SUBSCRIBE, control.encode(control.Subscribe("_inbox.a", messages=3, bytes=1 << 30))),
        (Opcode.SEND, inboxes.pack("_inbox.a", GOOD)),
        (Opcode.CREDIT, control.encode(control.Credit(5, 1 << 20))),
        (Opcode.SUBSCRIBE, control.encode(GROUP)),
        (Opcode.ACK, control.encode(control.Ack([(0, 0)]))),
        (Opcode.NACK, control.encode(control.Nack([(0, 2)], 5))),
        (Opcode.FETCH, control.encode(control.Fetch("a"))),
        (Opcode.UNSUBSCRIBE, b""),
        (Opcode.DESCRIBE, control.encode(control.Describe())),
    ]
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame, or something that is none."""
    kind = draw(st.integers(0, 20))
    if not kind:
        return draw(st.binary(max_size=40))
    opcode, content = draw(WELL_FORMED)
    if kind <= 8:
        opcode = draw(st.sampled_from(list(BODIES)))
        content = draw(BODIES[opcode])
    elif kind == 9:
        content = draw(CBOR.map(cbor2.dumps) | st.binary(max_size=20))
    number = int(opcode) if kind != 10 else draw(st.integers(64, 255))
    flags = draw(st.sampled_from([0, 0, 0, 0, REPLY]))
    correlation = draw(st.sampled_from([0, 1, 2, 3, 4, 5, (1 << 32) - 1]))
    return frame_header(number, len(content), correlation, draw(CHANNELS), flags) + content


STEPS = st.lists(
    st.tuples(st.sampled_from(["first", "second", "newcomer"]), st.lists(frames(), min_size=1, max_size=8))
    | st.sampled_from(
        [("turn", 0), ("sweep", 0), ("congest", 0), ("relieve", 0), ("deaf", 0), ("hang up", 0), ("trim", 0)]
    ),
    max_size=15,
)
HELLO = control.encode(control.Hello([2]))


class Room:
    """A broker with two who behave and two who may not."""

    def __init__(self, storage: Storage) -> None:
        options = Options(
            max_channels=3,
            max_assignments=5,
            max_partitions=9,
            max_topic_partitions=4,
            max_unacked_bytes=500,
            retention={"": Retention(count=3)},
        )
        self.desk = Desk(options, storage)
        self.reader, self.sender = self.desk.client(), self.desk.client()
        self.clients = {"first": self.desk.client(), "second": self.desk.client(max_frame=HELLO_LIMIT)}

    def turns(self) -> None:
        for _ in range(3):
            if isinstance(self.desk.storage, LaterStorage):
                self.desk.storage.finish_all()
            self.desk.settle()

    def say(self, who: str, what: list[bytes]) -> None:
        if who == "newcomer":
            who = "first"
            self.clients[who] = self.desk.client(greet=False)
            self.clients[who].raw = frame_header(Opcode.HELLO, len(HELLO)) + HELLO
        self.clients[who].raw += b"".join(what)
        self.desk.turn()

    def happen(self, kind: str) -> None:
        client = self.clients["second"]
        match kind:
            case "turn":
                self.turns()
            case "sweep":
                for polite in (self.reader, self.sender):
                    polite.connection.send(Opcode.PING)
                self.desk.turn(2 * SECOND)
            case "trim":
                for topic in self.desk.broker.topics.values():
                    self.desk.storage.trim(topic.partitions[0].key, max_bytes=0)
            case "congest":
                client.session.congested = True
            case "relieve":
                client.deaf = False
                client.reads()
                self.desk.broker.uncongested(client.session)
            case "deaf":
                client.deaf = True
            case _:
                client.hang_up()

    def check(self) -> None:
        """Who behaves is served, and nothing is kept of those who are gone."""
        self.turns()
        self.reader.subscribe("well.behaved")
        self.sender.open("well.behaved")
        self.turns()
        self.sender.publish(batch_of(b"served"))
        self.turns()
        assert self.reader.payloads() == [b"served"]
        assert self.sender.acked() == [0]
        for client in self.desk.clients.values():
            client.hang_up()
        self.turns()
        broker = self.desk.broker
        assert not broker.sessions
        assert not broker.delivery.behind
        for topic in broker.topics.values():
            assert not any(partition.cursors for partition in topic.partitions)


@pytest.mark.parametrize("make", [MemoryStorage, LaterStorage])
def test_a_turn_never_raises(make: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[Any] = []

    def exception(_event: str, **context: Any) -> None:
        faults.append((context, traceback.format_exc()))

    monkeypatch.setattr(requests.log, "exception", exception, raising=False)
    monkeypatch.setattr(broker.log, "warning", lambda _event, **_context: None, raising=False)

    @given(STEPS)
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    def play(steps: list[tuple[str, Any]]) -> None:
        faults.clear()
        room = Room(make())
        for kind, what in steps:
            if isinstance(what, list):
                room.say(kind, what)
            else:
                room.happen(kind)
        room.check()
        assert not faults, "a request failed on our side"

    play()
