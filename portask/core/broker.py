"""The broker: turns in, departures out.

A server calls `Session.receive` for whatever it read, then `Broker.turn` once. A turn

1. handles every frame that arrived, in the order of arrival per connection: batches go to the storage, which
   calls back when they have the durability it declares (embedded storages before they return);
2. sends deliveries (`portask.core.delivery`);
3. flushes one cumulative ack a channel;
4. looks at its timers: handshakes that take too long, connections that fell silent, retention;

and returns the sessions that have something to write or are to be closed. Nothing here blocks, awaits, reads
a clock or touches a socket, so any server can drive it, and tests can, with any clock they like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from portask.contracts import LATEST, Appended, Deferred, Explained, Found, Gathering, Shared, Storage
from portask.core import requests, subscribing
from portask.core.accounts import Account
from portask.core.admission import Admission
from portask.core.coordinator import Coordinator
from portask.core.dead_letters import Rewrite
from portask.core.delivery import Delivery
from portask.core.describing import promise_of
from portask.core.group_delivery import GroupDelivery
from portask.core.groups import Settings as GroupSettings
from portask.core.identities import Authenticator
from portask.core.inboxes import Inboxes
from portask.core.pacing import Pacing
from portask.core.partitions import Partition, Subscription, Topic
from portask.core.producers import ProducerTable
from portask.core.ranges import NEVER
from portask.core.restoring import restore
from portask.core.retention import Retention
from portask.core.session import ANSWERS_LIMIT, Session
from portask.core.shortage import Shortage
from portask.core.topics import check_name
from portask.errors import Draining, NotPermitted, PortaskError, RemoteProtocolError, UnknownPartition
from portask.messages import RecordBatch, TopicPartition
from portask.wire import control
from portask.wire.connection import State
from portask.wire.frames import DEFAULT_LIMIT, VERSION, Frame, Opcode
from portask.wire.inboxes import PREFIX

log = structlog.get_logger("portask.broker")

_SECOND = 1_000_000
_OPEN = State.OPEN  # members of an enumeration are slow to look up
SWEEP = _SECOND
"""µs between looks at the timers."""
HANG_UPS = 64
"""Newcomers that are hung up on in one turn: each costs a line in the log and a socket, some 200 µs."""
RETAIN = 4 << 20
"""Bytes by which a partition grows until its retention is looked at, if no timer comes before: what a fast producer
writes in a second takes tens of milliseconds to forget, and everybody else would wait for it."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker is set to. Times in µs, sizes in bytes.

    Attributes:
        name: For WELCOME and logs.
        max_frame: Largest frame body taken.
        max_raw: Most raw bytes a batch may declare.
        hello_timeout: For the handshake.
        keepalive: Silence after which a client is hung up on; 0 for never. Clients ping at a third of it.
        max_connections: Further ones are refused with a reason.
        max_unacked_bytes: Publishes of one connection that may wait for the storage; above it, reading is paused.
        publish_messages: Messages a second that one connection may publish; above it, it is not read. 0: no limit.
        publish_bytes: Bytes a second, likewise.
        auto_create: Whether OPEN creates a topic.
        default_partitions: For topics that are created without a number.
        max_topic_partitions: Most that a client may ask for.
        max_partitions: Of all topics together; clients create none beyond it.
        max_group_partitions: Of all groups together, unless other brokers share the storage; none is made beyond it.
        max_channels: Channels, and subscriptions, of one connection.
        max_assignments: Partitions of one connection's subscriptions, counted once for each.
        partitions: For topics by name, instead of the default.
        retention: By topic name; the empty name is the default.
        clients: Codec and compression that clients without a choice of their own should use; empty for none.
        settings: What DESCRIBE says of how this broker is made.
    """

    name: str = "portask"
    max_frame: int = DEFAULT_LIMIT
    max_raw: int = 64 * 1024 * 1024
    hello_timeout: int = 5 * _SECOND
    keepalive: int = 90 * _SECOND
    max_connections: int = 100_000
    max_unacked_bytes: int = 64 * 1024 * 1024
    publish_messages: int = 0
    publish_bytes: int = 0
    auto_create: bool = True
    default_partitions: int = 1
    max_topic_partitions: int = 1024
    max_partitions: int = 100_000
    max_group_partitions: int = 100_000
    max_channels: int = 10_000
    max_assignments: int = 100_000
    partitions: dict[str, int] = {}
    retention: dict[str, Retention] = {}
    clients: tuple[str, str] = ("", "")
    settings: dict[str, str] = {}


class Broker:
    """Implements `portask.contracts.Engine`.

    Attributes:
        wake: Set by the server: asks, from any thread, for a turn soon.
        now: The current turn's time, µs since the epoch.
        topics: By name.
        partitions: How many they have together.
        sessions: The open connections, oldest first.
        producers: Where each idempotent producer stands.
        inboxes: Where replies go.
        groups: Consumer groups, whether anybody is there or not.
        admission: Who may come in, and what for.
        pacing: Who has to wait.
        shortage: Who waits for room in the storage.
        arrived: Sessions that received something since the last turn.
        touched: Partitions that were appended to in this turn; see also `touch`.
        shared: The storage, if other brokers use it, too.
        offer: What it says of itself in WELCOME.
        handle: Handles what a session received: ``handle(broker, session, frames)``.
        place: Which of the processes this is that are one broker, from 0.
        places: How many there are. Each has the partitions that it `owns`.
    """

    place = 0
    places = 1
    delivery_type = Delivery
    group_delivery_type = GroupDelivery

    def __init__(
        self,
        storage: Storage,
        options: Options | None = None,
        rewrite: Rewrite | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        """Finds the topics and groups again that ``storage`` knows; ``rewrite`` makes dead letters.

        Without an ``authenticator`` everybody may do everything.
        """
        self.options = options or Options()
        self.admission = Admission(self, authenticator)
        self.pacing = Pacing(self)
        self.storage = storage
        self.wake: Callable[[], None] = lambda: None
        self.now = 0
        self.topics: dict[str, Topic] = {}
        self.partitions = 0
        self.sessions: dict[Session, None] = {}
        self.draining = False
        self.handle: Callable[[Broker, Session, list[Frame]], None] = requests.handle
        self.delivery = self.delivery_type(storage, self.mark)
        self.groups = Coordinator(self, rewrite)
        self.producers = ProducerTable(storage)
        self.inboxes = Inboxes()
        self.turns = 0
        self.in_turn = False
        self.arrived: dict[Session, None] = {}
        self._dirty: dict[Session, None] = {}
        self.touched: dict[Partition, None] = {}
        self._handshakes: dict[Session, None] = {}
        self._next_sweep = 0
        self._overdue = False  # more handshakes are over than one turn ends
        self.shortage = Shortage(self)
        self._deferred = storage if isinstance(storage, Deferred) else None
        self._gathering = storage if isinstance(storage, Gathering) else None
        self._explained = storage if isinstance(storage, Explained) else None
        self.shared = storage if isinstance(storage, Shared) else None
        if self.shared is not None:
            self.shared.grown = self._grew
            self.shared.lost = self._went_back
        if self._deferred is not None:
            self._deferred.notify = self._notified
        self.offer = self._make_offer()
        restore(self)
        self.touched.clear()  # nobody is there yet

    # ── what a server calls ───────────────────────────────────────────────────────────────────────────────

    def _make_offer(self) -> control.Welcome:
        return control.Welcome(
            VERSION,
            self.options.max_frame,
            self.options.name,
            self.storage.durability.value,
            keepalive=self.options.keepalive / _SECOND,
            codec=self.options.clients[0],
            compression=self.options.clients[1],
            promise=promise_of(self.storage),
        )

    def connect(self, peer: str, now: int, certificate: tuple[str, ...] = ()) -> Session:
        """See `portask.contracts.Engine.connect`. The first output of a refused one says why."""
        if self._explained is not None and self._explained.promise != self.offer.promise:
            self.offer = self._make_offer()
        session = self.new_session(peer, now, certificate)
        if self.connections >= self.options.max_connections:
            most = self.options.max_connections
            session.connection.fail(
                NotPermitted(f"this broker takes {most:,} connections (limits.max_connections)")
            )
            self._dirty[session] = None
        else:
            self._handshakes[session] = None
        self.sessions[session] = None
        return session

    def new_session(self, peer: str, now: int, certificate: tuple[str, ...]) -> Session:
        """What a connection becomes."""
        return Session(self, peer, self.offer, now, certificate)

    @property
    def connections(self) -> int:
        """How many clients there are, at all of the broker's processes."""
        return len(self.sessions)

    def disconnect(self, session: Session) -> None:
        """See `portask.contracts.Engine.disconnect`."""
        if self.sessions.pop(session, session) is session:
            return
        self._handshakes.pop(session, None)
        self._let_go(session)
        self.admission.leave(session)
        self.pacing.forget(session)
        session.connection.gate = None  # it leads back to the session
        session.closing = True
        self.arrived.pop(session, None)
        self._dirty.pop(session, None)

    def uncongested(self, session: Session) -> None:
        """Called by a server when a congested connection has room again."""
        session.congested = False
        session.owed = 0
        if session.inbox:
            self.arrived[session] = None
            self._dirty[session] = None
        if session.paused:
            self._dirty[session] = None
        for subscription in session.subscriptions.values():
            if subscription.member is not None:
                self.groups.nudge(subscription.member)
            else:
                self.delivery.nudge(subscription)

    def turn(self, now: int) -> Sequence[Session]:
        """See `portask.contracts.Engine.turn`."""
        self.now = now
        self.turns += 1
        self.in_turn = True
        self.admission.renew()
        if self._deferred is not None:
            self._deferred.poll()
        groups = self.groups
        if groups.due <= now:
            groups.tick(now)
        arrived, self.arrived = self.arrived, {}
        dirty = self._dirty
        for session in arrived:
            session.last_seen = now
            inbox = session.inbox
            if inbox:
                session.inbox = None
                self.handle(self, session, inbox)
        gathering = self._gathering
        if gathering is not None:
            gathering.commit()
        touched = self.touched
        while touched:
            partition, _ = touched.popitem()
            if partition.shares:
                groups.delivery.fresh(partition, now)
            if partition.fresh:
                self.delivery.fresh(partition, now)
            else:
                self.delivery.behind.update(partition.cursors)
            if partition.grown >= RETAIN:
                self._retain(partition, now)
        if self.delivery.behind:
            self.delivery.catch_up(now)
        if groups.groups and groups.busy:
            groups.deliver(now)
        if now >= self._next_sweep:
            self._sweep(now)
        elif self._overdue:
            self._end_handshakes(now)
        if gathering is not None:
            gathering.commit()  # what deliveries and timers saved or appended
        self.pacing.rouse(now)
        dirty.update(arrived)  # last: deliveries leave before acks, for somebody waits for them
        self.in_turn = False
        self._dirty = {}
        for session in dirty:
            self._finish(session)
        return list(dirty)

    def deadline(self) -> int | None:
        """See `portask.contracts.Engine.deadline`."""
        groups = self.groups
        if self.delivery.behind or self._dirty or self.touched or self.arrived or self._overdue:
            return 0
        if groups.groups and groups.busy:
            return 0
        if self.sessions or self.options.retention:
            return min(self._next_sweep, groups.due, self.pacing.due)
        return groups.due if groups.due < NEVER else None

    def drain(self, now: int) -> None:
        """See `portask.contracts.Engine.drain`."""
        self.now = now
        self.draining = True
        self._dirty.update(self.sessions)  # the end of the next turn says it
        self.groups.save()
        self.shortage.retry()  # to be refused

    # ── what requests use ─────────────────────────────────────────────────────────────────────────────────

    def topic(
        self, name: str, partitions: int, done: Callable[[Topic | None, PortaskError | None], None]
    ) -> None:
        """The topic, created with so many partitions (0 for the default) if it is new and may be.

        Calls ``done(topic, None)``, at once unless other brokers have a say; else ``done(None, error)``.

        Raises:
            InvalidTopic: not a topic name.
            NotPermitted: it is new and the settings do not create topics, or too many partitions are asked
            for; or it is an inbox.
            Draining: it is new and the broker is going away.
        """
        found = self.topics.get(name)
        if found is not None:
            done(found, None)
            return
        check_name(name)
        if name.startswith(PREFIX):
            raise NotPermitted(f"{name!r} is an inbox and no topic: it takes replies only")
        if self.draining:
            raise Draining("this broker is going away: connect to another, or later")
        if not self.options.auto_create:
            raise NotPermitted(
                f"there is no topic {name!r} and this broker does not create topics (topics.auto_create)"
            )
        if not 0 <= partitions <= self.options.max_topic_partitions:
            raise NotPermitted(
                f"{partitions:,} partitions: this broker allows 1 to {self.options.max_topic_partitions:,}, "
                "0 for its default"
            )
        wanted = self.options.partitions.get(name, partitions) or self.options.default_partitions
        if self.partitions + wanted > self.options.max_partitions:
            raise NotPermitted(
                f"all topics together have {self.partitions:,} partitions: {wanted:,} more would be above "
                f"{self.options.max_partitions:,} (limits.max_partitions)"
            )

        def declared(count: int, error: PortaskError | None) -> None:
            done(self.extend(name, count) if error is None else None, error)

        self.declare(name, wanted, declared)

    def declare(self, name: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        """Says to all who have a say that there is a topic; see `portask.contracts.Shared.declare`."""
        if self.shared is None:
            done(partitions, None)
        else:
            self.shared.declare(name, partitions, done)

    def owns(self, _key: TopicPartition) -> bool:
        """Whether it is this process that has the partition."""
        return True

    def readers(self) -> Iterable[Session]:
        """The sessions that may have subscriptions here."""
        return self.sessions

    def extend(self, name: str, partitions: int) -> Topic:
        """The topic with so many partitions at least; those that are new are given to whoever subscribes to them."""
        known = self.topics.get(name)
        before = len(known.partitions) if known is not None else 0
        topic = self.create(name, partitions)
        if len(topic.partitions) > before:
            for session in self.readers():
                for subscription in list(session.subscriptions.values()):
                    if subscription.matches(name):
                        subscribing.assign(self, subscription, topic, before)
        return topic

    def create(self, name: str, partitions: int) -> Topic:
        """A topic with so many partitions at least, whether clients may make one or not. Nobody is told."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, [])
        for number in range(len(topic.partitions), partitions):
            partition = Partition(TopicPartition(name, number), 0)
            topic.partitions.append(partition)
            self.partitions += 1
            self.storage.lookup(partition.key, LATEST, self._starting_at(partition))
        return topic

    def account_changed(self, account: Account) -> None:
        """An identity has other connections or subscriptions here than before."""

    def address_failed(self, address: str) -> None:
        """Somebody there was not let in, which was logged. For brokers of several processes."""

    def settings_elsewhere(self, _group: str) -> GroupSettings | None:
        """What another of the broker's processes knows of a group."""
        return None

    def group_is_here(self, _group: str, _settings: GroupSettings | None) -> None:
        """This process has something of a group, or, with ``None``, nothing any more."""

    def group_agreed(self, _group: str, _settings: GroupSettings) -> None:
        """A group that other brokers have too has other settings than this process thought."""

    def append(self, partition: Partition, batch: RecordBatch, now: int, done: Appended) -> None:
        """Appends what no client published here, and has it delivered."""

        def stored(offset: int, error: PortaskError | None) -> None:
            if error is None:
                partition.next = max(partition.next, offset + batch.count)
                partition.fresh.clear()  # readers go to the storage
                self.touch(partition)
            done(offset, error)

        self.storage.append(partition.key, batch, now, stored)

    def _grew(self, key: TopicPartition, following: int) -> None:
        """Another broker appended to a partition, or made a topic."""
        if key.topic.startswith(PREFIX) or self.shared is None:
            return
        topic = self.extend(key.topic, max(key.partition + 1, self.shared.topics().get(key.topic, 0)))
        partition = topic.partitions[key.partition]
        if following > partition.next:
            partition.next = following
            partition.fresh.clear()  # readers go to the storage: they lack what others appended
            self.touch(partition)

    def _went_back(self, key: TopicPartition, offset: int) -> None:
        """The store forgot what it had, from that offset on, and gives the offsets out again."""
        topic = self.topics.get(key.topic)
        if topic is None or key.partition >= len(topic.partitions):
            return
        partition = topic.partitions[key.partition]
        partition.next = offset
        partition.fresh.clear()
        for cursor in list(partition.cursors):
            if cursor.offset > offset:
                self.delivery.move(cursor, offset)
        self.touch(partition)

    def commit(self) -> None:
        """Has a storage that gathers complete what came so far, as far as it can at once."""
        if self._gathering is not None:
            self._gathering.commit()

    def _notified(self) -> None:
        self.wake()  # looked up late: the server sets it after the broker is made

    def touch(self, partition: Partition) -> None:
        """Batches were appended to it."""
        self.touched[partition] = None
        if not self.in_turn:
            self.wake()

    def mark(self, session: Session) -> None:
        """The session has output, from a callback that may come outside a turn."""
        self._dirty[session] = None
        if not self.in_turn:
            self.wake()

    def _starting_at(self, partition: Partition) -> Found:
        def found(offset: int, error: PortaskError | None) -> None:
            if error is None:
                if offset > partition.next:
                    partition.next = offset
                    self.touch(partition)  # whoever subscribed meanwhile may have something to read
            elif not isinstance(error, UnknownPartition):
                log.error("storage cannot be read", partition=str(partition.key), reason=str(error))

        return found

    def forget(self, subscription: Subscription) -> None:
        """Takes a subscription's cursors off their partitions."""
        account = subscription.session.standing.account
        if account is not None:
            account.subscriptions.pop(subscription, None)
            self.account_changed(account)
        if subscription.member is not None:
            for seat in subscription.member.seats:
                subscription.session.cursors.pop(seat.delivery, None)
            self.groups.leave(subscription.member)
        for cursor in subscription.cursors:
            cursor.partition.cursors.pop(cursor, None)
            self.delivery.behind.pop(cursor, None)
            self.delivery.later.pop(cursor, None)
            subscription.session.cursors.pop(cursor.delivery, None)
            self.inboxes.left(cursor.partition)
        subscription.cursors.clear()  # they refer to it

    # ── the end of a turn ─────────────────────────────────────────────────────────────────────────────────

    def _finish(self, session: Session) -> None:
        """A session's end of the turn: acks leave, and what its state asks for is done."""
        connection = session.connection
        state = connection.state
        if self.draining and not session.told and state is _OPEN:
            session.told = True
            connection.send(Opcode.DRAIN)
        if session.acking:
            session.flush_acks()
        session.answered = 0
        if state is _OPEN and not (
            session.inbox or session.unacked or session.owed or session.congested or session.paced
        ):
            session.paused = False
            return  # the rule
        if session.congested:
            session.owed += connection.queued
        held = bool(session.inbox)
        slowed = session.paced and self.pacing.holds(session, self.now)
        session.paused = (
            held or slowed or session.unacked > self.options.max_unacked_bytes or session.owed > ANSWERS_LIMIT
        )
        if (
            held
            and not (session.congested or session.waits or session.reading > ANSWERS_LIMIT)
            and session not in self.shortage.waiting
        ):
            self.arrived[session] = None
        if state is State.DRAINING and not (session.unacked or session.reading or session.waits or held):
            requests.finish_drain(session)
            self._let_go(session)
        if state is State.CLOSED and not self.pacing.silences(session, self.now):
            session.closing = True
            self._let_go(session)
            fault = session.connection.fault
            if fault is not None and not session.logged:
                session.logged = True
                log.warning("connection refused", peer=session.peer, code=fault.code, reason=str(fault))

    def _let_go(self, session: Session) -> None:
        """Nothing more is read for a session, nor handled of what it asked."""
        for subscription in session.subscriptions.values():
            self.forget(subscription)
        session.subscriptions.clear()
        session.channels.clear()  # they refer to it: a session should not need the garbage collector
        session.cursors.clear()
        session.inbox = None
        self.shortage.forget(session)

    def _sweep(self, now: int) -> None:
        """Timers, once a second."""
        self.delivery.try_again()
        self.groups.delivery.try_again()
        self._next_sweep = now + SWEEP
        self.admission.sweep(now)
        self._end_handshakes(now)
        if self.options.keepalive:
            silent = now - self.options.keepalive
            for session in self.sessions:
                if session.last_seen < silent and not (session.gone or session.rests):
                    seconds = self.options.keepalive / _SECOND
                    session.connection.fail(
                        RemoteProtocolError(f"nothing was heard for {seconds:g} s: send PING")
                    )
                    self._dirty[session] = None
        self.retain(now)
        self.shortage.sweep(now)

    def _end_handshakes(self, now: int) -> None:
        """Forgets newcomers who are none any more, and hangs up on those who took too long."""
        limit = now - self.options.hello_timeout
        over: list[Session] = []
        late: list[Session] = []
        for session in self._handshakes:
            if session.connection.state is not State.HANDSHAKE:
                over.append(session)
            elif session.since > limit or len(late) == HANG_UPS:
                break
            else:
                late.append(session)
        self._overdue = len(late) == HANG_UPS
        for session in over + late:
            del self._handshakes[session]
        for session in late:
            seconds = self.options.hello_timeout / _SECOND
            session.connection.fail(RemoteProtocolError(f"no HELLO within {seconds:g} s"))
            self._dirty[session] = None

    def retain(self, now: int) -> None:
        """Trims what is over the limits of its retention."""
        if self.options.retention:
            for topic in self.topics.values():
                for partition in topic.partitions:
                    self._retain(partition, now)

    def _retain(self, partition: Partition, now: int) -> None:
        partition.grown = 0
        retention = self.options.retention
        policy = retention.get(partition.key.topic) or retention.get("")
        if policy is not None:
            policy.apply(self.storage, partition.key, now)
