"""A broker driven by hand: turns when the test says so, at the time that the test says it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cbor2

from portask.contracts import EARLIEST, Appended, Durability, Found, Read, Storage
from portask.core.broker import Broker, Options
from portask.core.session import Session
from portask.errors import PortaskError
from portask.messages import RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire import batches, control
from portask.wire.connection import Connection, Role, State
from portask.wire.frames import Frame, Opcode

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
PUBLISHING = 1
SUBSCRIBING = 7


def batch(*payloads: bytes, ttl: int = 0, producer: int = 0, base: int = NOW, delta: int = 0) -> bytes:
    body = b"".join(cbor2.dumps([delta, None, None, payload]) for payload in payloads)
    return batches.build(body, len(payloads), codec=1, base_timestamp=base, ttl=ttl, producer=producer)


def payloads(found: RecordBatch) -> list[bytes]:
    rows, data = [], bytes(found.body)
    while data:
        row = cbor2.loads(data[: _record_size(data)])
        rows.append(row[3])
        data = data[_record_size(data) :]
    return rows


def _record_size(data: bytes) -> int:
    decoder_input = memoryview(data)
    at = 1
    for _ in range(4):
        at += _item_size(decoder_input[at:])
    return at


def _item_size(data: memoryview) -> int:
    major, low = data[0] >> 5, data[0] & 0x1F
    extra = {24: 1, 25: 2, 26: 4, 27: 8}.get(low, 0)
    value = int.from_bytes(data[1 : 1 + extra], "big") if extra else low
    return 1 + extra + (value if major in {2, 3} else 0)


class Peer:
    """One client: its end of the connection, the broker's session, and what came."""

    def __init__(self, harness: Harness, session: Session) -> None:
        self.harness = harness
        self.session = session
        self.connection = Connection(Role.CLIENT)
        self.frames: list[Frame] = []
        self.acked: list[tuple[int, int]] = []
        self.got: list[tuple[int, bytes]] = []
        self.delivered: list[RecordBatch] = []
        self.errors: list[tuple[int, control.Error]] = []
        self._unacked: list[int] = []
        self._correlation = 100

    def flush(self) -> None:
        """Hands everything queued to the broker; nothing happens before the next turn."""
        data = b"".join(self.connection.take_output())
        if data:
            self.session.receive(data)

    def send(self, opcode: Opcode, body: Any = b"", correlation: int = 0, channel: int = 0) -> None:
        if not isinstance(body, bytes | bytearray | memoryview):
            body = control.encode(body)
        self.connection.send(opcode, body, correlation, channel)
        self.flush()

    def next(self) -> int:
        self._correlation += 1
        return self._correlation

    def open(
        self, topic: str = "t", partition: int = 0, partitions: int = 0, channel: int = PUBLISHING
    ) -> None:
        self.send(Opcode.OPEN, control.Open(topic, partition, partitions), self.next(), channel)
        self.harness.turn()

    def publish(self, data: bytes, channel: int = PUBLISHING) -> int:
        correlation = self.next()
        self._unacked.append(correlation)
        self.send(Opcode.PUBLISH, data, correlation, channel)
        return correlation

    def subscribe(
        self,
        filter: str = "t",  # noqa: A002 - the wire's word for it
        *,
        start: int = EARLIEST,
        time: int | None = None,
        messages: int = 1 << 30,
        size: int = 1 << 40,
        channel: int = SUBSCRIBING,
    ) -> None:
        body = control.Subscribe(filter, start=start, time=time, messages=messages, bytes=size)
        self.send(Opcode.SUBSCRIBE, body, self.next(), channel)

    def credit(self, messages: int, size: int, channel: int = SUBSCRIBING) -> None:
        self.send(Opcode.CREDIT, control.Credit(messages, size), 0, channel)

    def take(self, data: bytes) -> None:
        for frame in self.connection.receive(data):
            if frame.opcode == Opcode.DELIVER and not frame.correlation:
                for found in batches.split(frame.body):
                    self.delivered.append(found)
                    self.got += [(found.base_offset + n, p) for n, p in enumerate(payloads(found))]
            elif frame.opcode == Opcode.PUBACK:
                offsets = control.decode(frame.body, control.PubAck).offsets
                done, self._unacked = self._unacked[: len(offsets)], self._unacked[len(offsets) :]
                assert done[-1] == frame.correlation
                self.acked += zip(done, offsets, strict=True)
            elif frame.opcode == Opcode.ERROR:
                self.errors.append((frame.correlation, control.decode(frame.body, control.Error)))
                if frame.correlation in self._unacked:
                    self._unacked.remove(frame.correlation)
            else:
                self.frames.append(frame)
        if self.connection.fault is not None and not self.errors:
            self.errors.append((0, control.Error(self.connection.fault.code, str(self.connection.fault))))

    def paused(self) -> bool:
        return self.session.paused

    def hung_up_on(self) -> bool:
        return self.session not in self.harness.broker.sessions


class Harness:
    """A broker, its clients and its clock."""

    def __init__(self, storage: Storage | None = None, **options: Any) -> None:
        self.now = NOW
        self.storage = storage or MemoryStorage()
        self.broker = Broker(self.storage, Options(**options))
        self.peers: dict[Session, Peer] = {}
        self.departures: list[Session] = []

    def connect(self, *, greet: bool = True) -> Peer:
        session = self.broker.connect("test", self.now)
        peer = self.peers[session] = Peer(self, session)
        if greet:
            peer.connection.send_hello("test")
            peer.flush()
            self.turn()
            if peer.connection.state is State.OPEN:
                peer.frames.clear()
        return peer

    def turn(self, after: int = 0) -> None:
        """One turn, ``after`` µs later, and those that it asks for at once."""
        self.now += after
        self.departures = list(self.broker.turn(self.now))
        self._depart(self.departures)
        for _ in range(1000):
            due = self.broker.deadline()
            if due is None or due > self.now:
                return
            self._depart(self.broker.turn(self.now))
        raise AssertionError("the broker asks for turns without end")

    def _depart(self, sessions: Sequence[Any]) -> None:
        for session in sessions:
            self.peers[session].take(b"".join(session.take_output()))
            if session.closing:
                self.broker.disconnect(session)


class LateStorage:
    """The memory storage, as if it were far away: callbacks wait until the test lets them through."""

    durability = Durability.SERVER

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.waiting: list[Callable[[], None]] = []
        self.notify: Callable[[], None] = lambda: None

    def append(self, partition: TopicPartition, found: RecordBatch, now: int, done: Appended) -> None:
        self.inner.append(partition, found, now, lambda o, e: self._later(lambda: done(o, e)))

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        self.inner.read(partition, offset, limit, lambda f, e: self._later(lambda: done(f, e)))

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        self.inner.lookup(partition, when, lambda o, e: self._later(lambda: done(o, e)))

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        self.inner.trim(partition, before, max_bytes)

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        self._later(lambda: done(None))

    def poll(self) -> int:
        """Lets everything through that waits now."""
        if self.holding:
            return 0
        ready, self.waiting = self.waiting, []
        for call in ready:
            call()
        return len(ready)

    holding = False

    def _later(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)
        self.notify()
