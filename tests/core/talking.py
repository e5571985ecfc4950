"""A broker without a server: clients talk to it turn by turn, by a clock of the test's."""

from __future__ import annotations

from collections.abc import Sequence

from portask.contracts import EARLIEST, Storage
from portask.core.broker import Broker, Options
from portask.core.identities import Authenticator
from portask.core.session import Session
from portask.messages import Message, RecordBatch
from portask.reference.codec import Cbor2Codec
from portask.reference.storage import MemoryStorage
from portask.wire import batches, control
from portask.wire.connection import Connection, Role
from portask.wire.frames import DEFAULT_LIMIT, Frame, Opcode

START = 1_700_000_000_000_000
"""µs: when every test's clock begins."""
SECOND = 1_000_000
LOTS = 1 << 40
CODEC = Cbor2Codec()


class Desk:
    """A broker and what a server does around it. A receive buffer is destroyed after its turn, as servers do."""

    def __init__(
        self,
        options: Options | None = None,
        storage: Storage | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.storage = storage or MemoryStorage()
        self.broker = Broker(self.storage, options, authenticator=authenticator)
        self.now = START
        self.clients: dict[Session, Client] = {}
        self.woken = 0
        self.broker.wake = self._wake

    def _wake(self) -> None:
        self.woken += 1

    def client(
        self,
        *,
        greet: bool = True,
        max_frame: int = DEFAULT_LIMIT,
        token: str | None = None,
        peer: str = "test:1",
        certificate: tuple[str, ...] = (),
    ) -> Client:
        """A new connection, past its handshake unless told otherwise."""
        client = Client(self, max_frame, peer, certificate)
        self.clients[client.session] = client
        if greet:
            client.connection.send_hello("test", token)
            self.turn()
            assert client.take(Opcode.WELCOME)
        return client

    def turn(self, after: int = 1000) -> None:
        """One turn, ``after`` µs later, with what the clients have to say."""
        self.now += after
        buffers = [client.sends() for client in self.clients.values()]
        for session in self.broker.turn(self.now):
            client = self.clients.get(session)
            if client is not None:
                client.reads()
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))

    def settle(self, after: int = 1000) -> None:
        """Turns until the broker wants none."""
        self.turn(after)
        for _ in range(10_000):
            due = self.broker.deadline()
            if due is None or due > self.now:
                return
            self.turn(0)
        raise AssertionError("the broker asks for turns without end")


class Client:
    """One end of a connection. What it says leaves with the desk's next turn.

    Attributes:
        arrived: Frames that came and were not taken yet.
        hung_up: Whether the broker closed the connection.
        deaf: Set to leave the broker's output where it is, as a socket does whose peer does not read.
    """

    def __init__(
        self,
        desk: Desk,
        max_frame: int = DEFAULT_LIMIT,
        peer: str = "test:1",
        certificate: tuple[str, ...] = (),
    ) -> None:
        self.desk = desk
        self.connection = Connection(Role.CLIENT, max_frame=max_frame)
        self.session = desk.broker.connect(peer, desk.now, certificate)
        self.arrived: list[Frame] = []
        self.raw = b""
        self.hung_up = False
        self.deaf = False
        self._correlation = 1000

    def sends(self) -> bytearray:
        """Hands everything over in one piece; returns the piece."""
        data = bytearray(b"".join(self.connection.take_output()) + self.raw)
        self.raw = b""
        if data and not self.session.paused and not self.hung_up:
            self.session.receive(memoryview(data))
        return data

    def reads(self) -> None:
        """Takes the broker's output, and hangs up if it asks for that."""
        if self.deaf:
            return
        self.arrived += self.connection.receive(b"".join(self.session.take_output()))
        if self.session.closing and not self.hung_up:
            self.hang_up()

    def hang_up(self) -> None:
        """The transport is gone."""
        self.hung_up = True
        self.desk.broker.disconnect(self.session)

    def take(self, *opcodes: Opcode) -> list[Frame]:
        """What arrived with these opcodes; the rest stays."""
        taken = [frame for frame in self.arrived if frame.opcode in opcodes]
        self.arrived = [frame for frame in self.arrived if frame.opcode not in opcodes]
        return taken

    # ── requests: said, not sent; the answers come with a turn ────────────────────────────────────────────────────

    def correlation(self) -> int:
        """One that was not used yet."""
        self._correlation += 1
        return self._correlation

    def open(self, topic: str, channel: int = 1, partition: int = 0, partitions: int = 0) -> None:
        """OPEN and its answer."""
        number = self.correlation()
        body = control.Open(topic, partition, partitions)
        self.connection.send_control(Opcode.OPEN, body, number, channel)
        self.desk.turn()
        assert [frame.correlation for frame in self.take(Opcode.OPEN)] == [number], self.errors()

    def publish(self, batch: RecordBatch | bytes, channel: int = 1) -> int:
        """PUBLISH; returns its correlation id."""
        data = batch.data if isinstance(batch, RecordBatch) else batch
        number = self.correlation()
        self.connection.send(Opcode.PUBLISH, data, number, channel)
        return number

    def subscribe(
        self,
        text: str,
        channel: int = 1,
        *,
        start: int = EARLIEST,
        messages: int = LOTS,
        size: int = LOTS,
        time: int | None = None,
        partition: int | None = None,
        resume: dict[str, list[int]] | None = None,
    ) -> int:
        """SUBSCRIBE; returns its correlation id."""
        number = self.correlation()
        body = control.Subscribe(text, start, time, partition, messages, size, resume or {})
        self.connection.send_control(Opcode.SUBSCRIBE, body, number, channel)
        return number

    def credit(self, messages: int, size: int = LOTS, channel: int = 1) -> None:
        """CREDIT."""
        self.connection.send_control(Opcode.CREDIT, control.Credit(messages, size), 0, channel)

    def fetch(self, topic: str, *, start: int = 0, time: int | None = None, size: int = 1 << 20) -> int:
        """FETCH; returns its correlation id."""
        number = self.correlation()
        body = control.Fetch(topic, start=start, time=time, bytes=size)
        self.connection.send_control(Opcode.FETCH, body, number)
        return number

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def assigned(self) -> list[control.Assigned]:
        """The partitions that were assigned since the last call, without the ends of the lists."""
        found = [control.decode(frame.body, control.Assigned) for frame in self.take(Opcode.SUBSCRIBE)]
        return [body for body in found if body.topic]

    def acks(self) -> list[tuple[int, list[int]]]:
        """PUBACKs since the last call: correlation id and offsets."""
        return [(frame.correlation, control.decode_puback(frame.body)) for frame in self.take(Opcode.PUBACK)]

    def acked(self) -> list[int]:
        """The offsets in them."""
        return [offset for _, offsets in self.acks() for offset in offsets]

    def errors(self) -> list[tuple[int, control.Error]]:
        """ERRORs since the last call: correlation id and body."""
        return [
            (frame.correlation, control.decode(frame.body, control.Error))
            for frame in self.take(Opcode.ERROR)
        ]

    def codes(self) -> list[tuple[int, str]]:
        """ERRORs since the last call: correlation id and code."""
        return [(number, error.code) for number, error in self.errors()]

    def delivered(self) -> list[tuple[int, Message]]:
        """Every record of the DELIVERs since the last call, with its offset."""
        return [pair for frame in self.take(Opcode.DELIVER) for pair in records(batches.split(frame.body))]

    def payloads(self) -> list[bytes]:
        """Their payloads."""
        return [message.payload for _, message in self.delivered()]


def batch_of(
    *payloads: bytes, timestamp: int = START, ttl: int = 0, producer: int = 0, codec: int = 1
) -> RecordBatch:
    """A checked batch of these payloads, all with one timestamp."""
    found = [Message(payload, timestamp=timestamp) for payload in payloads]
    body = CODEC.encode(found, timestamp)
    count = len(found)
    data = batches.build(body, count, codec=codec, base_timestamp=timestamp, ttl=ttl, producer=producer)
    return batches.parse(data)


def records(found: Sequence[RecordBatch]) -> list[tuple[int, Message]]:
    """Every record of stored batches with its offset."""
    return [
        (batch.base_offset + at, message)
        for batch in found
        for at, message in enumerate(CODEC.decode(batch.body, batch.count, batch.base_timestamp))
    ]
