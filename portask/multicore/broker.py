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
from portask.core import requests
from portask.core.broker import Broker, Options
from portask.core.dead_letters import Rewrite
from portask.core.groups import Settings as GroupSettings
from portask.core.identities import Authenticator
from portask.core.partitions import Partition, Subscription
from portask.core.requests import Subscribed
from portask.core.session import Later, Session
from portask.errors import PortaskError, StorageUnavailable, from_code
from portask.messages import RecordBatch, TopicPartition
from portask.multicore.credit import Credits
from portask.multicore.deliveries import WatchedDelivery, WatchedGroupDelivery
from portask.multicore.gathering import GATHERED, error_in
from portask.multicore.links import Aside, Kind, Link, Message
from portask.multicore.owners import home_of, owner_of
from portask.multicore.proxies import PROXY
from portask.multicore.routing import ROUTES
from portask.multicore.sessions import Attached, HomeSession, Proxy, RemoteChannel
from portask.multicore.topics import Topics
from portask.wire import batches, control
from portask.wire.frames import Frame, Opcode
from portask.wire.inboxes import PREFIX

log = structlog.get_logger("portask.broker")

_STRAIGHT = frozenset({int(Opcode.DELIVER), int(Opcode.PUBACK)})


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


class Greeting(msgspec.Struct, array_like=True):
    """What a worker tells another first.

    Attributes:
        topics: Partitions by name.
        groups: Of which it has something: what their members agreed on, by name.
    """

    topics: dict[str, int]
    groups: dict[str, GroupSettings]


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
        clients: Those that have a proxy somewhere, by number.
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
        self.clients: dict[int, HomeSession] = {}
        self.told: deque[Callable[[], None]] = deque()
        self.shared_topics = Topics(self)
        self.groups_elsewhere: dict[int, dict[str, GroupSettings]] = {}
        self._last_number = 0
        self._waiting: dict[int, dict[HomeSession, None]] = {}  # for a link, or for room in it
        self._appends: dict[int, tuple[int, Appended]] = {}
        self._last_append = 0
        self._leaving: list[Proxy] = []
        self._congestion: dict[HomeSession, None] = {}
        self.credits = Credits(self)
        super().__init__(storage, options, rewrite, authenticator)
        self.handle = cast("Callable[[Broker, Session, list[Frame]], None]", _handle)
        cast("WatchedDelivery", self.delivery).starving = self.credits.starving
        cast("WatchedGroupDelivery", self.groups.delivery).starving = self.credits.starving

    # ── what a server calls ───────────────────────────────────────────────────────────────────────────────

    def new_session(self, peer: str, now: int, certificate: tuple[str, ...]) -> Session:
        """See `Broker.new_session`."""
        session = HomeSession(self, peer, self._offer, now, certificate)
        self._counts.set(self.place, len(self.sessions) + 1)
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
        if not self.clients.pop(session.number, None):
            return
        for place in session.places:
            link = self.links.get(place)
            if link is not None:
                link.send(Kind.DETACH, session.number)
        session.places.clear()
        session.routes.clear()
        session.answer = None
        self._congestion.pop(session, None)
        if not self.in_turn:
            self.wake()  # the others should hear of it

    def turn(self, now: int) -> Sequence[Session]:
        """See `Broker.turn`."""
        self.now = max(self.now, now)
        while self.told:
            self.told.popleft()()
        if self.bell.heard():
            self._hear()
        if self._congestion:
            self._tell_congestion()
        departing = super().turn(now)
        while self._leaving:
            proxy = self._leaving.pop()
            self._drop(proxy.link, proxy)
        self.credits.settle()
        leaving = []
        for session in departing:
            if type(session) is Proxy:
                if session.number in session.link.proxies:
                    self._send_home(session)
            else:
                leaving.append(session)
        for link in self.links.values():
            link.flush()
            if not link.full and (link.stuffed or link.place in self._waiting):
                self._relieve(link)
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
        self.bell.ring()  # the other may have been faster

    def unlink(self, place: int) -> None:
        """A worker is gone, and with it the clients that had business there."""
        link = self.links.pop(place, None)
        if link is None:
            return
        for proxy in list(link.proxies.values()):
            self._drop(link, proxy)
        for session in [each for each in self.clients.values() if place in each.places]:
            del session.places[place]
            self.hang_up(session)
        for token, (where, done) in list(self._appends.items()):
            if where == place:
                del self._appends[token]
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
        self._appends[self._last_append] = (place, done)
        head = msgspec.msgpack.encode(partition.key)
        size = len(batch.data)
        # the length of the key, for the batch lies behind it
        link.send(Kind.APPEND, len(head), (head, batch.data), len(head) + size, correlation=self._last_append)

    # ── homes ─────────────────────────────────────────────────────────────────────────────────────────────

    def reach(self, place: int, session: HomeSession) -> Link:
        """The way to a place, with a proxy of the session there.

        Raises:
            Later: there is no way now, or no room on it; the session waits.
        """
        link = self.links.get(place)
        if link is None or link.full or not link.greeted:
            self._waiting.setdefault(place, {})[session] = None
            session.waits += 1
            raise Later
        if place not in session.places:
            self._attach(link, session)
        return link

    def forward(self, place: int, session: HomeSession, frame: Frame) -> None:
        """Hands a frame on. Raises `Later` like `reach`."""
        body = frame.body
        self.reach(place, session).send(
            Kind.FRAME,
            session.number,
            (body,),
            len(body),
            frame.opcode,
            frame.flags,
            frame.correlation,
            frame.channel,
        )

    def send_to(  # noqa: PLR0917 - in the order of a frame's header
        self,
        place: int,
        session: HomeSession,
        opcode: int,
        body: bytes,
        correlation: int = 0,
        channel: int = 0,
        flags: int = 0,
    ) -> None:
        """Sends a frame of our own to the session's proxy; without a way there the session is over."""
        link = self.links.get(place)
        if link is None:
            self.hang_up(session)
            return
        if place not in session.places:
            self._attach(link, session)
        link.send(Kind.FRAME, session.number, (body,), len(body), opcode, flags, correlation, channel)

    def _attach(self, link: Link, session: HomeSession) -> None:
        if not session.number:
            while not self._last_number or self._last_number in self.clients:
                self._last_number = (self._last_number + 1) & 0xFFFFFFFF
            session.number = self._last_number
            self.clients[session.number] = session
        session.places[link.place] = None
        hello = session.connection.hello
        name = hello.client if hello is not None else ""
        self._tell(
            link, Kind.ATTACH, Attached(session.peer, name, session.connection.max_batch), session.number
        )
        if session.congested:
            link.send(Kind.CONGESTED, session.number)

    def resume(self, session: HomeSession) -> None:
        """One thing that the session waited for has come."""
        session.waits -= 1
        if session in self.sessions:
            if session.inbox and not session.waits:
                self.arrived[session] = None
            self.mark(session)

    def hang_up(self, session: HomeSession) -> None:
        """Ends a connection so that its client connects again."""
        if not session.gone:
            session.connection.hang_up()
        self.mark(session)

    def congestion_changed(self, session: HomeSession) -> None:
        """The client does not read what is written to it, or does again."""
        if session.places:
            self._congestion[session] = None
            if not self.in_turn:
                self.wake()

    def _tell_congestion(self) -> None:
        changed, self._congestion = self._congestion, {}
        for session in changed:
            for place in session.places:
                self.links[place].send(Kind.CONGESTED, session.number, flags=0 if session.congested else 1)

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
                self._relieve(link)
            for message in link.take():
                kind = message.kind
                if kind == Kind.FRAME:
                    proxy = link.proxies.get(message.session)
                    if proxy is not None:
                        _, opcode, flags, _, correlation, channel, body = message
                        proxy.inbox.append(Frame(opcode, flags, correlation, channel, body))
                        self.arrived[proxy] = None
                elif kind == Kind.BACK:
                    client = self.clients.get(message.session)
                    if client is not None:
                        self._back(client, link, message)
                else:
                    _HEARD[kind](self, link, message)
            if link.arrived:
                self.bell.ring()

    def _relieve(self, link: Link) -> None:
        """There is room on a link: who waits for it goes on."""
        if link.stuffed:
            link.stuffed = False
            for proxy in link.proxies.values():
                if not proxy.deaf:
                    self.uncongested(proxy)
        if link.greeted:
            for session in self._waiting.pop(link.place, ()):
                self.resume(session)

    def _back(self, session: HomeSession, link: Link, message: Message) -> None:
        """A proxy's output: goes to the client as it is, unless it is meant for us."""
        _, opcode, flags, _, correlation, channel, body = message
        if session.gone:
            return
        if opcode not in _STRAIGHT and not self._is_for_client(session, link, message):
            return
        length = len(body)
        session.connection.output.append(
            (opcode, flags, length, correlation, channel, (body,) if length else ())
        )
        self._dirty[session] = None

    def _is_for_client(self, session: HomeSession, link: Link, message: Message) -> bool:
        opcode, correlation = message.opcode, message.correlation
        if opcode in {Opcode.OPEN, Opcode.ERROR}:
            self._opened(session, message)
        if opcode == Aside.RETURN:
            self.credits.returned(session, link.place, message)
        elif opcode == Aside.PAUSE:
            if not message.flags:
                session.paused_by.add(link.place)
                session.waits += 1
            elif link.place in session.paused_by:
                session.paused_by.discard(link.place)
                self.resume(session)
        elif opcode == Opcode.ERROR and not correlation:
            session.connection.fail(error_in(message.body))
            self.mark(session)
        elif session.answer is not None and (correlation == GATHERED or opcode == Opcode.DRAIN):
            session.answer(link.place, message)
        elif opcode != Opcode.DRAIN:
            return True
        return False

    def _opened(self, session: HomeSession, message: Message) -> None:
        """An OPEN was answered, or something else failed."""
        channel = session.channels.get(message.channel)
        if (
            type(channel) is not RemoteChannel
            or channel.opening != message.correlation
            or not channel.opening
        ):
            return
        channel.opening = 0
        if message.opcode == Opcode.ERROR:
            del session.channels[message.channel]
        if channel.awaited:
            channel.awaited = False
            self.resume(session)

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
        link.proxies.pop(proxy.number, None)
        self._let_go(proxy)
        proxy.closing = True
        if not proxy.gone:
            proxy.connection.hang_up()
        self.arrived.pop(proxy, None)
        self._dirty.pop(proxy, None)

    def subscribe(
        self, session: Session, number: int, body: control.Subscribe, flags: int, done: Subscribed
    ) -> None:
        """`portask.core.requests.subscribe`, for a part of a subscription. ``flags`` are those of `routing`."""

        def made(ack_wait: int, error: PortaskError | None) -> None:
            if error is None:
                self.credits.begin(session, number, flags)
            done(ack_wait, error)

        requests.subscribe(self, session, number, body, made)

    def grant(self, place: int, session: HomeSession, number: int, amounts: tuple[int, int, int]) -> None:
        """Gives a part of a subscription's credit to a place."""
        if place == self.place:
            self.credits.granted(session, number, amounts)
        else:
            self.send_to(place, session, Aside.GRANT, msgspec.msgpack.encode(amounts), 0, number)

    def recall(self, place: int, session: HomeSession, number: int) -> None:
        """Asks a place to give back what it does not use."""
        if place == self.place:
            self.credits.recalled(session, number)
        else:
            self.send_to(place, session, Aside.RECALL, b"", 0, number)

    def forget(self, subscription: Subscription) -> None:
        """See `Broker.forget`."""
        super().forget(subscription)
        self.credits.forget(subscription)

    # ── what others say ───────────────────────────────────────────────────────────────────────────────────

    def _attached(self, link: Link, message: Message) -> None:
        attached = msgspec.msgpack.decode(message.body, type=Attached)
        proxy = Proxy(self, link, message.session, attached, self._offer)
        proxy.congested = link.stuffed
        link.proxies[message.session] = proxy

    def _detached(self, link: Link, message: Message) -> None:
        proxy = link.proxies.get(message.session)
        if proxy is not None:
            self._leaving.append(proxy)  # once it has handled what came before

    def _congested(self, link: Link, message: Message) -> None:
        proxy = link.proxies.get(message.session)
        if proxy is None:
            return
        proxy.deaf = not message.flags
        if proxy.deaf:
            proxy.congested = True
        elif not link.stuffed:
            self.uncongested(proxy)

    def _greeted(self, link: Link, message: Message) -> None:
        greeting = msgspec.msgpack.decode(message.body, type=Greeting)
        for name, count in greeting.topics.items():
            self.extend(name, count)
        self.groups_elsewhere[link.place] = greeting.groups
        link.greeted = True
        self.shared_topics.back(link.place)
        self._relieve(link)

    def _group(self, link: Link, message: Message) -> None:
        name, settings = msgspec.msgpack.decode(message.body, type=tuple[str, GroupSettings | None])
        known = self.groups_elsewhere.setdefault(link.place, {})
        if settings is None:
            known.pop(name, None)
        else:
            known[name] = settings

    def _append(self, link: Link, message: Message) -> None:
        """Another worker has a dead letter for a partition of this one."""
        key = msgspec.msgpack.decode(message.body[: message.session], type=TopicPartition)
        token = message.correlation

        def done(offset: int, error: PortaskError | None) -> None:
            refused = None if error is None else (error.code, str(error))
            if self.links.get(link.place) is link:
                self._tell(link, Kind.APPENDED, (offset, refused), 0, token)
                if not self.in_turn:
                    self.wake()

        try:
            batch = batches.parse(message.body[message.session :], self.options.max_raw)
        except PortaskError as error:
            done(-1, error)
            return
        topic = self.extend(key.topic, key.partition + 1)
        self.append(topic.partitions[key.partition], batch, self.now, done)

    def _was_appended(self, _link: Link, message: Message) -> None:
        offset, refused = msgspec.msgpack.decode(message.body, type=tuple[int, tuple[str, str] | None])
        _, done = self._appends.pop(message.correlation, (0, None))
        if done is not None:
            done(offset, None if refused is None else from_code(*refused))


def _handle(broker: WorkerBroker, session: Session, frames: list[Frame]) -> None:
    """See `Broker.handle`."""
    if type(session) is Proxy:
        requests.handle(broker, session, frames, PROXY)
    elif session.waits:
        session.hold(frames)
    else:
        requests.handle(broker, session, frames, ROUTES)


_HEARD: dict[int, Callable[[WorkerBroker, Link, Message], None]] = {
    Kind.ATTACH: WorkerBroker._attached,  # noqa: SLF001 - the table is the class\'s own
    Kind.DETACH: WorkerBroker._detached,  # noqa: SLF001 - the table is the class\'s own
    Kind.CONGESTED: WorkerBroker._congested,  # noqa: SLF001 - the table is the class\'s own
    Kind.GREETING: WorkerBroker._greeted,  # noqa: SLF001 - the table is the class\'s own
    Kind.DECLARE: lambda broker, link, message: broker.shared_topics.asked(link, message),
    Kind.DECLARED: lambda broker, link, message: broker.shared_topics.answered(link, message),
    Kind.TOPIC: lambda broker, link, message: broker.shared_topics.told(link, message),
    Kind.KNOWN: lambda broker, link, message: broker.shared_topics.known(link, message),
    Kind.GROUP: WorkerBroker._group,  # noqa: SLF001 - the table is the class\'s own
    Kind.APPEND: WorkerBroker._append,  # noqa: SLF001 - the table is the class\'s own
    Kind.APPENDED: WorkerBroker._was_appended,  # noqa: SLF001 - the table is the class\'s own
}
