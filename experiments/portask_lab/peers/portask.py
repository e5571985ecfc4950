"""Portask itself through its asyncio client, driven exactly as its peers are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from portask.client import connect
from portask_lab.loadgen import broker
from portask_lab.loadgen.processes import Child
from portask_lab.peers import Deliver

if TYPE_CHECKING:
    from portask.client import Client, Subscription

_TOPIC = "lab"


class Portask:
    """A broker with one server variant; client to client, with the codec and compression that the broker recommends.

    Args:
        variant: The server.
        parts: Family → variant of the broker's other parts; the reference by default.
    """

    batch = 10_000
    note = ""

    def __init__(self, variant: str, parts: Mapping[str, str] | None = None) -> None:
        self._variant = variant
        self._parts = parts
        self._publisher: Client | None = None
        self._subscriber: Client | None = None
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> Child:
        """See `Product.start`."""
        return broker.start(self._variant, parts=self._parts, limits=broker.FLOW)

    async def connect(self, port: int, deliver: Deliver) -> None:
        """See `Product.connect`."""
        url = f"portask://127.0.0.1:{port}"
        self._publisher = await connect(url, reconnect=False)
        self._subscriber = await connect(url, reconnect=False)
        await self._publisher.create_topic(_TOPIC, 1)
        subscription = self._subscriber.subscribe(_TOPIC)
        await subscription
        self._reading = asyncio.create_task(self._read(subscription, deliver))

    async def _read(self, subscription: Subscription, deliver: Deliver) -> None:
        async for batch in subscription.batches():
            deliver([message.payload for message in batch.messages])

    async def send(self, payloads: Sequence[bytes]) -> None:
        """See `Product.send`. Many at once are acknowledged before it returns; single ones later."""
        assert self._publisher is not None  # noqa: S101 - for the type checker
        if len(payloads) > 1000:
            await self._publisher.publish_many(_TOPIC, payloads)
        else:
            publish = self._publisher.publish_nowait
            for payload in payloads:
                publish(_TOPIC, payload)

    async def close(self) -> None:
        """See `Product.close`."""
        if self._publisher is not None:
            await self._publisher.close()
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        if self._subscriber is not None:
            await self._subscriber.close()
