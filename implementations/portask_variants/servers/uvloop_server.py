"""The asyncio-protocol server on uvloop, an event loop written in Cython over libuv."""

from __future__ import annotations

import asyncio

import uvloop

from portask_variants.servers.asyncio_protocol import ProtocolServer


class UvloopServer(ProtocolServer):
    """See `portask.server.driver.LoopServer` for the options."""

    reads_on = True  # libuv does, up to 32 times

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """A uvloop loop."""
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
