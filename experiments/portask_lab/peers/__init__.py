"""Other products, as a user would pick them instead: started here, driven through their own Python clients.

A `Product` is a server and a way through it. The same open and closed loops (`portask_lab.loadgen.clients`)
drive all of them, Portask's own asyncio client included, with the same payloads, in one process and on one
event loop. Each sends as its users would: NATS and ZeroMQ message by message (their libraries gather), Valkey
in pipelines.

They do not promise the same. A publish through Portask is acknowledged and kept in a log; core NATS and
ZeroMQ acknowledge nothing and keep nothing; a Valkey stream keeps everything. The figures stand beside each
other, they are not judged or ranked.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Protocol

from portask.registry import Entry
from portask_lab.loadgen.processes import Child
from portask_lab.workloads import Yardstick

Deliver = Callable[[Sequence[bytes]], None]
"""Takes the payloads that arrived together, oldest first."""


class Product(Protocol):
    """A server, and a publisher and a subscriber to it: two connections, one event loop.

    Attributes:
        batch: Messages that a sender in a hurry hands over at a time.
        note: What a reader must know of how it is driven.
    """

    batch: int
    note: str

    def start(self) -> Child:
        """The server, in a process of its own, listening."""
        ...

    def connect(self, port: int, deliver: Deliver) -> Awaitable[None]:
        """Connects both, subscribed: every payload that is sent from now on goes to ``deliver``."""
        ...

    def send(self, payloads: Sequence[bytes]) -> Awaitable[None]:
        """Hands over payloads; returns when the library would have its user go on."""
        ...

    def close(self) -> Awaitable[None]:
        """Disconnects both."""
        ...


def binary(package: str, name: str) -> str | None:
    """Path of a program that a distribution (if one is named) brought, or that is on the path."""
    try:
        files = (distribution(package).files or []) if package else []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == name and path.exists():
            return str(path.resolve())
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _peer(name: str, target: str, summary: str, *needs: str, requires: str = "") -> Yardstick:
    module = f"portask_lab.peers.{target}"
    return Yardstick("peer", Entry("server", name, module, summary, needs, requires=requires))


PEERS = (
    _peer(
        "nats",
        "nats:Nats",
        "NATS core and nats-py",
        "nats=nats-py",
        requires="portask_lab.peers.nats:why_not",
    ),
    _peer(
        "valkey-streams",
        "valkey:ValkeyStreams",
        "Valkey streams and redis-py",
        "redis",
        "hiredis",
        requires="portask_lab.peers.valkey:why_not",
    ),
    _peer("zeromq", "zeromq:ZeroMq", "ZeroMQ through a forwarding device, pyzmq", "zmq=pyzmq"),
)
"""Their rows in the comparisons."""


def _store(name: str, target: str, summary: str, *needs: str, requires: str) -> Yardstick:
    entry = Entry("storage", name, f"portask_lab.peers.durable:{target}", summary, needs, requires=requires)
    return Yardstick("peer", entry)


_VALKEY = "portask_lab.peers.valkey:why_not"
_NATS = "portask_lab.peers.nats:why_not"
STORES = (
    _store(
        "valkey-aof-everysec",
        "ValkeyEverySecond",
        "Valkey streams, AOF synced every second",
        "redis",
        "hiredis",
        requires=_VALKEY,
    ),
    _store(
        "valkey-aof-always",
        "ValkeyAlways",
        "Valkey streams, AOF synced always",
        "redis",
        "hiredis",
        requires=_VALKEY,
    ),
    _store(
        "jetstream-file-2m",
        "JetStreamTwoMinutes",
        "JetStream files, synced every 2 min",
        "nats=nats-py",
        requires=_NATS,
    ),
    _store(
        "jetstream-file-always",
        "JetStreamAlways",
        "JetStream files, synced always",
        "nats=nats-py",
        requires=_NATS,
    ),
)
"""Rows beside the storages, each a server and a mode."""
