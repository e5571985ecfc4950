"""asyncio transports and protocols: callbacks instead of a task a connection."""

from __future__ import annotations

import asyncio
from typing import cast

from portask.contracts import next_read
from portask.server.driver import Driver, Link, LoopServer

_LEAST, _READ = 8 * 1024, 256 * 1024


class _Protocol(asyncio.BufferedProtocol):
    """Its buffers are its own so that it says how much is read at once. One lives as long as frames look into it."""

    __slots__ = ("_buffer", "_driver", "_link", "_room")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
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
            self._room = next_read(nbytes, frames, self._room, _LEAST, _READ)

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

    async def listen(self, driver: Driver, host: str, port: int) -> asyncio.Server:
        """Starts accepting."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Protocol(driver), host, port, **self.listening)
