"""The way to a server or a cluster, on redis-py: pipelines over a bounded number of connections, one attempt each.

Trying again is the callers' affair (`lanes`), who know what may be repeated: redis-py's own retries are off. RESP2,
because Dragonfly answers XREAD in a shape of its own under RESP3. Blocking reads have connections of their own.

Nothing of redis-py's is ever cancelled, but at the very end: it puts a connection whose handshake was cancelled back
into its pool, with replies in it that nobody read, and the next one who uses it gets them for its own. An attempt whose
time is over ends with its connection (`Wire`), or is left alone until the socket's time is over (`Attempts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import redis.asyncio as redis_py
from hiredis import pack_command
from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from portask_variants.storage.redis_streams.failures import is_moving
from portask_variants.storage.redis_streams.options import Login, Place

Command = tuple[Any, ...]
"""A command's words: text, bytes or integers."""

BLOCK_MS = 2000
"""How long a blocking read waits in the server: finite, so that neither side keeps a dead connection."""
_PATIENCE = 60.0
"""Seconds for a blocking read; the socket's own time ends it long before."""
_RAW = ("XRANGE", "XREVRANGE", "XREAD", "INFO", "HGETALL")
"""Replies that are taken as they came: redis-py would turn them into dictionaries."""


class Counters:
    """What happened on a link since it was made.

    Attributes:
        connections: Most that pipelines use at a time.
        in_use: Now.
        peak: The most that there were.
        waits: How often all were in use.
        pipelines: Sent.
        commands: In them.
        failures: Pipelines that did not come back.
    """

    __slots__ = ("commands", "connections", "failures", "in_use", "peak", "pipelines", "waits")

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.in_use = self.peak = self.waits = self.pipelines = self.commands = self.failures = 0

    def snapshot(self) -> dict[str, int]:
        """All of them, by name."""
        return {
            f"pool_{name}" if name in {"connections", "in_use", "peak", "waits"} else name: getattr(
                self, name
            )
            for name in self.__slots__
        }


class Link(Protocol):
    """What lanes need of a server or a cluster."""

    counters: Counters

    def lane(self, key: bytes) -> str:
        """The node that has the key, as its name: work for one waits for no other."""
        ...

    async def run(
        self, lane: str, commands: Sequence[Command], within: float, after: Command = ()
    ) -> list[Any]:
        """A pipeline to one node: a reply or an exception for each command.

        Args:
            lane: Of all the keys in it.
            commands: At least one.
            within: Seconds that it may take, if those of an attempt are more.
            after: One without a key that follows them on the same connection (WAIT); its reply is the last one.

        Raises:
            Exception: redis-py's; nothing is known of any of the commands.
        """
        ...

    async def everywhere(self, *command: Any) -> dict[str, Any]:
        """A command to every primary; node → reply or exception."""
        ...

    async def block(self, command: Command) -> Any:
        """A command that waits in the server for up to `BLOCK_MS`, on a connection of its own."""
        ...

    async def close(self) -> None:
        """Disconnects."""
        ...


def _arguments(login: Login, attempt: float, *, tls: bool) -> dict[str, Any]:
    return {
        **login.arguments(tls=tls),
        "protocol": 2,
        "client_name": "portask",
        "socket_timeout": attempt,
        "socket_connect_timeout": attempt,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }


def _patient(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments | {"socket_timeout": arguments["socket_timeout"] + BLOCK_MS / 1000}


def _taken_raw(client: Any) -> Any:
    for name in _RAW:
        client.set_response_callback(name, lambda reply, **_: reply)
    return client


class _Turn:
    """A place among the connections, counted."""

    def __init__(self, free: asyncio.Semaphore, counters: Counters) -> None:
        self._free = free
        self._counters = counters

    async def __aenter__(self) -> None:
        counters = self._counters
        counters.waits += self._free.locked()
        await self._free.acquire()
        counters.in_use += 1
        counters.peak = max(counters.peak, counters.in_use)

    async def __aexit__(self, *_: object) -> None:
        self._counters.in_use -= 1
        self._free.release()


class Attempts:
    """Attempts that may be left alone."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def bounded(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """What ``work`` returns.

        Raises:
            TimeoutError: it took longer; it goes on.
            Exception: what it raised.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody else needs to hear of it

    async def end(self) -> None:
        """Cancels what is under way: its connections are about to be closed."""
        while self._under_way:  # again and again: redis-py loses a cancellation now and then
            for task in self._under_way:
                task.cancel()
            await asyncio.wait(self._under_way, timeout=0.1)


class Wire:
    """One connection of redis-py's, driven by hand: its commands and replies are a third of what its pipelines cost.

    Its socket has no time of its own, which would cost more a reply than all the rest: `run` ends the connection when
    its time is over.
    """

    def __init__(self, connection: Any, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters
        self._late = False

    async def run(self, commands: Sequence[Command], within: float) -> list[Any]:
        """Sends all of them; a reply or a ``ResponseError`` for each.

        Raises:
            TimeoutError: they did not all come within so many seconds.
            Exception: redis-py's. Both ways the connection is gone, and nothing is known of any of the commands.
        """
        connection = self._connection
        if not connection.is_connected:  # else it would be made anew, without what a transaction watches
            raise exceptions.ConnectionError("the connection was closed")
        counters = self._counters
        counters.pipelines += 1
        counters.commands += len(commands)
        replies: list[Any] = []
        read = connection.read_response
        timer = asyncio.get_running_loop().call_later(within, self._give_up)
        try:
            packed = b"".join(map(pack_command, commands))
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    replies.append(await read())
                except exceptions.ResponseError as error:
                    replies.append(error)
        except BaseException:
            counters.failures += 1
            await self.close()
            if self._late:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        return replies

    def _give_up(self) -> None:
        self._late = True
        self._connection._writer.transport.abort()  # noqa: SLF001 - what waits for a reply wakes, and sees it closed

    async def close(self) -> None:
        """Disconnects; a `run` that is under way fails."""
        writer = self._connection._writer  # noqa: SLF001 - nothing public ends a TLS connection that does not answer
        await self._connection.disconnect(nowait=True)
        if writer is not None:
            writer.transport.abort()


class ServerLink(Attempts):
    """One server.

    Args:
        place: Where.
        login: As whom.
        connections: Most for pipelines; blocking reads and transactions have their own.
        attempt: Seconds that one attempt may take.
    """

    def __init__(self, place: Place, login: Login, *, connections: int, attempt: float) -> None:
        super().__init__()
        self.counters = Counters(connections)
        self._name = str(place)
        self._attempt = attempt
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Wire] = []
        arguments = _arguments(login, attempt, tls=place.tls) | {"db": place.database}
        if place.path:
            arguments["unix_socket_path"] = place.path
        else:
            arguments |= {"host": place.host, "port": place.port}
        self._client = redis_py.Redis(**arguments)
        self._blocking = _taken_raw(redis_py.Redis(**_patient(arguments), max_connections=2))

    def lane(self, key: bytes) -> str:
        """See `Link.lane`."""
        return self._name

    async def run(
        self, lane: str, commands: Sequence[Command], within: float, after: Command = ()
    ) -> list[Any]:
        """See `Link.run`."""
        async with _Turn(self._free, self.counters):
            wire = self._idle.pop() if self._idle else await self.wire()
            replies = await wire.run([*commands, after] if after else commands, min(within, self._attempt))
            self._idle.append(wire)
            return replies

    async def wire(self) -> Wire:
        """A connection for its own, which the caller closes."""
        pool: Any = self._client.connection_pool
        connection = pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        connection.socket_timeout = None
        return Wire(connection, self.counters)

    async def everywhere(self, *command: Any) -> dict[str, Any]:
        """See `Link.everywhere`."""
        return {self._name: (await self.run(self._name, [command], self._attempt))[0]}

    async def block(self, command: Command) -> Any:
        """See `Link.block`."""
        return await self.bounded(self._blocking.execute_command(*command), _PATIENCE)

    async def close(self) -> None:
        """See `Link.close`."""
        await self.end()
        while self._idle:
            await self._idle.pop().close()
        await self._client.aclose()
        await self._blocking.aclose()


class ClusterLink(Attempts):
    """A cluster: a lane for each primary.

    Args:
        places: Some of its nodes; the others are found.
        login: As whom, everywhere.
        connections: Most for pipelines, a node; blocking reads have their own.
        attempt: Seconds that one attempt may take.
    """

    def __init__(self, places: Sequence[Place], login: Login, *, connections: int, attempt: float) -> None:
        super().__init__()
        self.counters = Counters(connections)
        self._attempt = attempt
        self._connections = connections
        self._free: dict[str, asyncio.Semaphore] = {}
        self._stale = False
        arguments = _arguments(login, attempt, tls=places[0].tls) | {"require_full_coverage": False}
        self._cluster = self._made(places, arguments, connections)
        self._blocking = self._made(places, _patient(arguments), 2)

    @staticmethod
    def _made(places: Sequence[Place], arguments: dict[str, Any], connections: int) -> Any:
        nodes = [ClusterNode(place.host, place.port) for place in places]
        return _taken_raw(
            redis_py.RedisCluster(startup_nodes=nodes, max_connections=connections, **arguments)
        )

    def lane(self, key: bytes) -> str:
        """See `Link.lane`. Before the map was read, and where it has a hole, everything is one lane."""
        try:
            return str(self._cluster.get_node_from_key(key).name)
        except (exceptions.RedisClusterException, AttributeError):
            return ""

    async def run(
        self, lane: str, commands: Sequence[Command], within: float, after: Command = ()
    ) -> list[Any]:
        """See `Link.run`. Follows redirections, but where ``after`` would not be sent along: then they are failures."""
        try:
            replies: list[Any] = await self.bounded(
                self._run(lane, commands, after), min(within, self._attempt)
            )
        except Exception:
            self.counters.failures += 1
            self._stale = True
            raise
        self._stale |= any(isinstance(reply, Exception) and is_moving(reply) for reply in replies)
        return replies

    async def _run(self, lane: str, commands: Sequence[Command], after: Command) -> Any:
        free = self._free.setdefault(lane, asyncio.Semaphore(self._connections))
        async with _Turn(free, self.counters):
            self.counters.pipelines += 1
            self.counters.commands += len(commands)
            await self._read_map()
            pipeline = self._cluster.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            if after:
                node = self._cluster.get_node(node_name=lane)
                if node is None:
                    raise exceptions.ClusterDownError(
                        f"{lane or 'a node'} is not in the cluster's map any more"
                    )
                pipeline.execute_command(*after, target_nodes=node)
            return await pipeline.execute(raise_on_error=False, allow_redirections=not after)

    async def _read_map(self) -> None:
        """Reads the cluster's map: at first, and after something that may mean that it changed."""
        await self._cluster.initialize()
        if self._stale:
            self._stale = False
            await self._cluster.nodes_manager.initialize()

    async def everywhere(self, *command: Any) -> dict[str, Any]:
        """See `Link.everywhere`."""
        await self.bounded(self._read_map(), self._attempt)
        found: dict[str, Any] = {}
        for node in self._cluster.get_primaries():
            asked = self._cluster.execute_command(*command, target_nodes=node)
            try:
                found[node.name] = await self.bounded(asked, self._attempt)
            except Exception as error:  # noqa: BLE001 - of one node; the caller looks at each
                found[node.name] = error
        return found

    async def block(self, command: Command) -> Any:
        """See `Link.block`."""
        return await self.bounded(self._blocking.execute_command(*command), _PATIENCE)

    async def close(self) -> None:
        """See `Link.close`."""
        await self.end()
        await self._cluster.aclose()
        await self._blocking.aclose()
