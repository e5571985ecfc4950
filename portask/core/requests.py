"""What a client may ask for, one function an opcode; `handle` looks them up in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from portask.core import describing, group_requests, inboxes, subscribing
from portask.core.accounts import permit
from portask.core.fetching import Fetch
from portask.core.groups import Seat
from portask.core.partitions import Partition, Topic
from portask.core.positions import start_offset
from portask.core.publishing import publish
from portask.core.session import Channel, Later, Session
from portask.errors import (
    BrokerError,
    NotPermitted,
    PortaskError,
    RemoteProtocolError,
    UnknownPartition,
    UnknownTopic,
)
from portask.wire import control
from portask.wire.frames import REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker

log = structlog.get_logger("portask.broker")

Handler = Callable[["Broker", Session, Frame], None]


Handlers = Mapping[int, Handler]


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
    Opcode.SUBSCRIBE: subscribing.requested,
    Opcode.UNSUBSCRIBE: subscribing.ended,
    Opcode.CREDIT: _credit,
    Opcode.ACK: _ack,
    Opcode.NACK: _nack,
    Opcode.FETCH: _fetch,
    Opcode.DESCRIBE: describing.requested,
    Opcode.DROP_GROUP: _drop_group,
    Opcode.PONG: _ignore,
    Opcode.ERROR: _ignore,
    Opcode.DRAIN: _ignore,
}
