"""A broker behind the server under test, and clients that may misbehave."""

from __future__ import annotations

import inspect
import socket
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Self

from portask.contracts import EARLIEST, Server, Storage
from portask.core.broker import Broker, Options
from portask.messages import Buffer
from portask.multicore.owners import owner_of
from portask.reference.storage import MemoryStorage
from portask.registry import Entry
from portask.wire import batches, control
from portask.wire.connection import Connection, Role
from portask.wire.frames import Frame, Opcode
from portask_lab.conformance.server_together import Engines, Together
from portask_lab.conformance.suite import Violation, require

PATIENCE = 5.0
"""Seconds after which something that must come has not come."""
GRACE = 0.3
"""Seconds that the servers under test give their clients to finish."""
TOPIC = "conformance"


PLACES: ContextVar[int] = ContextVar("places", default=1)
"""How many workers a broker has that a check runs."""


class Running:
    """A broker that runs on a thread of this process, on a free port. The end of the block stops it.

    Attributes:
        broker: The engine: to look into, not to touch while it runs. Of several workers, `Engines`.
        port: Where it listens.
        server: The server under test.
        thread: It runs there.
    """

    def __init__(
        self, entry: Entry, options: Options | None = None, port: int = 0, storage: Storage | None = None
    ) -> None:
        takes_grace = "grace" in inspect.signature(entry.load()).parameters
        made = partial(entry.make, grace=GRACE) if takes_grace else entry.make
        self.broker: Any
        self.server: Server
        places = PLACES.get()
        if places == 1:
            self.broker, self.server = Broker(storage or MemoryStorage(), options), made()
        else:
            owner = owner_of(TOPIC, 0, places)
            together = Together(
                places,
                lambda place, make: (
                    make((place == owner and storage) or MemoryStorage(), options),
                    made(),
                ),
            )
            self.broker, self.server = Engines(together), together
        self.port = port
        self.failure: BaseException | None = None
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.server.run(self.broker, "127.0.0.1", self.port, self._listening)
        except BaseException as error:  # noqa: BLE001 - kept, and raised where somebody looks
            self.failure = error
        finally:
            self._ready.set()

    def _listening(self, _host: str, port: int) -> None:
        self.port = port
        self._ready.set()

    def __enter__(self) -> Self:
        self.thread.start()
        require(self._ready.wait(PATIENCE), "run() did not call ready")
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        self.thread.join(GRACE + PATIENCE)
        if error is None:
            require(not self.thread.is_alive(), "run() did not return after stop() and the grace")
            require(self.failure is None, f"run() raised {self.failure!r}")


class Client:
    """A blocking client over the sans-I/O connection. A context manager.

    Args:
        broker: Which to connect to.
        greet: Whether to do the handshake.
        receive_buffer: Of the socket, bytes; the system's if not given.
        send_buffer: Likewise.
    """

    def __init__(
        self, broker: Running, *, greet: bool = True, receive_buffer: int = 0, send_buffer: int = 0
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", broker.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = Connection(Role.CLIENT)
        self.closed = False
        self._frames: list[Frame] = []
        if greet:
            self.connection.send_hello("conformance")
            self.flush()
            self.expect(Opcode.WELCOME)

    # ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def output(self) -> bytes:
        """What the connection has to say, instead of sending it."""
        return b"".join(self.connection.take_output())

    def flush(self) -> None:
        """Sends it."""
        self.sock.sendall(self.output())

    def send(self, data: Buffer) -> None:
        """Sends any bytes."""
        self.sock.sendall(data)

    def close(self) -> None:
        """Hangs up."""
        self.sock.close()

    def reset(self) -> None:
        """Hangs up the hard way: the broker's next read or write fails."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    # ── frames ────────────────────────────────────────────────────────────────────────────────────────────────────

    def frame(self, timeout: float | None = None) -> Frame | None:
        """The next frame; ``None`` when the broker hung up or nothing came in time (`closed` tells which)."""
        deadline = time.monotonic() + (PATIENCE if timeout is None else timeout)
        while not self._frames and not self.closed:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
            self._frames += self.connection.receive(data)
        return self._frames.pop(0) if self._frames else None

    def expect(self, opcode: Opcode, correlation: int | None = None) -> Frame:
        """The next frame, which must be this one."""
        frame = self.frame()
        if frame is None:
            raise Violation(
                f"{opcode.name} was due, the broker {'hung up' if self.closed else 'said nothing'}"
            )
        require(frame.opcode == opcode, f"{opcode.name} was due, {_shown(frame)} came")
        if correlation is not None:
            require(
                frame.correlation == correlation, f"an answer to {correlation} was due, {_shown(frame)} came"
            )
        return frame

    def expect_error(self, correlation: int = 0) -> control.Error:
        """The next frame, which must be an ERROR that answers ``correlation``."""
        return control.decode(self.expect(Opcode.ERROR, correlation).body, control.Error)

    def expect_silence(self, seconds: float = 0.05) -> None:
        """No frame may come."""
        frame = self.frame(seconds)
        require(frame is None, f"nothing was due, {_shown(frame) if frame else ''} came")
        require(not self.closed, "the broker hung up where it should have gone on")

    def expect_end(self) -> None:
        """The broker must hang up, after whatever it still says."""
        deadline = time.monotonic() + PATIENCE
        while not self.closed:
            self.frame(0.1)
            require(time.monotonic() < deadline, "the broker did not hang up")

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, topic: str = TOPIC, channel: int = 1) -> None:
        """OPEN and its answer."""
        self.connection.send_control(Opcode.OPEN, control.Open(topic), 1, channel)
        self.flush()
        self.expect(Opcode.OPEN, 1)

    def publish(self, batch: Buffer, correlation: int, channel: int = 1) -> None:
        """PUBLISH, without waiting for the ack."""
        self.connection.send(Opcode.PUBLISH, batch, correlation, channel)
        self.flush()

    def subscribe(
        self,
        topic: str = TOPIC,
        *,
        messages: int = 1 << 20,
        size: int = 1 << 30,
        start: int = EARLIEST,
        channel: int = 7,
    ) -> int:
        """SUBSCRIBE and its answers; returns how many partitions were assigned."""
        body = control.Subscribe(topic, start=start, messages=messages, bytes=size)
        self.connection.send_control(Opcode.SUBSCRIBE, body, 2, channel)
        self.flush()
        assigned = 0
        while not self.expect(Opcode.SUBSCRIBE).correlation:
            assigned += 1
        return assigned

    def deliveries(self, count: int) -> list[bytes]:
        """The bodies of DELIVER frames until they hold ``count`` records, as whole batches."""
        found: list[bytes] = []
        while count > 0:
            for batch in batches.split(self.expect(Opcode.DELIVER).body):
                found.append(bytes(batch.data))
                count -= batch.count
        require(count == 0, f"{-count} records more than were published arrived")
        return found

    def ping(self) -> None:
        """A round trip: the connection is alive and the broker goes on."""
        self.connection.send(Opcode.PING, b"", 99)
        self.flush()
        self.expect(Opcode.PONG, 99)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def batch_of(payload: bytes, count: int = 1, producer: int = 0) -> bytes:
    """A batch of ``count`` records with that payload."""
    length = len(payload)
    head = bytes((0x40 | length,)) if length < 24 else b"\x5a" + length.to_bytes(4, "big")
    record = b"\x84\x00\xf6\xf6" + head + payload
    return batches.build(
        record * count, count, codec=1, base_timestamp=1_700_000_000_000_000, producer=producer
    )


def eventually(condition: Callable[[], bool], complaint: str, seconds: float = 0.0) -> None:
    """Waits until the condition holds, `PATIENCE` if nothing else is said; then complains."""
    deadline = time.monotonic() + (seconds or PATIENCE)
    while not condition():
        require(time.monotonic() < deadline, complaint)
        time.sleep(0.002)


def settles(value: Callable[[], int]) -> None:
    """Waits until the value stays as it is for a moment."""
    last, quiet = value(), 0
    deadline = time.monotonic() + PATIENCE
    while quiet < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
        now = value()
        last, quiet = now, quiet + 1 if now == last else 0


def _shown(frame: Frame) -> str:
    try:
        name = Opcode(frame.opcode).name
    except ValueError:
        name = f"opcode {frame.opcode}"
    if frame.opcode == Opcode.ERROR:
        name += f" ({control.decode(frame.body, control.Error).message})"
    return f"{name} answering {frame.correlation}"
