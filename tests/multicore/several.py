"""A broker of several workers in one thread: their rings are deques, and somebody says whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from portask.contracts import Storage
from portask.core.broker import Options
from portask.core.identities import Authenticator
from portask.core.session import Session
from portask.multicore.broker import WorkerBroker
from portask.multicore.links import Link
from portask.reference.ring import DequeRing
from portask.reference.storage import MemoryStorage
from portask.server.dead_letters import rewrite
from portask.wire.frames import DEFAULT_LIMIT, Opcode
from tests.core.talking import START, Client


class Bell:
    """Remembers that it rang."""

    def __init__(self) -> None:
        self.rang = False

    def heard(self) -> bool:
        rang, self.rang = self.rang, False
        return rang

    def ring(self) -> None:
        self.rang = True


class Counts:
    """Of all workers, in a list."""

    def __init__(self, places: int) -> None:
        self.each = [0] * places

    def set(self, place: int, count: int) -> None:
        self.each[place] = count

    def total(self) -> int:
        return sum(self.each)


class Worker:
    """One of them, as `tests.core.talking.Client` wants a desk."""

    def __init__(self, several: Several, broker: WorkerBroker, bell: Bell) -> None:
        self.several = several
        self.broker = broker
        self.bell = bell
        self.woken = False
        self.clients: dict[Session, Client] = {}
        broker.wake = self._wake

    def _wake(self) -> None:
        self.woken = True

    @property
    def now(self) -> int:
        return self.several.now

    def turn(self, after: int = 1000) -> None:
        self.several.turn(after)

    def due(self) -> bool:
        due = self.broker.deadline()
        return self.bell.rang or self.woken or bool(self.broker.told) or (due is not None and due <= self.now)

    def take_turn(self) -> None:
        """What a server does around a turn; a receive buffer is destroyed after it."""
        clients = self.clients
        buffers = [client.sends() for client in clients.values()]
        self.woken = False
        for session in self.broker.turn(self.now):
            client = clients.get(session)
            if client is not None:
                client.reads()
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))


class Several:
    """Workers with links between all of them."""

    def __init__(
        self,
        places: int,
        options: Options | None = None,
        storage: Callable[[int], Storage] = lambda _: MemoryStorage(),
        authenticator: Authenticator | None = None,
        capacity: int = 1 << 20,
    ) -> None:
        self.now = START
        self.capacity = capacity
        counts = Counts(places)
        self.workers = []
        for place in range(places):
            bell = Bell()
            broker = WorkerBroker(
                storage(place),
                options,
                rewrite,
                authenticator,
                place=place,
                places=places,
                bell=bell,
                counts=counts,
            )
            self.workers.append(Worker(self, broker, bell))
        for one in range(places):
            for other in range(one):
                self.connect(one, other)
        self.settle()
        assert all(worker.broker.joined for worker in self.workers)

    def connect(self, one: int, other: int) -> None:
        """Makes the rings of a pair."""
        there, back = DequeRing(self.capacity), DequeRing(self.capacity)
        first, second = self.workers[one], self.workers[other]
        first.broker.link(Link(other, there, back, second.bell.ring))
        second.broker.link(Link(one, back, there, first.bell.ring))

    def client(
        self,
        place: int,
        *,
        greet: bool = True,
        max_frame: int = DEFAULT_LIMIT,
        token: str | None = None,
        peer: str = "test:1",
    ) -> Client:
        """A new connection at a worker, past its handshake unless told otherwise."""
        client = Client(self.workers[place], max_frame, peer)  # type: ignore[arg-type]  # as good as a desk
        self.workers[place].clients[client.session] = client
        if greet:
            client.connection.send_hello("test", token)
            self.turn()
            assert client.take(Opcode.WELCOME)
        return client

    def turn(self, after: int = 1000, order: Sequence[int] | None = None) -> None:
        """Turns of all, until none is due."""
        self.now += after
        for place in order if order is not None else range(len(self.workers)):
            self.workers[place].take_turn()
        self.settle()

    def settle(self) -> None:
        """Turns until nobody wants one."""
        for _ in range(10_000):
            due = [worker for worker in self.workers if worker.due()]
            if not due:
                return
            for worker in due:
                worker.take_turn()
        raise AssertionError("the workers ask for turns without end")
