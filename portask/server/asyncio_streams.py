"""The reference server: asyncio streams, one task a connection. Written to be read."""

from __future__ import annotations

import asyncio
from typing import cast

from portask.server.driver import Driver, LoopServer

_READ = 256 * 1024


class StreamsServer(LoopServer):
    """One task a connection reads it and hands what came to the driver. See `LoopServer` for the options."""

    async def listen(self, driver: Driver, host: str, port: int) -> asyncio.Server:
        """Starts accepting."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = driver.connect(cast("asyncio.Transport", writer.transport))
            endpoint = link.endpoint
            try:
                while data := await reader.read(_READ):
                    endpoint.receive(data)
                    driver.arrived()
                    if writer.transport.get_write_buffer_size() > _READ:
                        endpoint.congested = True
                        await (
                            writer.drain()
                        )  # the peer does not read: neither do we read from it, until it does
                        driver.engine.uncongested(endpoint)
            except ConnectionError:
                pass  # the peer is gone; what it had open is given up below
            finally:
                driver.disconnect(link)
                writer.close()

        return await asyncio.start_server(serve, host, port, limit=_READ, backlog=self.backlog)
