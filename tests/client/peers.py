"""What a client may find at the other end of its connection: a relay that can be cut, and brokers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from portask.wire import control
from portask.wire.connection import Connection, Role
from portask.wire.frames import REPLY, VERSION, Frame, Opcode


class Proxy:
    """A TCP relay in the test's own loop that can be cut, frozen, and made to forget what one side said.

    Attributes:
        url: For clients.
        accepted: Connections so far.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.mute_broker = False
        self.refusing = False
        self.accepted = 0
        self.from_broker = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"portask://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Resets every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def freeze(self) -> None:
        """Nothing passes, nothing is closed."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Goes on."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        for source, sink, from_broker in ((reader, back, False), (there, writer, True)):
            task = asyncio.create_task(self._relay(source, sink, from_broker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, from_broker: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                if from_broker:
                    self.from_broker += len(data)
                    if self.mute_broker:
                        continue
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # cut: that is what this is for
        finally:
            sink.close()


Handler = Callable[["Peer", Frame], None]


class Peer:
    """One connection at a scripted broker."""

    def __init__(self, writer: asyncio.StreamWriter, max_frame: int) -> None:
        offer = control.Welcome(VERSION, max_frame, "scripted", "memory")
        self.connection = Connection(Role.BROKER, offer)
        self.writer = writer

    def reply(self, frame: Frame, opcode: int, body: bytes = b"") -> None:
        """Answers a request."""
        self.connection.send(opcode, body, frame.correlation, frame.channel, REPLY)

    def refuse(self, frame: Frame, code: str, text: str = "refused by the script") -> None:
        """Answers a request with ERROR."""
        body = control.encode(control.Error(code, text))
        self.connection.send(Opcode.ERROR, body, frame.correlation, frame.channel)

    def flush(self) -> None:
        """Writes what is queued."""
        self.writer.write(b"".join(self.connection.take_output()))


class ScriptedBroker:
    """A broker of the real protocol whose answers a test decides, opcode by opcode.

    Attributes:
        url: For clients.
        seen: Every frame that came, bodies copied.
        peers: One a connection, oldest first.
        max_frame: What the next connection is offered.
    """

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self.handlers: dict[int, Handler] = {
            Opcode.OPEN: opened,
            Opcode.DRAIN: goodbye,
            Opcode.UNSUBSCRIBE: unsubscribed,
        } | handlers
        self.seen: list[Frame] = []
        self.peers: list[Peer] = []
        self.max_frame = 1 << 20
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"portask://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def of(self, opcode: int) -> list[Frame]:
        """The frames of one kind that came."""
        return [frame for frame in self.seen if frame.opcode == opcode]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(writer, self.max_frame)
        self.peers.append(peer)
        try:
            while data := await reader.read(65536):
                for frame in peer.connection.receive(data):
                    self.seen.append(
                        Frame(
                            frame.opcode, frame.flags, frame.correlation, frame.channel,
                            memoryview(bytes(frame.body)),
                        )
                    )  # fmt: skip
                    handler = self.handlers.get(frame.opcode)
                    if handler is not None:
                        handler(peer, frame)
                peer.flush()
        except ConnectionError:
            pass  # the client hung up
        finally:
            writer.close()


def opened(peer: Peer, frame: Frame) -> None:
    """OPEN: one partition."""
    body = control.decode(frame.body, control.Open)
    peer.reply(frame, Opcode.OPEN, control.encode(control.Open(body.topic, body.partition, 1)))


def goodbye(peer: Peer, frame: Frame) -> None:
    """DRAIN: the same in return."""
    peer.reply(frame, Opcode.DRAIN)


def unsubscribed(peer: Peer, frame: Frame) -> None:
    """UNSUBSCRIBE: done."""
    peer.reply(frame, Opcode.UNSUBSCRIBE)


def subscribed(peer: Peer, frame: Frame) -> None:
    """SUBSCRIBE: one partition of topic ``t``, on the first delivery channel, from offset 0."""
    first = control.encode(control.Assigned("t", 0, control.DELIVERY_CHANNELS, 0))
    peer.connection.send(Opcode.SUBSCRIBE, first, 0, frame.channel, REPLY)
    peer.reply(frame, Opcode.SUBSCRIBE, control.encode(control.Assigned("", 0, 0, 0)))


@asynccontextmanager
async def raw_listener(first_words: bytes = b"") -> AsyncIterator[str]:
    """The URL of something that accepts, says ``first_words``, and then nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(first_words)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"portask://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
