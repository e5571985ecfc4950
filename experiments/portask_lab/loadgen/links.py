"""Raw connections: set up with the sans-I/O connection, then only bytes.

`Publisher` sends frames and counts acks; `Consumer` (in `portask_lab.loadgen.consumer`) reads deliveries.
Both leave their sockets non-blocking.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from struct import Struct

from portask.contracts import LATEST
from portask.errors import ConnectFailed, PortaskError, RemoteProtocolError, from_code
from portask.messages import Buffer
from portask.wire import control
from portask.wire.connection import Connection, Role
from portask.wire.frames import HEADER_SIZE, REPLY, Frame, Opcode

HEADER = Struct("<4sBBHIII")
"""The part of a frame header that is read here: magic, version, opcode, flags, length, correlation, channel."""
SETUP_TIMEOUT = 10.0
"""Seconds that a handshake, OPEN or SUBSCRIBE may take."""


def dial(port: int, host: str = "127.0.0.1", timeout: float = SETUP_TIMEOUT) -> socket.socket:
    """A TCP connection without Nagle's delay.

    Raises:
        ConnectFailed: nobody answered.
    """
    try:
        sock = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise ConnectFailed(f"{host}:{port} does not answer: {error}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Setup:
    """Blocking request and answer on a socket, for everything before the measurement."""

    def __init__(self, sock: socket.socket, token: str | None = None) -> None:
        self.sock = sock
        self.connection = Connection(Role.CLIENT)
        self._correlation = 0
        self._waiting: list[Frame] = []
        self.connection.send_hello("portask-lab", token)
        self._flush()
        while self.connection.welcome is None:
            self._receive()
        self._waiting.clear()

    def request(self, opcode: Opcode, body: control.Open | control.Subscribe, channel: int) -> Frame:
        """Sends a request; returns its answer. Other frames that come meanwhile are dropped (assignments).

        Raises:
            PortaskError: what the broker answered.
        """
        self._correlation += 1
        self.connection.send_control(opcode, body, self._correlation, channel)
        self._flush()
        while True:
            while self._waiting:
                frame = self._waiting.pop(0)
                if frame.opcode == Opcode.ERROR:
                    raise read_error(frame.body)
                if frame.correlation == self._correlation and frame.flags & REPLY:
                    return frame
            self._receive()

    def _flush(self) -> None:
        self.sock.sendall(b"".join(self.connection.take_output()))

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise RemoteProtocolError("the broker hung up while a connection was set up")
        self._waiting += self.connection.receive(data)
        if self.connection.fault is not None:
            raise self.connection.fault


def read_error(body: Buffer) -> PortaskError:
    """The exception that an ERROR body stands for."""
    error = control.decode(body, control.Error)
    return from_code(error.code, error.message)


def whole_frames(data: bytes) -> tuple[list[tuple[int, int, bytes]], bytes]:
    """Opcode, correlation id and body of each whole frame, and the rest. Unchecked, and for those in no hurry."""
    found = []
    start = 0
    while len(data) - start >= HEADER_SIZE:
        _, _, opcode, _, length, correlation, _ = HEADER.unpack_from(data, start)
        end = start + HEADER_SIZE + length
        if end > len(data):
            break
        found.append((opcode, correlation, data[start + HEADER_SIZE : end]))
        start = end
    return found, data[start:]


class Publisher:
    """Sends whole frames without blocking; what the kernel does not take waits here.

    Args:
        port: Of the broker.
        topic: One, or several: the first on channel 1, the next on channel 2, and so on.
        bare: Leaves out the handshake, for a relay that just moves bytes.
    """

    def __init__(self, port: int, topic: str | Sequence[str], *, bare: bool = False) -> None:
        self.sock = dial(port)
        self._acked: dict[int, int] = {}
        self._unsent = bytearray()
        self._cut = b""
        if not bare:
            setup = Setup(self.sock)
            for channel, name in enumerate([topic] if isinstance(topic, str) else topic, 1):
                setup.request(Opcode.OPEN, control.Open(name), channel)
        self.sock.setblocking(False)

    @property
    def acked(self) -> int:
        """Publishes that the broker acknowledged, on all channels."""
        return sum(self._acked.values())

    @property
    def blocked(self) -> bool:
        """Whether bytes wait for the kernel."""
        return bool(self._unsent)

    def send(self, frame: Buffer) -> None:
        """Sends, or keeps what could not be sent."""
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self.sock.send(frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._unsent += memoryview(frame)[sent:]

    def flush(self) -> None:
        """Tries again to send what waits."""
        if self._unsent:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]

    def read(self) -> None:
        """Reads acks.

        Raises:
            PortaskError: the broker refused a publish, or hung up.
        """
        data = self._cut + self.sock.recv(65536)
        if len(data) == len(self._cut):
            raise RemoteProtocolError("the broker hung up on the publisher")
        start, size = 0, len(data)
        while size - start >= HEADER_SIZE:
            _, _, opcode, _, length, correlation, channel = HEADER.unpack_from(data, start)
            end = start + HEADER_SIZE + length
            if end > size:
                break
            if opcode == Opcode.PUBACK:
                self._acked[channel] = correlation
            elif opcode == Opcode.ERROR:
                raise read_error(data[start + HEADER_SIZE : end])
            start = end
        self._cut = data[start:]

    def close(self) -> None:
        """Hangs up."""
        self.sock.close()


def subscribe(  # noqa: PLR0917 - each is needed and named where it is called
    sock: socket.socket, topic: str, channel: int, messages: int, size: int, start: int = LATEST
) -> None:
    """Opens a subscription with so much credit."""
    body = control.Subscribe(topic, start=start, messages=messages, bytes=size)
    Setup(sock).request(Opcode.SUBSCRIBE, body, channel)
