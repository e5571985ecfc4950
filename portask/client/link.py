"""One connection to one broker: a transport, the sans-I/O `Connection`, and the requests that wait for answers.

A link lives from connecting to being lost and is never reused. Writes are gathered: whatever one iteration of
the event loop queues leaves in one call. While the transport's buffer is above its high-water mark nothing is
handed to it; what waits are references to batches that the channels keep for resending anyway, so waiting
costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from portask.client.options import GOODBYE, Address, Options
from portask.errors import NotConnected, OffsetOutOfRange, PortaskError, RequestTimeout, from_code
from portask.messages import Buffer
from portask.wire import control
from portask.wire.connection import Connection, Role, State
from portask.wire.frames import Frame, Opcode

_PIECE = 512 * 1024  # bytes handed to the transport at a time
_HIGH_WATER = 1024 * 1024
_SHORTEST = 0.01  # seconds between looks at the keepalive, whatever the broker wants
_MAX_CORRELATION = 0xFFFF_FFFF
_REPLY_OPCODES = frozenset(
    {
        Opcode.OPEN,
        Opcode.SUBSCRIBE,
        Opcode.UNSUBSCRIBE,
        Opcode.DELIVER,
        Opcode.DESCRIBE,
        Opcode.DROP_GROUP,
        Opcode.SEND,
        Opcode.PONG,
        Opcode.ERROR,
    }
)


def error_of(frame: Frame) -> PortaskError:
    """The exception that an ERROR frame carries."""
    body = control.decode(frame.body, control.Error)
    error = from_code(body.code, body.message)
    if isinstance(error, OffsetOutOfRange):
        error.first, error.next = body.first, body.next
    return error


class Link(asyncio.Protocol):
    """An asyncio protocol.

    Calls ``on_frame`` for what answers no request, ``on_draining`` when the broker is going away, and ``on_lost`` once
    when it is over.

    Attributes:
        address: Of the broker.
        connection: Protocol state; `Connection.welcome` says what was agreed.
        draining: The broker is going away: nothing new may be asked of it.
        lost: Why the link is over, once it is.
        welcomed: Done when the handshake is.
        over: Done when the transport is closed.
    """

    def __init__(
        self,
        address: Address,
        options: Options,
        *,
        on_frame: Callable[[Link, Frame], None],
        on_lost: Callable[[Link], None],
        on_draining: Callable[[Link], None],
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.address = address
        self.connection = Connection(Role.CLIENT, max_frame=options.max_frame)
        self.draining = False
        self.lost: PortaskError | None = None
        self.welcomed: asyncio.Future[control.Welcome] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self._options = options
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_draining = on_draining
        self._transport: asyncio.Transport | None = None
        self._backlog: list[Buffer] = []
        self._paused = False
        self._write_due = False
        self._correlation = 0
        self._requests: dict[int, tuple[asyncio.Future[Frame], asyncio.TimerHandle]] = {}
        self._heard = self._sent = loop.time()
        self._asked = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._cut: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether new publishes and requests may go out."""
        return self.lost is None and not self.draining and self.connection.state is State.OPEN

    @property
    def alive(self) -> bool:
        """Whether anything can still be sent: the rest of what is under way, when not `usable`."""
        return self.lost is None and self.connection.state is not State.CLOSED

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def next_correlation(self) -> int:
        """Increasing; wraps past 0, which means one-way, and past what still waits for an answer."""
        while True:
            self._correlation = self._correlation % _MAX_CORRELATION + 1
            if self._correlation not in self._requests:
                return self._correlation

    def request(
        self, opcode: int, body: Buffer, *, channel: int, timeout: float, about: str
    ) -> asyncio.Future[Frame]:
        """Sends a request; the future brings the frame that answers it. ``about`` names it in a timeout's text.

        Errors of the future: what the broker answered; `RequestTimeout`; `NotConnected` when the link is lost.
        """
        future: asyncio.Future[Frame] = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(NotConnected(f"the connection is lost: {self.lost}"))
            return future
        correlation = self.next_correlation()
        try:
            self.connection.send(opcode, body, correlation, channel)
        except PortaskError as error:
            future.set_exception(error)
            return future
        timer = self._loop.call_later(timeout, self._expire, correlation, about, timeout)
        self._requests[correlation] = (future, timer)
        self.write_soon()
        return future

    def send(self, opcode: int, body: Buffer = b"", correlation: int = 0, channel: int = 0) -> None:
        """Queues a frame; `write_soon` or `write` sends it."""
        self.connection.send(opcode, body, correlation, channel)

    def write_soon(self) -> None:
        """Writes at the end of this iteration of the loop, once for all that ask."""
        if not self._write_due:
            self._write_due = True
            self._loop.call_soon(self._write_queued)

    def _write_queued(self) -> None:
        self._write_due = False
        self.write()

    def write(self) -> None:
        """Hands what is queued to the transport, as far as its buffer has room."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        backlog = self._backlog
        backlog += self.connection.take_output()
        start = 0
        while start < len(backlog) and not self._paused:
            size, end = 0, start
            while end < len(backlog) and size < _PIECE:
                size += len(backlog[end])
                end += 1
            transport.writelines(backlog[start:end])
            start = end
        if start:
            del backlog[:start]
            self._sent = self._loop.time()

    # ── what asyncio calls ────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says HELLO."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.connection.send_hello(self._options.name, self._options.token)
        self.write()

    def data_received(self, data: bytes) -> None:
        """Parses, dispatches, writes what that led to."""
        self._heard = self._loop.time()
        connection = self.connection
        for frame in connection.receive(data):
            if frame.correlation and frame.opcode in _REPLY_OPCODES and self._answered(frame):
                continue
            if frame.opcode == Opcode.WELCOME:
                self._welcome()
                continue
            try:
                self._on_frame(self, frame)
            except PortaskError as fault:
                connection.fail(fault)
                break
        if connection.has_output:
            self.write()
        if connection.state is State.CLOSED:
            self.close()

    def _answered(self, frame: Frame) -> bool:
        entry = self._requests.pop(frame.correlation, None)
        if entry is None:
            return False
        future, timer = entry
        timer.cancel()
        if not future.done():
            if frame.opcode == Opcode.ERROR:
                try:
                    future.set_exception(error_of(frame))
                except PortaskError as fault:
                    future.set_exception(fault)
            else:
                future.set_result(frame)
        return True

    def _welcome(self) -> None:
        welcome = self.connection.welcome
        if welcome is not None and not self.welcomed.done():
            self.welcomed.set_result(welcome)
            self._keep_alive()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self.write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what waits for an answer and tells the owner."""
        for timer in (self._watch, self._cut):
            if timer is not None:
                timer.cancel()
        if self.lost is None:
            reason = self.connection.fault or exc or "the broker closed it"
            self.lost = NotConnected(f"the connection to {self.address} is lost: {reason}")
        requests, self._requests = self._requests, {}
        for future, timer in requests.values():
            timer.cancel()
            if not future.done():
                future.set_exception(NotConnected(str(self.lost)))
                future.exception()  # whoever asked may have gone: that is no error of its own
        self._backlog.clear()
        if not self.welcomed.done():
            self.welcomed.set_exception(self.connection.fault or self.lost)
            self.welcomed.exception()
        self.over.set_result(None)
        self._on_lost(self)

    def begin_draining(self) -> None:
        """The broker is going away: it takes nothing new. Tells the owner, once."""
        if not self.draining:
            self.draining = True
            self._on_draining(self)

    # ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Closes once what was handed to the transport is written, or in a few seconds if the peer does not read it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._cut = self._loop.call_later(GOODBYE, self._transport.abort)

    def abort(self, reason: PortaskError) -> None:
        """Ends it now; ``reason`` is what others learn."""
        if self.lost is None:
            self.lost = reason
        if self._transport is not None:
            self._transport.abort()

    def _expire(self, correlation: int, about: str, timeout: float) -> None:
        future, _ = self._requests.pop(correlation)
        if not future.done():
            future.set_exception(
                RequestTimeout(f"{self.address} did not answer {about} within {timeout:g} s")
            )

    def _keep_alive(self) -> None:
        """Asks a silent broker for a sign of life, and lets a broker that wants one hear from us."""
        wanted = self.connection.welcome.keepalive if self.connection.welcome else 0
        own = self._options.keepalive
        now = self._loop.time()
        if own and now - self._heard >= 2 * own:
            self.abort(
                NotConnected(
                    f"the connection to {self.address} is lost: nothing was heard for {now - self._heard:.3g} s"
                )
            )
            return
        silent = own and now - self._heard >= own and now - self._asked >= own
        mute = wanted and now - self._sent >= wanted / 3
        if (silent or mute) and self.alive:
            self._asked = now
            self.connection.send(Opcode.PING)
            self.write()
        period = min([interval for interval in (own / 2, wanted / 6) if interval], default=0)
        if period:
            self._watch = self._loop.call_later(max(period, _SHORTEST), self._keep_alive)
