"""What a client may ask for, one function an opcode; `handle` looks them up in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from portask.contracts import EARLIEST, LATEST, Catalog, Explained, Found, Storage
from portask.core import group_requests, inboxes
from portask.core.accounts import permit, visible
from portask.core.fetching import Fetch
from portask.core.groups import Seat
from portask.core.partitions import Cursor, Partition, Subscription, Topic
from portask.core.positions import resume_offset, start_offset
from portask.core.publishing import publish
from portask.core.session import Channel, Later, Session
from portask.core.topics import check_filter, matcher
from portask.errors import (
    BrokerError,
    LocalProtocolError,
    NotPermitted,
    PortaskError,
    RemoteProtocolError,
    UnknownPartition,
    UnknownTopic,
)
from portask.messages import TopicPartition
from portask.wire import control
from portask.wire.frames import HEADER_SIZE, REPLY, Frame, Opcode
from portask.wire.inboxes import PREFIX

if TYPE_CHECKING:
    from portask.core.broker import Broker

log = structlog.get_logger("portask.broker")

Handler = Callable[["Broker", Session, Frame], None]


Handlers = Mapping[int, Handler]
Describing = Callable[["control.Described | None", "PortaskError | None"], None]
Subscribed = Callable[[int, "PortaskError | None"], None]
"""``done(ack_wait, None)``, in ms and 0 without a group, or ``done(0, error)``."""


def handle(broker: Broker, session: Session, frames: list[Frame], handlers: Handlers | None = None) -> None:
    """Handles frames in order. A request that fails is answered; the others go on."""
    if handlers is None:
        handlers = HANDLERS
    for frame in frames:
        try:
            handlers[frame.opcode](broker, session, frame)
        except Later:
            # by identity: frames that look alike are equal
            session.hold(frames[next(at for at, other in enumerate(frames) if other is frame) :])
            return
        except PortaskError as error:
            broker.commit()
            session.flush_acks()  # what was published before must be acknowledged before
            session.refuse(error, frame.correlation, frame.channel)
            if session.gone:
                return
        except Exception:
            # A fault of ours must cost one connection, not the broker.
            log.exception("a request failed on our side", peer=session.peer, opcode=frame.opcode)
            broker.commit()
            session.flush_acks()
            session.refuse(BrokerError("the broker failed on this request; its log says why"), 0)
            return


def check_open(broker: Broker, session: Session, frame: Frame) -> control.Open:
    """The body of an OPEN that the client may send.

    Raises:
        PortaskError: why not.
    """
    body = control.decode(frame.body, control.Open)
    if not 0 < frame.channel < control.DELIVERY_CHANNELS:
        raise RemoteProtocolError(f"channel {frame.channel} is not a client's to open")
    permit(session, "publish", body.topic)
    if body.topic not in broker.topics:
        permit(session, "create", body.topic)
    return body


def to_open(broker: Broker, session: Session, topic: Topic, body: control.Open, channel: int) -> Partition:
    """The partition that an OPEN means, now that its topic is there.

    Raises:
        PortaskError: there is no such partition, or the channel is taken.
    """
    permit(session, "publish", body.topic)  # the rules may have changed while others were asked
    partition = partition_of(topic, body.partition)
    _check_channel(broker, session, channel, partition)
    return partition


def _open(broker: Broker, session: Session, frame: Frame) -> None:
    body = check_open(broker, session, frame)
    channel = frame.channel

    def found(topic: Topic | None, error: PortaskError | None) -> None:
        if topic is None or session.gone:
            opened(error)
            return
        try:
            partition = to_open(broker, session, topic, body, channel)
        except PortaskError as refusal:
            opened(refusal)
            return
        if body.producer:
            broker.producers.opened(partition, body, lambda error: opened(error, topic, partition))
        else:
            opened(None, topic, partition)

    def opened(
        error: PortaskError | None, topic: Topic | None = None, partition: Partition | None = None
    ) -> None:
        if session.gone:
            return
        if topic is None or partition is None or error is not None:
            session.refuse(error or BrokerError("there is no such topic"), frame.correlation, channel)
        else:
            if channel not in session.channels:
                session.open(Channel(session, channel, partition))
            reply = control.Open(body.topic, body.partition, len(topic.partitions))
            session.connection.send_control(Opcode.OPEN, reply, frame.correlation, channel, REPLY)
        broker.mark(session)

    broker.topic(body.topic, body.partitions, found)


def _check_channel(broker: Broker, session: Session, number: int, partition: Partition) -> None:
    known = session.channels.get(number)
    if known is not None and known.partition is not partition:
        # the same again is fine: its answer may be late
        raise RemoteProtocolError(f"channel {number} is open to {known.partition.key}: choose another")
    if known is None and len(session.channels) >= broker.options.max_channels:
        raise NotPermitted(
            f"{len(session.channels):,} channels are open on this connection: close some, or open another"
        )


def partition_of(topic: Topic, number: int) -> Partition:
    """The partition of that number.

    Raises:
        UnknownPartition: there is none.
    """
    if not 0 <= number < len(topic.partitions):
        raise UnknownPartition(
            f"{topic.name} has the partitions 0 to {len(topic.partitions) - 1}, not {number}"
        )
    return topic.partitions[number]


def check_subscribe(broker: Broker, session: Session, frame: Frame) -> control.Subscribe:
    """The body of a SUBSCRIBE that the client may send.

    Raises:
        PortaskError: why not.
        Later: there is no room for the answer now.
    """
    body = control.decode(frame.body, control.Subscribe)
    number = frame.channel
    if not 0 < number < control.DELIVERY_CHANNELS or number in session.subscriptions:
        raise RemoteProtocolError(f"channel {number} is taken or not a client's to choose")
    if body.start < LATEST - 1 or body.messages < 0 or body.bytes < 0:
        raise RemoteProtocolError("start is -2 (earliest), -1 (latest) or an offset; credit is not negative")
    if len(session.subscriptions) >= broker.options.max_channels:
        raise NotPermitted(
            f"{len(session.subscriptions):,} subscriptions on this connection: drop some, or open another"
        )
    if body.partition is not None and body.partition < 0:
        raise RemoteProtocolError(f"partition {body.partition}: the first is 0")
    check_filter(body.filter)
    broker.admission.permit(session, body.filter, body.group, body.dead_letter)
    if body.filter.startswith(PREFIX):
        inboxes.check(body)
    broker.admission.check_room(session)
    session.make_room()
    return body


def _subscribe(broker: Broker, session: Session, frame: Frame) -> None:
    body = check_subscribe(broker, session, frame)
    subscribe(broker, session, frame.channel, body, answer_subscribe(broker, session, frame))


def answer_subscribe(broker: Broker, session: Session, frame: Frame) -> Subscribed:
    """What answers a SUBSCRIBE once it is known what came of it."""
    correlation, number = frame.correlation, frame.channel

    def done(ack_wait: int, error: PortaskError | None) -> None:
        if error is not None:
            session.refuse(error, correlation, number)
        else:
            end = control.Assigned("", 0, 0, 0, ack_wait)
            session.connection.send_control(Opcode.SUBSCRIBE, end, correlation, number, REPLY)
        broker.mark(session)

    return done


def subscribe(
    broker: Broker, session: Session, number: int, body: control.Subscribe, done: Subscribed
) -> None:
    """Subscribes to what this process has of what is asked for. ``done`` is not called for a session that is gone.

    Raises:
        PortaskError: the group cannot be had so; see `Coordinator.enter`.
    """
    subscription = Subscription(session, number, body.filter, body.partition)
    subscription.messages, subscription.bytes = body.messages, body.bytes
    wanted = _matching(broker, subscription, body)
    if len(wanted) > _unassigned(broker, session):
        raise _too_many(broker)
    if body.group:
        group_requests.Joining(broker, subscription, body, done).begin(wanted)
        return
    session.add(subscription)
    waiting = len(wanted)
    failed = False

    def start(partition: Partition) -> Found:
        def found(offset: int, error: PortaskError | None) -> None:
            nonlocal waiting, failed
            waiting -= 1
            if failed or session.gone or session.subscriptions.get(number) is not subscription:
                return  # it was given up meanwhile
            if error is None and not _unassigned(broker, session):
                error = _too_many(broker)  # of other subscriptions that waited for the storage, too
            if error is not None:
                failed = True
                broker.forget(subscription)
                session.subscriptions.pop(number, None)
                done(0, error)
                return
            _add_cursor(broker, subscription, partition, offset)
            if not waiting:
                done(0, None)

        return found

    if not wanted:
        done(0, None)
    for partition in wanted:
        _find_start(broker, partition, body, start(partition))


def _matching(broker: Broker, subscription: Subscription, body: control.Subscribe) -> list[Partition]:
    """What there is of what is asked for."""
    if body.filter.startswith(PREFIX):
        return [broker.inboxes.open(body)] if broker.owns(TopicPartition(body.filter)) else []
    matching = [topic for topic in broker.topics.values() if subscription.matches(topic.name)]
    return [partition for topic in matching for partition in _chosen(broker, subscription, topic)]


def _find_start(broker: Broker, partition: Partition, body: control.Subscribe, done: Found) -> None:
    """Where the subscription begins in a partition."""
    key = partition.key
    known = body.resume.get(key.topic, ())
    if key.topic.startswith(PREFIX):
        done(partition.next, None)
    elif key.partition < len(known) and known[key.partition] >= 0:
        resume_offset(broker, partition, known[key.partition], done)
    else:
        start_offset(broker, partition, body.start, body.time, done)


def assign(broker: Broker, subscription: Subscription, topic: Topic, before: int) -> None:
    """A topic got more than ``before`` partitions, and a subscription waits for it: read from the first record."""
    if subscription.session.gone:
        return
    added = [each for each in _chosen(broker, subscription, topic) if each.key.partition >= before]
    if len(added) > _unassigned(broker, subscription.session):
        # nobody asked anything that could be refused; it is when the client connects again
        subscription.session.connection.fail(_too_many(broker))
        broker.mark(subscription.session)
        return
    if subscription.member is not None:
        group_requests.assign(broker, subscription.member, added)
        return
    for partition in added:
        _add_cursor(broker, subscription, partition, partition.next)
    broker.mark(subscription.session)


def _unassigned(broker: Broker, session: Session) -> int:
    """Partitions that its subscriptions may still have."""
    return broker.options.max_assignments - len(session.cursors)


def _too_many(broker: Broker) -> NotPermitted:
    return NotPermitted(
        f"the subscriptions of this connection match more than {broker.options.max_assignments:,} partitions "
        "(limits.max_assignments): choose narrower filters, or share them among connections"
    )


def _chosen(broker: Broker, subscription: Subscription, topic: Topic) -> Sequence[Partition]:
    only = subscription.only_partition
    chosen = topic.partitions if only is None else topic.partitions[only : only + 1]
    return chosen if broker.places == 1 else [each for each in chosen if broker.owns(each.key)]


def _add_cursor(broker: Broker, subscription: Subscription, partition: Partition, offset: int) -> None:
    session = subscription.session
    cursor = Cursor(subscription, partition, session.new_delivery(), offset)
    session.follow(cursor.delivery, cursor)
    subscription.cursors.append(cursor)
    partition.cursors[cursor] = None
    body = control.Assigned(partition.key.topic, partition.key.partition, cursor.delivery, offset)
    encoded = control.encode(body)
    session.answered += HEADER_SIZE + len(encoded)
    session.connection.send(Opcode.SUBSCRIBE, encoded, 0, subscription.channel, REPLY)
    if offset < partition.next:
        broker.delivery.behind[cursor] = None


def _unsubscribe(broker: Broker, session: Session, frame: Frame) -> None:
    subscription = session.subscriptions.pop(frame.channel, None)
    if subscription is not None:
        broker.forget(subscription)
    if frame.correlation:
        session.connection.send(Opcode.UNSUBSCRIBE, b"", frame.correlation, frame.channel, REPLY)


def _credit(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Credit)
    if body.messages < 0 or body.bytes < 0:
        raise RemoteProtocolError("credit is not negative")
    subscription = session.subscriptions.get(frame.channel)
    if subscription is None:
        return  # credit crossed an UNSUBSCRIBE on the way
    subscription.messages += body.messages
    subscription.bytes += body.bytes
    if subscription.member is not None:
        broker.groups.nudge(subscription.member)
    else:
        broker.delivery.nudge(subscription)


def _ack(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Ack)
    cursor = session.cursors.get(frame.channel)
    if cursor is None:
        return  # it crossed an UNSUBSCRIBE on the way
    if isinstance(cursor, Seat):
        group_requests.ack(broker, cursor, body)
        return
    for first, last in body.ranges:
        if not 0 <= first <= last < cursor.offset:
            raise RemoteProtocolError(
                f"ACK of the offsets {first} to {last}: {cursor.offset} is the next to deliver"
            )
        cursor.acked = max(cursor.acked, last)


def _nack(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Nack)
    cursor = session.cursors.get(frame.channel)
    if isinstance(cursor, Seat):
        group_requests.nack(broker, cursor, body)
    elif cursor is not None:
        raise NotPermitted(
            "NACK needs a group: a plain subscription sees every record once; subscribe again from the offset"
        )


def _drop_group(broker: Broker, session: Session, frame: Frame) -> None:
    group = group_requests.check_drop(session, frame)
    broker.groups.drop(group, group_requests.answer_drop(broker, session, frame))


def check_fetch(broker: Broker, session: Session, frame: Frame) -> tuple[control.Fetch, Partition]:
    """The body of a FETCH that the client may send, and what it means.

    Raises:
        PortaskError: why not, or that it is not there.
    """
    body = control.decode(frame.body, control.Fetch)
    if not frame.correlation:
        raise RemoteProtocolError("FETCH needs a correlation id")
    permit(session, "subscribe", body.topic)
    topic = broker.topics.get(body.topic)
    if topic is None:
        raise UnknownTopic(f"there is no topic {body.topic!r}")
    return body, partition_of(topic, body.partition)


def _fetch(broker: Broker, session: Session, frame: Frame) -> None:
    body, partition = check_fetch(broker, session, frame)
    session.make_room()
    fetch = Fetch(broker, session, frame, partition, body.bytes)
    start_offset(broker, partition, body.start, body.time, fetch.start)


def _describe(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Describe)
    if body.filter:
        check_filter(body.filter)
    seen = visible(session)
    session.make_room()
    describe(broker, body, seen, answer_describe(broker, session, frame))


def answer_describe(broker: Broker, session: Session, frame: Frame) -> Describing:
    """What answers a DESCRIBE once everything is known."""
    correlation, channel = frame.correlation, frame.channel

    def done(reply: control.Described | None, error: PortaskError | None) -> None:
        if session.gone:
            return
        if reply is None:
            session.refuse(error or BrokerError("nothing is known"), correlation, channel)
            broker.mark(session)
            return
        encoded = control.encode(reply)
        session.answered += len(encoded)
        try:
            session.connection.send(Opcode.DESCRIBE, encoded, correlation, channel, REPLY)
        except LocalProtocolError as refusal:
            session.refuse(refusal, correlation, channel)
        broker.mark(session)

    return done


def describe(broker: Broker, body: control.Describe, seen: Callable[[str], bool], done: Describing) -> None:
    """What this process has of what is asked for, as far as it may be ``seen``."""
    matches = matcher(check_filter(body.filter)) if body.filter else str.isspace  # no topic's name is
    storage = broker.storage
    catalog = storage if isinstance(storage, Catalog) else None
    described: list[control.TopicInfo] = []
    groups: list[control.GroupInfo] = []
    failure: PortaskError | None = None
    waiting = 2

    def found(infos: list[control.GroupInfo], error: PortaskError | None) -> None:
        nonlocal failure
        groups.extend(infos)
        failure = error
        looked_up()

    def looked_up() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting:
            return
        if failure is not None:
            done(None, failure)
            return
        reply = control.Described(
            described,
            storage.durability.value,
            broker.connections,
            broker.options.name,
            broker.options.settings,
            groups=groups,
            duplicates=broker.producers.duplicates,
            promise=promise_of(storage),
        )
        done(reply, None)

    group_requests.describe(broker, body.groups, seen, found)
    for topic in sorted(broker.topics.values(), key=lambda topic: topic.name):
        if not matches(topic.name) or not seen(topic.name):
            continue
        parts = []
        for partition in topic.partitions:
            size = catalog.size(partition.key) if catalog else -1
            readers = len(partition.cursors) + sum(len(share.seats) for share in partition.shares)
            info = control.PartitionInfo(partition.key.partition, 0, partition.next, size, readers)
            waiting += 1
            storage.lookup(partition.key, EARLIEST, _first_of(info, looked_up))
            parts.append(info)
        described.append(control.TopicInfo(topic.name, parts))
    looked_up()


def promise_of(storage: Storage) -> str:
    """A storage's durability in its own words, if it has some."""
    return storage.promise if isinstance(storage, Explained) else ""


def _first_of(info: control.PartitionInfo, looked_up: Callable[[], None]) -> Found:
    def found(offset: int, error: PortaskError | None) -> None:
        if error is None:
            info.first = offset
        looked_up()

    return found


def _ignore(broker: Broker, session: Session, frame: Frame) -> None:
    """PONG, an ERROR that answers us, DRAIN (`finish_drain` answers it once everything is acknowledged)."""


def finish_drain(session: Session) -> None:
    """The client said DRAIN and everything it published is acknowledged: says so, and hangs up."""
    if not session.closing:
        session.connection.send(Opcode.DRAIN, b"", 0, 0, REPLY)
        session.closing = True


HANDLERS: Handlers = {
    Opcode.PUBLISH: publish,
    Opcode.SEND: inboxes.send,
    Opcode.OPEN: _open,
    Opcode.SUBSCRIBE: _subscribe,
    Opcode.UNSUBSCRIBE: _unsubscribe,
    Opcode.CREDIT: _credit,
    Opcode.ACK: _ack,
    Opcode.NACK: _nack,
    Opcode.FETCH: _fetch,
    Opcode.DESCRIBE: _describe,
    Opcode.DROP_GROUP: _drop_group,
    Opcode.PONG: _ignore,
    Opcode.ERROR: _ignore,
    Opcode.DRAIN: _ignore,
}
