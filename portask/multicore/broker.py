"""`WorkerBroker`: a broker that is one of several processes, and with the others one broker to its clients.

A turn of it begins with what arrived from the others, and ends with what goes to them. Between the two it is the turn
of any broker, over its own clients and the proxies of others'.

**Topics** are known to all. A new one is made by its home, which tells everybody and answers once all know it: so
whoever was told of a topic finds it at every worker. **Groups** are made where their records are; that there is one,
and what its members agreed on, is told to all.

**A worker that is gone** takes along the connections that had business there: those clients connect again and send
again what was not acknowledged. What needs it waits until it is back (`wait_for`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Protocol, cast

import msgspec
import structlog

from portask.contracts import Appended, Storage
from portask.core import requests, subscribing
from portask.core.accounts import Account
from portask.core.broker import Broker, Options
from portask.core.dead_letters import Rewrite
from portask.core.groups import Settings as GroupSettings
from portask.core.identities import Authenticator
from portask.core.partitions import Partition, Subscription
from portask.core.session import Session
from portask.core.subscribing import Subscribed
from portask.errors import PortaskError, StorageUnavailable
from portask.messages import RecordBatch, TopicPartition
from portask.multicore.accounts import Accounts
from portask.multicore.credit import Credits
from portask.multicore.deliveries import WatchedDelivery, WatchedGroupDelivery
from portask.multicore.hearing import HEARD, Greeting
from portask.multicore.homes import Homes
from portask.multicore.links import Aside, Kind, Link
from portask.multicore.owners import home_of, owner_of
from portask.multicore.proxies import PROXY
from portask.multicore.routing import ROUTES
from portask.multicore.sessions import HomeSession, Proxy
from portask.multicore.topics import Topics
from portask.wire import control
from portask.wire.frames import Frame
from portask.wire.inboxes import PREFIX

log = structlog.get_logger("portask.broker")


class Bell(Protocol):
    """Wakes a worker."""

    def heard(self) -> bool:
        """Whether it rang since this was asked last."""
        ...

    def ring(self) -> None:
        """Rings it. From any thread."""
        ...


class Counts(Protocol):
    """How many clients each worker has, for all to see."""

    def set(self, place: int, count: int) -> None:
        """This worker has so many."""
        ...

    def total(self) -> int:
        """All together."""
        ...


class WorkerBroker(Broker):
    """One of ``places`` workers.

    Args:
        storage: Of its own partitions.
        options: The same at all workers.
        rewrite: As of `Broker`.
        authenticator: Likewise.
        place: Which one it is, from 0.
        places: How many there are.
        bell: Its own.
        counts: Of all.

    Attributes:
        links: To the others, as far as they are there, by place.
        homes: Its own clients, as far as they have business elsewhere.
        accounts: What identities have everywhere.
        credits: Parts of subscriptions' credit that lie here.
        told: What the process was told since the last turn, by its supervisor: functions to call.
    """

    delivery_type = WatchedDelivery
    group_delivery_type = WatchedGroupDelivery

    def __init__(
        self,
        storage: Storage,
        options: Options | None = None,
        rewrite: Rewrite | None = None,
        authenticator: Authenticator | None = None,
        *,
        place: int,
        places: int,
        bell: Bell,
        counts: Counts,
    ) -> None:
        self.place = place
        self.places = places
        self.bell = bell
        self._counts = counts
        self.links: dict[int, Link] = {}
        self.homes = Homes(self)
        self.accounts: Accounts = Accounts(self)
        self.told: deque[Callable[[], None]] = deque()
        self.shared_topics: Topics = Topics(self)
        self.groups_elsewhere: dict[int, dict[str, GroupSettings]] = {}
        self.appends: dict[int, tuple[int, Appended]] = {}
        self._last_append = 0
        self.leaving: list[Proxy] = []
        self.credits = Credits(self)
        super().__init__(storage, options, rewrite, authenticator)
        self.handle = cast("Callable[[Broker, Session, list[Frame]], None]", _handle)
        cast("WatchedDelivery", self.delivery).starving = self.credits.starving
        cast("WatchedGroupDelivery", self.groups.delivery).starving = self.credits.starving

    # ── what a server calls ───────────────────────────────────────────────────────────────────────────────

    def new_session(self, peer: str, now: int, certificate: tuple[str, ...]) -> Session:
        """See `Broker.new_session`."""
        return HomeSession(self, peer, self.offer, now, certificate)

    def connect(self, peer: str, now: int, certificate: tuple[str, ...] = ()) -> Session:
        """See `Broker.connect`."""
        session = super().connect(peer, now, certificate)
        self._counts.set(self.place, len(self.sessions))
        return session

    @property
    def connections(self) -> int:
        """See `Broker.connections`."""
        return self._counts.total()

    def disconnect(self, session: Session) -> None:
        """See `Broker.disconnect`."""
        super().disconnect(session)
        if not isinstance(session, HomeSession):
            return
        self._counts.set(self.place, len(self.sessions))
        self.homes.left(session)

    def turn(self, now: int) -> Sequence[Session]:
        """See `Broker.turn`."""
        self.now = max(self.now, now)
        while self.told:
            self.told.popleft()()
        if self.bell.heard():
            self._hear()
        self.homes.tell_congestion()
        departing = super().turn(now)
        while self.leaving:
            proxy = self.leaving.pop()
            self._drop(proxy.link, proxy)
        self.credits.settle()
        self.accounts.settle()
        leaving = []
        for session in departing:
            if type(session) is Proxy:
                if session.link.proxies.get(session.number) is session:
                    self._send_home(session)
            else:
                leaving.append(session)
        for link in self.links.values():
            link.flush()
            if not link.full and (link.stuffed or link.place in self.homes.waiting):
                self.relieve(link)
        return leaving

    def deadline(self) -> int | None:
        """See `Broker.deadline`."""
        due = super().deadline()
        if self.links and not self.sessions:  # proxies have timers, too
            return self._next_sweep if due is None else min(due, self._next_sweep)
        return due

    # ── what the supervisor says ──────────────────────────────────────────────────────────────────────────

    def link(self, link: Link) -> None:
        """There is a way to another worker. The first thing on it is what this one knows."""
        self.unlink(link.place)
        self.links[link.place] = link
        groups = {name: group.settings for name, group in self.groups.groups.items()}
        topics = {name: len(topic.partitions) for name, topic in self.topics.items()}
        self._tell(link, Kind.GREETING, Greeting(topics, groups))
        self.accounts.greet(link)
        self.bell.ring()  # the other may have been faster

    def unlink(self, place: int) -> None:
        """A worker is gone, and with it the clients that had business there."""
        link = self.links.pop(place, None)
        if link is None:
            return
        for proxy in list(link.proxies.values()):
            self._drop(link, proxy)
        self.homes.lost(place)
        self.accounts.gone(place)
        for token, (where, done) in list(self.appends.items()):
            if where == place:
                del self.appends[token]
                done(-1, StorageUnavailable("the worker that has the partition is gone"))
        self.shared_topics.gone(place)

    @property
    def joined(self) -> bool:
        """Whether all others are there and have said what they know."""
        return len(self.links) == self.places - 1 and all(link.greeted for link in self.links.values())

    # ── what is whose ─────────────────────────────────────────────────────────────────────────────────────

    def owner(self, key: TopicPartition) -> int:
        """The place that has a partition, or an inbox."""
        if key.topic.startswith(PREFIX):
            return home_of(key.topic, self.places)
        return owner_of(key.topic, key.partition, self.places)

    def owns(self, key: TopicPartition) -> bool:
        """See `Broker.owns`."""
        return self.owner(key) == self.place

    def others(self) -> list[int]:
        """All places but this one."""
        return [place for place in range(self.places) if place != self.place]

    def readers(self) -> Iterable[Session]:
        """See `Broker.readers`."""
        return chain(self.sessions, *(link.proxies.values() for link in self.links.values()))

    def declare(self, name: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        """See `Broker.declare`."""
        self.shared_topics.declare(name, partitions, done)

    def declare_here(
        self, name: str, partitions: int, done: Callable[[int, PortaskError | None], None]
    ) -> None:
        """As a broker of one process does."""
        super().declare(name, partitions, done)

    def account_changed(self, account: Account) -> None:
        """See `Broker.account_changed`."""
        self.accounts.changed(account)

    def address_failed(self, address: str) -> None:
        """See `Broker.address_failed`."""
        for link in self.links.values():
            self._tell(link, Kind.FAILED, address)
        if not self.in_turn:
            self.wake()

    def settings_elsewhere(self, group: str) -> GroupSettings | None:
        """See `Broker.settings_elsewhere`."""
        for known in self.groups_elsewhere.values():
            if group in known:
                return known[group]
        return None

    def group_is_here(self, group: str, settings: GroupSettings | None) -> None:
        """See `Broker.group_is_here`."""
        for link in self.links.values():
            self._tell(link, Kind.GROUP, (group, settings))

    def group_agreed(self, group: str, settings: GroupSettings) -> None:
        """See `Broker.group_agreed`."""
        for link in self.links.values():
            self._tell(link, Kind.AGREED, (group, settings))
        if not self.in_turn:
            self.wake()

    def append(self, partition: Partition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `Broker.append`."""
        place = self.owner(partition.key)
        if place == self.place:
            super().append(partition, batch, now, done)
            return
        link = self.links.get(place)
        if link is None or link.full:
            done(-1, StorageUnavailable("the worker that has the partition cannot take it now"))
            return
        self._last_append = (self._last_append + 1) & 0xFFFFFFFF
        self.appends[self._last_append] = (place, done)
        head = msgspec.msgpack.encode(partition.key)
        size = len(batch.data)
        # the length of the key, for the batch lies behind it
        link.send(Kind.APPEND, len(head), (head, batch.data), len(head) + size, correlation=self._last_append)

    # ── links ─────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, link: Link, kind: int, body: object, session: int = 0, correlation: int = 0) -> None:
        data = msgspec.msgpack.encode(body)
        link.send(kind, session, (data,), len(data), correlation=correlation)

    tell = _tell

    def _hear(self) -> None:
        """Takes in what arrived from the others."""
        for link in list(self.links.values()):
            link.flush()  # there may be room again
            if not link.full:
                self.relieve(link)
            for message in link.take():
                kind = message.kind
                if kind == Kind.FRAME:
                    proxy = link.proxies.get(message.session)
                    if proxy is not None:
                        _, opcode, flags, _, correlation, channel, body = message
                        proxy.queue([Frame(opcode, flags, correlation, channel, body)])
                elif kind == Kind.BACK:
                    client = self.homes.clients.get(message.session)
                    if client is not None:
                        self.homes.back(client, link, message)
                else:
                    HEARD[kind](self, link, message)
            if link.arrived:
                self.bell.ring()

    def relieve(self, link: Link) -> None:
        """There is room on a link: who waits for it goes on."""
        if link.stuffed:
            link.stuffed = False
            for proxy in link.proxies.values():
                if not proxy.deaf:
                    self.uncongested(proxy)
        if link.greeted:
            for session in self.homes.waiting.pop(link.place, ()):
                self.homes.resume(session)

    def _send_home(self, proxy: Proxy) -> None:
        """What a turn left for a proxy's client."""
        link = proxy.link
        output = proxy.output
        for opcode, flags, length, correlation, channel, parts in output:
            link.send(Kind.BACK, proxy.number, parts, length, opcode, flags, correlation, channel)
        output.clear()
        if proxy.paused is not proxy.told_paused and not proxy.closing:
            proxy.told_paused = proxy.paused
            link.send(Kind.BACK, proxy.number, opcode=Aside.PAUSE, flags=0 if proxy.paused else 1)
        if link.full and not link.stuffed:
            link.stuffed = True
            for each in link.proxies.values():
                each.congested = True

    def _drop(self, link: Link, proxy: Proxy) -> None:
        """The client is gone."""
        if link.proxies.get(proxy.number) is proxy:
            del link.proxies[proxy.number]
        self._let_go(proxy)
        proxy.closing = True
        if not proxy.gone:
            proxy.connection.hang_up()
        self.arrived.pop(proxy, None)
        self._dirty.pop(proxy, None)

    def subscribe(
        self, session: Session, number: int, body: control.Subscribe, flags: int, done: Subscribed
    ) -> None:
        """`portask.core.subscribing.subscribe`, for a part of a subscription. ``flags`` are those of `routing`."""

        def made(ack_wait: int, error: PortaskError | None) -> None:
            if error is None:
                self.credits.begin(session, number, flags)
            done(ack_wait, error)

        subscribing.subscribe(self, session, number, body, made)

    def grant(self, place: int, session: HomeSession, number: int, amounts: tuple[int, int, int]) -> None:
        """Gives a part of a subscription's credit to a place."""
        if place == self.place:
            self.credits.granted(session, number, amounts)
        else:
            self.homes.send_to(place, session, Aside.GRANT, msgspec.msgpack.encode(amounts), 0, number)

    def recall(self, place: int, session: HomeSession, number: int) -> None:
        """Asks a place to give back what it does not use."""
        if place == self.place:
            self.credits.recalled(session, number)
        else:
            self.homes.send_to(place, session, Aside.RECALL, b"", 0, number)

    def forget(self, subscription: Subscription) -> None:
        """See `Broker.forget`."""
        super().forget(subscription)
        self.credits.forget(subscription)


def _handle(broker: WorkerBroker, session: Session, frames: list[Frame]) -> None:
    """See `Broker.handle`."""
    if type(session) is Proxy:
        requests.handle(broker, session, frames, PROXY)
    elif session.waits:
        session.hold(frames)
    else:
        requests.handle(broker, session, frames, ROUTES)
