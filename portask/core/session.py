"""One connection as the broker sees it: its protocol state, what arrived, and what it has open."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import structlog
from msgspec import structs

from portask.core.accounts import STRANGER, Standing
from portask.core.nothing import NOTHING
from portask.core.partitions import Cursor, Partition, Subscription
from portask.core.rates import Meter
from portask.errors import BatchError, NotPermitted, OffsetOutOfRange, PortaskError, RemoteProtocolError
from portask.messages import Buffer
from portask.wire import control
from portask.wire.connection import Connection, Role, State
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker
    from portask.core.groups import Seat

log = structlog.get_logger("portask.broker")

# Members of an enumeration are slow to look up.
_CLOSED = State.CLOSED
_PUBACK = int(Opcode.PUBACK)

_OFFENCES = (BatchError, NotPermitted, RemoteProtocolError)
"""What a client should not have asked for; the first one of a connection is logged."""
ANSWERS_LIMIT = 1 << 20
"""Bytes of answers that may be under way to one connection before its further requests wait."""


class Later(Exception):
    """So much is being answered to this connection that a request has to wait."""


class Channel:
    """A channel that the client opened for publishing to one partition.

    Acks leave in the order of the publishes, so each publish holds a slot here until it and all before it
    are done.

    Attributes:
        slots: Publishes that wait for their ack: ``[correlation, base offset, bytes]``, the offset -1 until it is
            known.
    """

    __slots__ = ("number", "partition", "session", "slots")

    def __init__(self, session: Session, number: int, partition: Partition) -> None:
        self.session = session
        self.number = number
        self.partition = partition
        self.slots: deque[list[int]] = deque()


class Session:
    """Implements `portask.contracts.FramedEndpoint`.

    There may be very many that do nothing, so what one has open lies in containers that are made when it is opened.

    Attributes:
        inbox: Frames that wait to be handled; ``None`` for none.
        channels: By number; `open` adds.
        acking: Channels that have publishes to ack.
        subscriptions: By channel; `add` adds.
        cursors: By channel of delivery; `follow` adds.
        deliveries: Channels of delivery that were given out.
        reading: Bytes that its FETCHes may still bring: reads that are under way.
        answered: Bytes of answers to requests that ask for much, in this turn.
        owed: Bytes that were queued while it was congested.
        logged: The log says why it was hung up on.
        complained: The log says what it should not have asked for.
        told: It knows that the broker is going away.
        certificate: Names in the certificate of its client.
        standing: Whose it is, and what that allows.
        meter: How fast it publishes, if that is limited.
        paced: `portask.core.pacing` has to be asked whether it may be read.
        rests: `portask.core.pacing` will look at it again by itself.
        answer_at: When its last words may leave, µs; 0 for at once.
        waits: Answers from elsewhere without which nothing more of it can be handled. Whoever counts it up counts it
            down, and has the session looked at again (`portask.multicore`).
    """

    __slots__ = (
        "_broker",
        "acking",
        "answer_at",
        "answered",
        "certificate",
        "channels",
        "closing",
        "complained",
        "congested",
        "connection",
        "cursors",
        "deliveries",
        "inbox",
        "last_seen",
        "logged",
        "meter",
        "output",
        "owed",
        "paced",
        "paused",
        "peer",
        "reading",
        "rests",
        "since",
        "standing",
        "subscriptions",
        "told",
        "unacked",
        "waits",
    )

    def __init__(
        self,
        broker: Broker,
        peer: str,
        offer: control.Welcome,
        now: int,
        certificate: tuple[str, ...] = (),
    ) -> None:
        self._broker = broker
        self.peer = peer
        self.certificate = certificate
        self.standing: Standing = STRANGER
        self.meter: Meter | None = None
        self.paced = self.rests = False
        self.waits = 0
        self.answer_at = 0
        self.connection = Connection(Role.BROKER, offer)
        self.connection.gate = self._greet
        self.output = self.connection.output
        self.closing = False
        self.congested = False
        self.paused = False
        self.logged = self.complained = False
        self.told = False
        self.reading = self.answered = self.owed = 0
        self.last_seen = self.since = now
        self.inbox: list[Frame] | None = None
        self.channels: dict[int, Channel] = NOTHING
        self.acking: dict[Channel, None] = NOTHING
        self.unacked = 0
        self.subscriptions: dict[int, Subscription] = NOTHING
        self.cursors: dict[int, Cursor | Seat] = NOTHING
        self.deliveries = 0

    def receive(self, data: Buffer) -> int:
        """See `portask.contracts.Endpoint.receive`."""
        frames = self.connection.receive(data)
        self.queue(frames)
        return len(frames)

    def receive_frames(self, frames: list[Frame], refused: Buffer = b"") -> None:
        """See `portask.contracts.FramedEndpoint.receive_frames`."""
        self.queue(self.connection.admit(frames, refused))

    def queue(self, frames: list[Frame]) -> None:
        """Has the next turn handle frames. Keeps the list."""
        inbox = self.inbox
        if inbox:
            inbox += frames
        elif frames:
            self.inbox = frames
        self._broker.arrived[self] = None

    def take_output(self) -> list[Buffer]:
        """See `portask.contracts.Endpoint.take_output`."""
        return self.connection.take_output()

    @property
    def frame_limit(self) -> int:
        """See `portask.contracts.FramedEndpoint.frame_limit`."""
        return self.connection.limit

    def open(self, channel: Channel) -> None:
        """A new channel."""
        if self.channels is NOTHING:
            self.channels, self.acking = {}, {}
        self.channels[channel.number] = channel

    def add(self, subscription: Subscription) -> None:
        """A new subscription; `Broker.forget` ends it."""
        if self.subscriptions is NOTHING:
            self.subscriptions = {}
        self.subscriptions[subscription.channel] = subscription
        account = self.standing.account
        if account is not None:
            account.subscriptions[subscription] = None
            self._broker.account_changed(account)

    def follow(self, delivery: int, cursor: Cursor | Seat) -> None:
        """A new cursor, whose channel of delivery is from `new_delivery`."""
        if self.cursors is NOTHING:
            self.cursors = {}
        self.cursors[delivery] = cursor

    def new_delivery(self) -> int:
        """A channel for deliveries that no other of the broker's processes gives out."""
        broker = self._broker
        number = control.DELIVERY_CHANNELS + broker.place + self.deliveries * broker.places
        self.deliveries += 1
        return number

    def _greet(self, hello: control.Hello) -> str:
        return self._broker.admission.admit(self, hello)

    @property
    def gone(self) -> bool:
        """Nothing can be sent any more."""
        return self.connection.state is State.CLOSED

    def refuse(self, error: PortaskError, correlation: int, channel: int = 0) -> None:
        """Answers a request with ERROR. A one-way frame cannot be answered: its fault ends the connection."""
        if self.gone:
            return
        if not correlation:
            self.connection.fail(error)
            self.closing = True
            return
        if isinstance(error, _OFFENCES) and not self.complained:
            self.complained = True
            name = self.standing.identity.name
            log.warning(
                "a request was refused", peer=self.peer, identity=name, code=error.code, reason=str(error)
            )
        body = control.Error(error.code, str(error)[:1024])
        if isinstance(error, OffsetOutOfRange):
            body.first, body.next = error.first, error.next
        self.connection.send_control(Opcode.ERROR, body, correlation, channel)

    def make_room(self) -> None:
        """Called by requests whose answer may be much larger than they are.

        Raises:
            Later: there is no room for an answer now.
        """
        if self.congested or self.reading + self.answered > ANSWERS_LIMIT:
            raise Later

    def hold(self, frames: list[Frame]) -> None:
        """Keeps frames for a later turn: copies, for their bytes are valid for this one only."""
        self.inbox = [structs.replace(frame, body=bytes(frame.body), batch=None) for frame in frames]

    def flush_acks(self) -> None:
        """One cumulative PUBACK a channel for the publishes that are done, in order."""
        connection = self.connection
        if connection.state is _CLOSED:
            self.acking.clear()
            return
        for channel in self.acking:
            slots = channel.slots
            offsets = []
            last = 0
            while slots and slots[0][1] >= 0:
                last, offset, size = slots.popleft()
                offsets.append(offset)
                self.unacked -= size
            if offsets:
                connection.send(_PUBACK, control.encode_puback(offsets), last, channel.number)
        self.acking.clear()
