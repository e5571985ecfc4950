"""A broker of several workers, each on a thread of this process; between them is what is between processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from portask.config import Settings
from portask.config.loading import load
from portask.contracts import Closeable, Multicore, Server
from portask.core.producers import ProducerTable
from portask.multicore import choosing
from portask.multicore.broker import WorkerBroker
from portask.multicore.links import Link
from portask.multicore.shared import Board, EventBell, make_board
from portask.multicore.supervisor import hold
from portask.reference.ring import DequeRing
from portask.server.build import build_as
from tests.conftest import DEFAULTS, RunningBroker, StartBroker


@contextmanager
def starting(places: int, **defaults: Any) -> Iterator[StartBroker]:
    """What `tests.conftest.start_broker` gives, for brokers of so many workers; ``defaults`` are for several only."""
    with ExitStack() as stack:

        def start(
            settings: dict[str, Any] | None = None, config: Path | None = None
        ) -> RunningBroker | RunningWorkers:
            settings = settings or {}
            if places == 1:
                broker: RunningBroker | RunningWorkers = RunningBroker(settings, config)
            else:
                broker = RunningWorkers(DEFAULTS | defaults | settings, config, places)
            stack.callback(broker.stop)
            return broker

        yield start  # type: ignore[misc]  # one is as good as the other, but for who looks inside


class RunningWorkers:
    """Like `tests.conftest.RunningBroker`.

    Attributes:
        engines: One a worker; look, do not touch: they live in other threads.
    """

    def __init__(self, settings: dict[str, Any], config: Path | None, places: int) -> None:
        loaded = load(config, {}, settings)
        choosing.choose(loaded, places)  # refuses what cannot be shared
        self._parts = choosing.divide(loaded, places)
        self.engines: list[WorkerBroker] = []
        self._servers: list[Server] = []
        self._threads: list[threading.Thread] = []
        self._bells: list[EventBell] = []
        self._ready = threading.Semaphore(0)
        self._failed: BaseException | None = None
        self._port = hold("127.0.0.1", settings.get("server.port", 0))
        self.host, self.port = self._port.getsockname()
        self.url = f"{'portasks' if loaded.tls.on else 'portask'}://{self.host}:{self.port}"
        try:
            self._start(loaded, places)
        except BaseException:
            self._failed = None
            self.stop()
            raise

    def _start(self, loaded: Settings, places: int) -> None:
        board = make_board()
        counts = Board(board)
        os.close(board)
        self._bells = [EventBell(os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(places)]
        for place in range(places):

            def make(*parts: Any, place: int = place) -> WorkerBroker:
                return WorkerBroker(
                    *parts, place=place, places=places, bell=self._bells[place], counts=counts
                )

            engine, server = build_as(make, choosing.part(loaded, place, places, self._parts))
            assert isinstance(server, Multicore)
            server.share(self._bells[place].fd)
            self.engines.append(engine)
            self._servers.append(server)
        for one in range(places):
            for other in range(one):
                there, back = DequeRing(), DequeRing()
                self.engines[one].link(Link(other, there, back, self._bells[other].ring))
                self.engines[other].link(Link(one, back, there, self._bells[one].ring))
        self._threads = [
            threading.Thread(target=self._run, args=(place,), daemon=True) for place in range(places)
        ]
        for thread in self._threads:
            thread.start()
        for _ in range(places):
            if not self._ready.acquire(timeout=10):
                raise RuntimeError("a worker did not listen within 10 s") from self._failed
        if self._failed is not None:
            raise self._failed

    @property
    def engine(self) -> Together:
        """What tests look at of a broker, all workers together."""
        return Together(self.engines)

    def _run(self, place: int) -> None:
        try:
            self._servers[place].run(
                self.engines[place], self.host, self.port, lambda _host, _port: self._ready.release()
            )
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the broker
            self._failed = error
            self._ready.release()

    def stop(self) -> None:
        """Drains and ends it. Idempotent."""
        for server in self._servers:
            server.stop()
        for thread in self._threads:
            thread.join(10)
            if thread.is_alive():
                raise RuntimeError("a worker did not end within 10 s")
        self._port.close()
        for bell in self._bells:
            if bell.fd >= 0:
                os.close(bell.fd)
                bell.fd = -1
        for engine in self.engines:
            if isinstance(engine.storage, Closeable):
                engine.storage.close()
        if self._parts is not None:
            self._parts.close()
        if self._failed is not None:
            raise self._failed


class Together:
    """The engines of all workers as one. Each attribute is made when it is looked at."""

    def __init__(self, engines: list[WorkerBroker]) -> None:
        self._engines = engines

    @property
    def topics(self) -> dict[str, Any]:
        """Each partition as its owner has it."""
        return {
            name: SimpleNamespace(
                partitions=[
                    self._engines[self._engines[0].owner(part.key)]
                    .topics[name]
                    .partitions[part.key.partition]
                    for part in topic.partitions
                ]
            )
            for name, topic in list(self._engines[0].topics.items())
        }

    @property
    def sessions(self) -> dict[Any, Any]:
        """Clients, each at its home."""
        return {
            session: value for engine in self._engines for session, value in list(engine.sessions.items())
        }

    @property
    def inboxes(self) -> list[object]:
        """As many as there are."""
        return [None] * sum(len(engine.inboxes) for engine in self._engines)

    @property
    def producers(self) -> Producers:
        """Of all."""
        return Producers([engine.producers for engine in self._engines])

    @property
    def storage(self) -> Any:
        """The first worker's. The others' are closed with the broker."""
        return self._engines[0].storage


class Producers:
    """Tables of all workers as one."""

    def __init__(self, tables: list[ProducerTable]) -> None:
        self.duplicates = sum(table.duplicates for table in tables)
        self._table = {key: value for table in tables for key, value in table._table.items()}

    def __len__(self) -> int:
        return len(self._table)
