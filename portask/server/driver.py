"""What every asyncio server shares: when to take a turn, what to write after it, how to stop.

Everything that arrives in one loop iteration becomes one turn: the first arrival schedules it, the others
find it scheduled. Writes happen once a connection at the end of the turn.
"""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from portask.contracts import Endpoint, Engine
from portask.messages import Buffer
from portask.server.tls import Tls, names_in

_JOIN_BELOW = 64 * 1024
_TLS_READ = 64 * 1024
"""Buffer of an encrypted connection on asyncio's own loop: four records. Each has one all its life."""
_ACCEPTS = 64
"""Connections that asyncio accepts in one pass: it takes as many as it is told to let wait."""
_SWEEP = 1.0
"""Seconds between looks at TLS handshakes."""


def clock() -> Callable[[], int]:
    """A clock in µs since the epoch that never goes back, whatever happens to the system's."""
    last = 0

    def now() -> int:
        nonlocal last
        last = max(last, time.time_ns() // 1000)
        return last

    return now


class Link:
    """One connection between a transport and its endpoint."""

    __slots__ = ("endpoint", "leaving", "reading", "transport")

    def __init__(self, endpoint: Endpoint, transport: asyncio.Transport) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.reading = True
        self.leaving = False

    def depart(self) -> None:
        """Writes what the turn left, and follows `paused` and `closing`."""
        endpoint = self.endpoint
        transport = self.transport
        out = endpoint.take_output()
        if out:
            write_all(transport, out)
        if endpoint.closing:
            transport.close()
        elif endpoint.paused is self.reading:
            self.reading = not endpoint.paused
            self.read_on()

    def read_on(self) -> None:
        """Does what `reading` says now."""
        if self.reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


def write_all(transport: asyncio.WriteTransport, out: list[Buffer]) -> None:
    """One write for all of ``out``. Small pieces are joined, which costs less than a vectored write of them."""
    if len(out) == 1:
        transport.write(out[0])
    elif sum(map(len, out)) < _JOIN_BELOW:
        transport.write(b"".join(out))
    else:
        transport.writelines(out)


class Driver:
    """Takes turns on an asyncio loop.

    Args:
        engine: Whose turns.
        loop: The running one.
        grace: Seconds that a client gets to read what is still due to it when it is hung up on.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        self.engine = engine
        self._grace = grace
        self.links: dict[Endpoint, Link] = {}
        self.now = clock()
        self._loop = loop
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        engine.wake = self._wake

    def connect(
        self, transport: asyncio.Transport, make: Callable[[Endpoint, asyncio.Transport], Link] = Link
    ) -> Link:
        """A link for a new connection. The engine may refuse it: then the next turn says so and closes."""
        peer = transport.get_extra_info("peername")
        name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)
        certificate = names_in(transport.get_extra_info("peercert"))
        endpoint = self.engine.connect(name, self.now(), certificate)
        link = self.links[endpoint] = make(endpoint, transport)
        self.arrived()
        return link

    def disconnect(self, link: Link) -> None:
        """The transport is gone."""
        self.links.pop(link.endpoint, None)
        self.engine.disconnect(link.endpoint)

    def arrived(self) -> None:
        """Something came: a turn follows once this loop iteration has read all there is."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _wake(self) -> None:
        # From any thread, also after the loop is gone: a storage may finish late.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.arrived)

    def _turn(self) -> None:
        self._scheduled = False
        links = self.links
        now = self.now()
        for endpoint in self.engine.turn(now):
            link = links.get(endpoint)
            if link is not None:
                link.depart()
                if endpoint.closing and not link.leaving and link.transport.get_write_buffer_size():
                    # a peer that does not read must not keep its connection
                    link.leaving = True
                    self._loop.call_later(self._grace, link.transport.abort)
        due = self.engine.deadline()
        if due is None:
            return
        if due <= now:
            self.arrived()
        elif self._timer is None or due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self._loop.call_later((due - now) / 1e6, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.arrived()

    async def shut_down(self) -> None:
        """Drains: tells every client, gives them the grace to finish and hang up, then closes what is left."""
        self.engine.drain(self.now())
        self.arrived()
        deadline = self._loop.time() + self._grace
        while self.links and self._loop.time() < deadline:  # noqa: ASYNC110 - once, at the end of a life
            await asyncio.sleep(0.01)
        for link in list(self.links.values()):
            link.transport.close()
        await asyncio.sleep(0)
        for link in list(self.links.values()):
            link.transport.abort()
        await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()


class LoopServer:
    """The life of a server on an asyncio loop; a variant says how it listens.

    Args:
        grace: Seconds that clients get to finish when the server stops, and to read the rest when they are
            hung up on.
        backlog: Connections that may wait to be accepted.
        tls: How to encrypt; not at all without it.
    """

    def __init__(self, grace: float = 5.0, backlog: int = 4096, tls: Tls | None = None) -> None:
        self.grace = grace
        self._tls = tls
        self._backlog = backlog
        self.listening: dict[str, Any] = {"backlog": min(backlog, _ACCEPTS)}
        if tls is not None:
            # 256 KiB by default, filled with zeros before anything came: 10,000 silent strangers would cost 2.6 GB
            SSLProtocol.max_size = _TLS_READ
            self.listening |= {
                "ssl": tls.context,
                "ssl_handshake_timeout": tls.handshake_timeout,
                "ssl_shutdown_timeout": max(grace, 0.1),
            }
        self._bell = -1
        self._stopping: Callable[[], None] | None = None
        self._stopped = False

    async def listen(self, driver: Driver, host: str, port: int) -> asyncio.Server:
        """Starts accepting, with the arguments in ``listening``; each connection gets a link of ``driver``."""
        raise NotImplementedError

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """See `portask.contracts.Server.run`."""
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(self._serve(engine, host, port, ready))

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop to run on."""
        return asyncio.new_event_loop()

    def share(self, bell: int) -> None:
        """See `portask.contracts.Multicore.share`."""
        self._bell = bell
        self.listening["reuse_port"] = True

    def stop(self) -> None:
        """See `portask.contracts.Server.stop`."""
        self._stopped = True
        if self._stopping is not None:
            self._stopping()

    async def _serve(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        driver = Driver(engine, loop, self.grace)
        sweeping = None
        if self._tls is not None:
            self._tls.connected = lambda: engine.connections
            sweeping = asyncio.create_task(_sweep(self._tls))
        server = await self.listen(driver, host, port)
        for each in server.sockets:
            with socket.fromfd(each.fileno(), each.family, each.type) as again:
                again.listen(self._backlog)  # how many may wait is the kernel's affair
        if self._bell >= 0:
            loop.add_reader(self._bell, driver.arrived)  # the turn that follows reads it

        def stopping() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)

        self._stopping = stopping
        if self._stopped:
            stop.set()
        try:
            ready(*server.sockets[0].getsockname()[:2])
            await stop.wait()
        finally:
            self._stopping = None
            server.close()
            await driver.shut_down()
            if self._bell >= 0:
                loop.remove_reader(self._bell)
            if sweeping is not None:
                sweeping.cancel()


async def _sweep(tls: Tls) -> None:
    """As long as the server lives."""
    while True:
        await asyncio.sleep(_SWEEP)
        tls.sweep()
