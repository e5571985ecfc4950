"""Subscriptions begin and end: which partitions one has, where it starts in each, and how many there may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from portask.contracts import LATEST, Found
from portask.core import group_requests, inboxes
from portask.core.partitions import Cursor, Partition, Subscription, Topic
from portask.core.positions import resume_offset, start_offset
from portask.core.session import Session
from portask.core.topics import check_filter
from portask.errors import NotPermitted, PortaskError, RemoteProtocolError
from portask.messages import TopicPartition
from portask.wire import control
from portask.wire.frames import HEADER_SIZE, REPLY, Frame, Opcode
from portask.wire.inboxes import PREFIX

if TYPE_CHECKING:
    from portask.core.broker import Broker

Subscribed = Callable[[int, "PortaskError | None"], None]
"""``done(ack_wait, None)``, in ms and 0 without a group, or ``done(0, error)``."""


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


def requested(broker: Broker, session: Session, frame: Frame) -> None:
    """SUBSCRIBE."""
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


def ended(broker: Broker, session: Session, frame: Frame) -> None:
    """UNSUBSCRIBE."""
    subscription = session.subscriptions.pop(frame.channel, None)
    if subscription is not None:
        broker.forget(subscription)
    if frame.correlation:
        session.connection.send(Opcode.UNSUBSCRIBE, b"", frame.correlation, frame.channel, REPLY)
