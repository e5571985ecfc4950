"""A client's two sides: the session at its home, and its proxies where it has business.

A **home session** is the connection: handshake, permissions, limits and rates are asked and kept here, before a frame
is handed on. A **proxy** is what an owner sees of the client: a session without a connection, past its handshake, that
may do everything, because its home has asked. Its output goes home as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from portask.core.accounts import VISITOR
from portask.core.nothing import NOTHING
from portask.core.partitions import Partition
from portask.core.session import Channel, Session
from portask.multicore.purses import Purse
from portask.wire import control

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker
    from portask.multicore.links import Link, Message


class Attached(msgspec.Struct, array_like=True):
    """What a proxy has to know of its client.

    Attributes:
        peer: Its address.
        client: The name that it gave itself.
        max_frame: Largest body that it takes, bytes.
    """

    peer: str
    client: str
    max_frame: int


class RemoteChannel(Channel):
    """A channel that is open to a partition of another worker.

    Attributes:
        place: That worker.
        opening: The correlation id of the OPEN that is under way; 0 once it is open.
        awaited: The client asked for something that depends on the outcome.
    """

    __slots__ = ("awaited", "opening", "place")

    def __init__(self, session: Session, number: int, partition: Partition, place: int, opening: int) -> None:
        super().__init__(session, number, partition)
        self.place = place
        self.opening = opening
        self.awaited = False


class Route:
    """Where a subscription is, beside its home.

    Attributes:
        places: Other workers.
        reader: The only place that has something to read for it, and all its credit.
        purse: Its credit, if there are several of those.
    """

    __slots__ = ("places", "purse", "reader")

    def __init__(self, places: list[int], reader: int, purse: Purse | None) -> None:
        self.places = places
        self.reader = reader
        self.purse = purse


class HomeSession(Session):
    """A client that is connected here.

    Attributes:
        number: By which other workers know it.
        places: Where it has a proxy.
        routes: Its subscriptions that are elsewhere too, by channel.
        answer: What takes answers of several places that are one answer to the client; see `gathering`.
        paused_by: Places that have too much of it under way.
    """

    __slots__ = ("_congested", "answer", "number", "paused_by", "places", "routes")

    def __init__(
        self,
        broker: WorkerBroker,
        peer: str,
        offer: control.Welcome,
        now: int,
        certificate: tuple[str, ...],
    ) -> None:
        self._congested = False
        super().__init__(broker, peer, offer, now, certificate)
        self.number = 0
        self.places: dict[int, None] = NOTHING
        self.routes: dict[int, Route] = NOTHING
        self.answer: Callable[[int, Message], None] | None = None
        self.paused_by: frozenset[int] = frozenset()

    @property
    def congested(self) -> bool:
        """See `portask.contracts.Endpoint.congested`."""
        return self._congested

    @congested.setter
    def congested(self, value: bool) -> None:
        if value is not self._congested:
            self._congested = value
            cast("WorkerBroker", self._broker).homes.congestion_changed(self)


class Proxy(Session):
    """A client that is connected at another worker.

    Attributes:
        link: To its home.
        number: Its number there.
        deaf: Its client does not read what is written to it.
        told_paused: What its home knows of `paused`.
    """

    __slots__ = ("deaf", "link", "number", "told_paused")

    def __init__(
        self, broker: WorkerBroker, link: Link, number: int, attached: Attached, offer: control.Welcome
    ) -> None:
        super().__init__(broker, attached.peer, offer, broker.now)
        self.connection.resume(attached.client, attached.max_frame)
        self.standing = VISITOR
        self.link = link
        self.number = number
        self.deaf = self.told_paused = False
        self.told = True  # that the broker goes away is its home's to say
        self.logged = True  # as is why it was hung up on
