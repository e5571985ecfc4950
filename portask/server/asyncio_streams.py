"""The reference server: asyncio streams, one task a connection. Written to be read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from portask.contracts import Endpoint, next_read
from portask.server.driver import Driver, Link, LoopServer

# Others wait for what is read at once, and a stream copies it twice: a quarter of what the other servers read.
_LEAST, _READ = 8 * 1024, 64 * 1024
_HIGH = 256 * 1024


class _StreamLink(Link):
    """Notices when the peer does not read what is written to it, and when it does again.

    The reading task cannot: a subscriber may never send another byte. That task is paused by having it wait: a
    stream pauses and resumes its transport as it likes, and would undo what others did to it.
    """

    __slots__ = ("_driver", "_end", "_goes_on", "_relief", "_writer")

    def __init__(self, driver: Driver, writer: asyncio.StreamWriter, endpoint: Endpoint) -> None:
        super().__init__(endpoint, cast("asyncio.Transport", writer.transport))
        self._driver = driver
        self._writer = writer
        self._relief: asyncio.Task[None] | None = None
        # Both are made when it is paused for the first time: most never are.
        self._goes_on: asyncio.Event | None = None
        self._end: asyncio.Task[None] | None = None

    def read_on(self) -> None:
        """Has the reading task wait, or go on."""
        if self._goes_on is None:
            self._goes_on = asyncio.Event()
            self._end = asyncio.get_running_loop().create_task(self._ended(self._goes_on))
        if self.reading:
            self._goes_on.set()
        else:
            self._goes_on.clear()

    async def _ended(self, goes_on: asyncio.Event) -> None:
        """Nobody may ever say that a connection goes on which is gone."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        goes_on.set()

    async def resumed(self) -> None:
        """Returns when it is to be read again, or is gone."""
        while self._goes_on is not None and not (self.reading or self.transport.is_closing()):
            await self._goes_on.wait()

    def depart(self) -> None:
        """Writes what the turn left; too much of it unsent makes the endpoint congested."""
        super().depart()
        if self._relief is None and self.transport.get_write_buffer_size() > _HIGH:
            self.endpoint.congested = True
            self._relief = asyncio.get_running_loop().create_task(self._relieve())

    async def _relieve(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # the reading task sees it too, and gives up what the connection had open
        self._relief = None
        self._driver.engine.uncongested(self.endpoint)
        self._driver.arrived()


class StreamsServer(LoopServer):
    """One task a connection reads it and hands what came to the driver. See `LoopServer` for the options."""

    async def listen(self, driver: Driver, host: str, port: int) -> asyncio.Server:
        """Starts accepting."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            transport = cast("asyncio.Transport", writer.transport)
            made = driver.connect(transport, lambda endpoint, _: _StreamLink(driver, writer, endpoint))
            link = cast("_StreamLink", made)
            room = _LEAST
            try:
                while data := await reader.read(_READ):
                    rest = memoryview(data)
                    while rest:
                        if not link.reading:
                            await link.resumed()
                        piece, rest = rest[:room], rest[room:]
                        frames = link.endpoint.receive(piece)
                        driver.arrived()
                        room = next_read(len(piece), frames, room, _LEAST, _READ)
                        if rest or len(data) == _READ or reader.at_eof():
                            # a turn: for the others, as reading does not wait where more is there already, and before
                            # it is hung up on
                            await asyncio.sleep(0)
            except ConnectionError:
                pass  # the peer is gone; what it had open is given up below
            finally:
                driver.disconnect(link)
                writer.close()

        return await asyncio.start_server(serve, host, port, limit=_READ, **self.listening)
