"""asyncio transports and protocols: callbacks instead of a task a connection."""

from __future__ import annotations

import asyncio
from typing import cast

from portask.contracts import next_read
from portask.server.driver import Driver, Link, LoopServer

_LEAST, _READ = 8 * 1024, 256 * 1024


class _Protocol(asyncio.BufferedProtocol):
    """Its buffers are its own so that it says how much is read at once. One lives as long as frames look into it."""

    __slots__ = ("_buffer", "_driver", "_link", "_reads_on", "_room")

    def __init__(self, driver: Driver, *, reads_on: bool) -> None:
        self._driver = driver
        self._reads_on = reads_on
        self._link: Link | None = None
        self._room = _LEAST
        self._buffer = memoryview(b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a stream transport of asyncio or uvloop; the callback's type says less than what the loops pass
        self._link = self._driver.connect(cast("asyncio.Transport", transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = memoryview(bytearray(self._room))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data, self._buffer = self._buffer[:nbytes], memoryview(b"")
        link = self._link
        if link is not None:
            frames = link.endpoint.receive(data)
            self._driver.arrived()
            if self._reads_on and nbytes == self._room and link.reading:
                link.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._go_on)
            self._room = next_read(nbytes, frames, self._room, _LEAST, _READ)

    def _go_on(self) -> None:
        """The turn is over."""
        link = self._link
        if link is not None and link.reading and not link.transport.is_closing():
            link.transport.resume_reading()

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.endpoint.congested = True

    def resume_writing(self) -> None:
        if self._link is not None:
            self._driver.engine.uncongested(self._link.endpoint)
            self._driver.arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self._driver.disconnect(self._link)
            self._link = None


class ProtocolServer(LoopServer):
    """asyncio's selector loop with a protocol a connection. See `LoopServer` for the options."""

    reads_on = False
    """Whether the loop reads a connection again and again at once, as long as it fills its buffer."""

    async def listen(self, driver: Driver, host: str, port: int) -> asyncio.Server:
        """Starts accepting."""
        loop = asyncio.get_running_loop()

        def protocol() -> _Protocol:
            return _Protocol(driver, reads_on=self.reads_on)

        return await loop.create_server(protocol, host, port, **self.listening)
