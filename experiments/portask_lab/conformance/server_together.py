"""A broker of several workers on threads of this process, to the outside one server with one engine.

Between the workers is what is between processes, but deques for shared memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from portask.contracts import Multicore, Server
from portask.multicore.broker import WorkerBroker
from portask.multicore.links import Link
from portask.multicore.shared import Board, EventBell, make_board
from portask.multicore.supervisor import hold
from portask.multicore.worker import pump
from portask.reference.ring import DequeRing
from portask_lab.conformance.suite import NotApplicable

Make = Callable[[int, Callable[..., WorkerBroker]], tuple[WorkerBroker, Server]]
"""``make(place, make_broker)``: a worker's engine, made by calling ``make_broker``, and its server."""


class Together:
    """Implements `portask.contracts.Server` for all of them.

    Args:
        places: How many workers.
        make: Makes each.

    Attributes:
        engines: One a worker; to look into, not to touch while they run.
    """

    def __init__(self, places: int, make: Make) -> None:
        self.engines: list[WorkerBroker] = []
        self._servers: list[Server] = []
        self._bells = [EventBell(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)) for _ in range(places)]
        self._listening = threading.Semaphore(0)
        self._empty = 0
        self._failures: list[BaseException] = []
        board = make_board()
        counts = Board(board)
        os.close(board)
        try:
            for place in range(places):
                self._make(make, place, places, counts)
        except BaseException:
            self.close()
            raise
        for one in range(places):
            for other in range(one):
                there, back = DequeRing(), DequeRing()
                self.engines[one].link(Link(other, there, back, self._bells[other].ring))
                self.engines[other].link(Link(one, back, there, self._bells[one].ring))

    def _make(self, make: Make, place: int, places: int, counts: Board) -> None:
        def make_broker(*parts: Any) -> WorkerBroker:
            return WorkerBroker(*parts, place=place, places=places, bell=self._bells[place], counts=counts)

        engine, server = make(place, make_broker)
        if not isinstance(server, Multicore):
            raise NotApplicable("the server does not say how it shares a port")
        server.share(self._bells[place].fd)
        self.engines.append(engine)
        self._servers.append(server)

    def run(self, _engine: object, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """See `portask.contracts.Server.run`. Its engines are its own."""
        try:
            with hold(host, port) as held:
                where = held.getsockname()[:2]
                threads = [
                    threading.Thread(target=self._work, args=(place, where), daemon=True)
                    for place in range(len(self.engines))
                ]
                for thread in threads:
                    thread.start()
                for _ in threads:
                    self._listening.acquire()
                if not self._failures and not self._empty:
                    ready(*where)
                for thread in threads:
                    thread.join()
        finally:
            self.close()
        if self._failures:
            raise self._failures[0]

    def _work(self, place: int, where: tuple[str, int]) -> None:
        """What a worker process does."""
        engine, server, bell = self.engines[place], self._servers[place], self._bells[place]
        engine.wake = bell.ring
        try:
            server.run(engine, *where, lambda _host, _port: self._listening.release())
            engine.wake = bell.ring
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._failures.append(error)
            self.stop()
        finally:
            self._empty += 1
            self._listening.release()  # one more than `run` waits for, if it did listen
        for each in self._bells:
            each.ring()
        pump(engine, bell.fd, lambda: self._empty == len(self.engines))  # others may have business here

    def stop(self) -> None:
        """See `portask.contracts.Server.stop`."""
        for server in self._servers:
            server.stop()

    def close(self) -> None:
        """Frees what was made; for one that never runs. Idempotent."""
        for bell in self._bells:
            if bell.fd >= 0:
                os.close(bell.fd)
                bell.fd = -1  # the number may be another's soon


class Engines:
    """What checks look at of a broker, of all workers together. Each attribute is made when it is looked at."""

    def __init__(self, together: Together) -> None:
        self._engines = together.engines

    @property
    def sessions(self) -> list[Any]:
        """Connections, each at its home."""
        return [session for engine in self._engines for session in list(engine.sessions)]

    def readers(self) -> list[Any]:
        """Connections, at their homes and where else they have business."""
        return [session for engine in self._engines for session in list(engine.readers())]

    @property
    def turns(self) -> int:
        """Taken by all."""
        return sum(engine.turns for engine in self._engines)

    @property
    def topics(self) -> dict[str, Any]:
        """By name."""
        return {name: _Topic(self._engines, name) for name in list(self._engines[0].topics)}

    def wake(self) -> None:
        """All of them."""
        for engine in self._engines:
            engine.wake()

    def __getattr__(self, name: str) -> Any:
        raise NotApplicable(f"it takes hold of a broker's {name}, and here are several")


class _Topic:
    def __init__(self, engines: list[WorkerBroker], name: str) -> None:
        self._engines = engines
        self._name = name

    @property
    def partitions(self) -> list[Any]:
        """Each as its owner has it."""
        return list(self._of_owners())

    def _of_owners(self) -> Iterator[Any]:
        for part in self._engines[0].topics[self._name].partitions:
            owner = self._engines[self._engines[0].owner(part.key)]
            yield owner.topics[self._name].partitions[part.key.partition]
