"""The connection, without I/O: which frames may arrive in which state, and what they lead to.

The same class serves both sides. ``connection.receive(data)`` gives the frames that the layer above must
handle; ``connection.take_output()`` gives the bytes to write. The handshake, PING and protocol faults are
handled here.

The transitions are a table, `TRANSITIONS`: per role and state, the opcodes that may arrive and the state that
each leads to. An opcode that exists and is missing from the row is the peer's protocol error; an opcode that
nobody knows is answered with ERROR and the connection goes on (RFC-style tolerance: a newer peer may try).

::

    broker   HANDSHAKE ──HELLO────▶ OPEN ──DRAIN──▶ DRAINING     any state ──fault──▶ CLOSED
    client   HANDSHAKE ──WELCOME──▶ OPEN ──DRAIN──▶ DRAINING     any state ──fault, ERROR with correlation 0──▶ CLOSED
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from portask.errors import LocalProtocolError, PortaskError, RemoteProtocolError, from_code
from portask.messages import Buffer
from portask.wire import control
from portask.wire.frames import (
    DEFAULT_LIMIT,
    HEADER_SIZE,
    HELLO_LIMIT,
    REPLY,
    VERSION,
    WINDOW,
    WINDOW_SIZE,
    Frame,
    FrameParser,
    Opcode,
    Outgoing,
    encode,
    fits_as_window,
    refusal,
    too_large_for_peer,
)


class Role(Enum):
    """Which end this is."""

    CLIENT = "client"
    BROKER = "broker"


class State(Enum):
    """Where a connection is in its life."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


_REQUESTS = (
    Opcode.OPEN,
    Opcode.PUBLISH,
    Opcode.SEND,
    Opcode.SUBSCRIBE,
    Opcode.UNSUBSCRIBE,
    Opcode.CREDIT,
    Opcode.ACK,
    Opcode.NACK,
    Opcode.FETCH,
    Opcode.DESCRIBE,
    Opcode.DROP_GROUP,
    Opcode.PING,
    Opcode.PONG,
    Opcode.ERROR,
)
_ANSWERS = (
    Opcode.OPEN,
    Opcode.PUBACK,
    Opcode.SEND,
    Opcode.SUBSCRIBE,
    Opcode.UNSUBSCRIBE,
    Opcode.DELIVER,
    Opcode.DESCRIBE,
    Opcode.DROP_GROUP,
    Opcode.PING,
    Opcode.PONG,
    Opcode.ERROR,
)
# A client that said DRAIN publishes and subscribes nothing more; it still takes what is under way.
_LAST_REQUESTS = (
    Opcode.UNSUBSCRIBE,
    Opcode.CREDIT,
    Opcode.ACK,
    Opcode.NACK,
    Opcode.PING,
    Opcode.PONG,
    Opcode.ERROR,
)


def _row(opcodes: tuple[Opcode, ...], state: State) -> dict[int, State]:
    return dict.fromkeys(opcodes, state)


TRANSITIONS: dict[tuple[Role, State], dict[int, State]] = {
    (Role.BROKER, State.HANDSHAKE): {Opcode.HELLO: State.OPEN},
    (Role.BROKER, State.OPEN): _row(_REQUESTS, State.OPEN) | {Opcode.DRAIN: State.DRAINING},
    (Role.BROKER, State.DRAINING): _row(_LAST_REQUESTS, State.DRAINING) | {Opcode.DRAIN: State.DRAINING},
    (Role.BROKER, State.CLOSED): {},
    (Role.CLIENT, State.HANDSHAKE): {Opcode.WELCOME: State.OPEN, Opcode.ERROR: State.CLOSED},
    (Role.CLIENT, State.OPEN): _row(_ANSWERS, State.OPEN) | {Opcode.DRAIN: State.DRAINING},
    (Role.CLIENT, State.DRAINING): _row(_ANSWERS, State.DRAINING) | {Opcode.DRAIN: State.DRAINING},
    (Role.CLIENT, State.CLOSED): {},
}
_PLAIN = {
    place: frozenset(int(code) for code, target in row.items() if code > Opcode.DRAIN and target is place[1])
    for place, row in TRANSITIONS.items()
}
"""What changes nothing and is the caller's alone to handle, so that a look at the opcode is all it needs."""
_FLAGS = {Role.BROKER: REPLY, Role.CLIENT: REPLY | WINDOW}
"""Those that may arrive."""
_NOTHING = -1 - WINDOW_SIZE
"""The limit of a peer that can be sent nothing, not even an empty body."""
_KNOWN = frozenset(Opcode)
_TOLERANT = frozenset({State.OPEN, State.DRAINING})


class Connection:
    """One end of one connection.

    Attributes:
        role: Which end this is.
        state: Changes as `TRANSITIONS` say.
        welcome: What the broker said, on the client's side, once it did.
        client: What the client calls itself, on the broker's side.
        fault: Why the connection is closed, if a fault closed it.
        gate: Asked on the broker's side before HELLO is answered: gives the name by which the client is known, or
            raises why it may not come in.
        limit: Largest body that may come now, bytes: little before the handshake is complete.
        output: What waits to be written, in order. Always the same list: taking out is clearing it.
    """

    __slots__ = (
        "_allowed",
        "_offer",
        "_parser",
        "_peer_limit",
        "_plain",
        "client",
        "fault",
        "gate",
        "limit",
        "output",
        "role",
        "state",
        "welcome",
    )

    def __init__(
        self, role: Role, offer: control.Welcome | None = None, *, max_frame: int = DEFAULT_LIMIT
    ) -> None:
        """Args: ``offer`` is what a broker welcomes with; ``max_frame`` what a client takes, bytes."""
        self.role = role
        self.state = State.HANDSHAKE
        self.limit = HELLO_LIMIT
        self.client = ""
        self.welcome: control.Welcome | None = None
        self.fault: PortaskError | None = None
        self.gate: Callable[[control.Hello], str] | None = None
        self._offer = offer or control.Welcome(VERSION, max_frame, "portask", "memory")
        self._parser: FrameParser | None = None  # made when it is needed: a server may cut frames itself
        self._peer_limit = HELLO_LIMIT
        self._allowed = TRANSITIONS[role, State.HANDSHAKE]
        self._plain = _PLAIN[role, State.HANDSHAKE]
        self.output: list[Outgoing] = []

    def resume(self, client: str, max_frame: int) -> None:
        """The handshake was elsewhere: this is past it."""
        self.gate = None
        self.client = client
        self._enter(State.OPEN)
        self._peer_limit = max_frame

    def drain(self) -> None:
        """The peer said DRAIN, elsewhere."""
        if self.state is State.OPEN:
            self._enter(State.DRAINING)

    def hang_up(self) -> None:
        """Closes without a word: the peer connects again."""
        self._enter(State.CLOSED)

    # ── what arrives ──────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: Buffer) -> list[Frame]:
        """The frames in ``data`` that the caller must handle, in order. Never raises for what the peer sent.

        After a fault `fault` is set, the state is CLOSED, and an ERROR for the peer is in the output.
        """
        parser = self._parser
        if parser is None:
            parser = self._parser = FrameParser(self.limit, _FLAGS[self.role])
        parser.limit = self.limit
        frames = parser.feed(data)
        if frames:
            frames = self.admit(frames)
        if parser.failed is not None:
            self.fail(parser.failed)
        return frames

    def admit(self, frames: list[Frame], refused: Buffer = b"") -> list[Frame]:
        """Like `receive`, for frames that were cut out of the stream elsewhere.

        Args:
            frames: They keep to `limit`.
            refused: The 24 bytes after them that are no frame's header, or the header of one above `limit`, if
                the stream ended there.
        """
        fault = refusal(refused, self.limit, _FLAGS[self.role]) if refused else None
        plain = self._plain
        for frame in frames:
            if frame.opcode not in plain or frame.flags > REPLY:
                frames = self._judge(frames)
                break
        if fault is not None:
            self.fail(fault)
        return frames

    def _judge(self, frames: list[Frame]) -> list[Frame]:
        """Applies the transition table; answers what can be answered here."""
        handled: list[Frame] = []
        for frame in frames:
            opcode = frame.opcode
            target = self._allowed.get(opcode)
            if target is None:
                if opcode not in _KNOWN and self.state in _TOLERANT:
                    self._refuse_opcode(frame)
                    continue
                self.fail(RemoteProtocolError(self._unexpected(frame)))
                break
            if frame.flags > REPLY and opcode != Opcode.DELIVER:
                self.fail(RemoteProtocolError(f"the WINDOW flag belongs to DELIVER, not to opcode {opcode}"))
                break
            try:
                if opcode <= Opcode.DRAIN:
                    if self._housekeeping(frame):
                        handled.append(frame)
                else:
                    handled.append(frame)
            except PortaskError as fault:
                self.fail(fault)
                break
            if target is not self.state and self.state is not State.CLOSED:
                self._enter(target)
        return handled

    def _housekeeping(self, frame: Frame) -> bool:
        """HELLO, WELCOME, ERROR, PING, PONG and DRAIN. True if the caller must see the frame too."""
        opcode = frame.opcode
        if opcode == Opcode.PING:
            self.send(Opcode.PONG, bytes(frame.body), frame.correlation, frame.channel)
            return False
        if opcode == Opcode.HELLO:
            self._welcome(control.decode(frame.body, control.Hello))
            return False
        if opcode == Opcode.WELCOME:
            self._welcomed(control.decode(frame.body, control.Welcome))
            return True
        if opcode == Opcode.ERROR and (not frame.correlation or self.state is State.HANDSHAKE):
            error = control.decode(frame.body, control.Error)
            self.fault = from_code(error.code, error.message)
            self._enter(State.CLOSED)
        return True

    def _welcome(self, hello: control.Hello) -> None:
        if VERSION not in hello.versions:
            spoken = ", ".join(map(str, hello.versions[:8])) or "none"
            raise RemoteProtocolError(
                f"the client speaks the versions {spoken}; this broker speaks {VERSION}"
            )
        if hello.max_frame < HELLO_LIMIT:
            raise RemoteProtocolError(
                f"max_frame {hello.max_frame} is too small: {HELLO_LIMIT} bytes at least"
            )
        self.client = hello.client
        gate, self.gate = self.gate, None
        identity = gate(hello) if gate is not None else ""
        self._peer_limit = hello.max_frame
        granted = [feature for feature in hello.features if feature in self._offer.features]
        welcome = msgspec.structs.replace(self._offer, features=granted, identity=identity)
        self.send(Opcode.WELCOME, control.encode(welcome))

    def _welcomed(self, welcome: control.Welcome) -> None:
        if welcome.version != VERSION:
            raise RemoteProtocolError(
                f"the broker chose version {welcome.version}; this client offered {VERSION}"
            )
        if welcome.max_frame < HELLO_LIMIT:
            raise RemoteProtocolError(
                f"max_frame {welcome.max_frame} is too small: {HELLO_LIMIT} bytes at least"
            )
        if not welcome.keepalive >= 0:  # a NaN is not either
            raise RemoteProtocolError(f"keepalive {welcome.keepalive} is no number of seconds")
        self.welcome = welcome
        self._peer_limit = welcome.max_frame

    def _unexpected(self, frame: Frame) -> str:
        name = Opcode(frame.opcode).name if frame.opcode in _KNOWN else f"opcode {frame.opcode}"
        if self.state is State.HANDSHAKE:
            first = "HELLO" if self.role is Role.BROKER else "WELCOME"
            return f"{name} came before {first}"
        return f"{name} may not be sent to a {self.role.value} while {self.state.value}"

    def _refuse_opcode(self, frame: Frame) -> None:
        # A one-way frame gets no answer: an ERROR with correlation 0 would end the connection.
        if frame.correlation and not frame.flags & REPLY:
            error = control.Error(RemoteProtocolError.code, f"opcode {frame.opcode} is not known here")
            self.send(Opcode.ERROR, control.encode(error), frame.correlation, frame.channel)

    def _enter(self, state: State) -> None:
        self.state = state
        self.limit = self._offer.max_frame
        self._allowed = TRANSITIONS[self.role, state]
        self._plain = _PLAIN[self.role, state]
        if state is State.CLOSED:
            self._peer_limit = _NOTHING

    # ── what is sent ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def max_batch(self) -> int:
        """Largest body that the peer takes, bytes; below zero once the connection is closed."""
        return self._peer_limit

    def send_hello(self, client: str = "", token: str | None = None) -> None:
        """The client's first frame."""
        hello = control.Hello([VERSION], self._offer.max_frame, client, token=token)
        self.send(Opcode.HELLO, control.encode(hello))

    def send(
        self, opcode: int, body: Buffer = b"", correlation: int = 0, channel: int = 0, flags: int = 0
    ) -> None:
        """Queues one frame. ``body`` must not change until it is written.

        Raises:
            LocalProtocolError: the connection is closed, or the body is above the peer's limit.
        """
        length = len(body)
        if length > self._peer_limit:
            raise self._unsendable(length)
        self.output.append((opcode, flags, length, correlation, channel, (body,) if length else ()))

    def send_control(
        self, opcode: int, body: msgspec.Struct, correlation: int = 0, channel: int = 0, flags: int = 0
    ) -> None:
        """Queues one frame with a CBOR body."""
        self.send(opcode, control.encode(body), correlation, channel, flags)

    def send_parts(  # noqa: PLR0917 - the order of `send`, with the length that the callers know
        self,
        opcode: int,
        parts: list[Buffer],
        length: int,
        correlation: int = 0,
        channel: int = 0,
        flags: int = 0,
    ) -> None:
        """Queues one frame whose body is ``parts``, ``length`` bytes, without joining them. Keeps ``parts``."""
        if length > self._peer_limit and not fits_as_window(length, self._peer_limit, flags):
            raise self._unsendable(length)
        self.output.append((opcode, flags, length, correlation, channel, parts))

    def _unsendable(self, length: int) -> LocalProtocolError:
        if self.state is State.CLOSED:
            return LocalProtocolError("the connection is closed: nothing can be sent on it")
        return too_large_for_peer(length, self._peer_limit)

    def take_output(self) -> list[Buffer]:
        """Everything queued since the last call, in order. The list is the caller's."""
        out = encode(self.output)
        self.output.clear()
        return out

    @property
    def has_output(self) -> bool:
        """Whether `take_output` would give anything."""
        return bool(self.output)

    @property
    def queued(self) -> int:
        """Bytes that `take_output` would give. Costs about 50 ns a frame."""
        return sum(HEADER_SIZE + frame[2] for frame in self.output)

    def fail(self, fault: PortaskError) -> None:
        """Tells the peer why, and closes: nothing more is received or sent after the output that is queued."""
        if self.state is State.CLOSED:
            return
        # what was raised leads back here by its frames, and to the bytes that came: nothing would be freed in time
        fault.__traceback__ = fault.__context__ = fault.__cause__ = None
        self.fault = fault
        body = control.encode(control.Error(fault.code, str(fault)[:1024]))
        self.output.append((Opcode.ERROR, 0, len(body), 0, 0, (body,)))
        self._enter(State.CLOSED)
