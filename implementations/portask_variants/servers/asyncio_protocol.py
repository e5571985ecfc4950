"""asyncio transports and protocols: callbacks instead of a task a connection."""

from __future__ import annotations

import asyncio
from typing import cast

from portask.server.driver import Driver, Link, LoopServer


class _Protocol(asyncio.Protocol):
    __slots__ = ("_driver", "_link")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._link: Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a stream transport of asyncio or uvloop; the callback's type says less than what the loops pass
        self._link = self._driver.connect(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        link = self._link
        if link is not None:
            link.endpoint.receive(data)
            self._driver.arrived()

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
