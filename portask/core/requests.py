"""What a client may ask for, one function an opcode; `handle` looks them up in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from portask.contracts import EARLIEST, LATEST, Catalog, Found
from portask.core.partitions import Cursor, Partition, Subscription, Topic
from portask.core.session import Channel, Session
from portask.core.topics import check_filter, matcher
from portask.errors import (
    BrokerError,
    Draining,
    LocalProtocolError,
    NotPermitted,
    OffsetOutOfRange,
    PortaskError,
    RemoteProtocolError,
    UnknownPartition,
    UnknownTopic,
)
from portask.messages import Buffer
from portask.wire import batches, control
from portask.wire.frames import REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker

log = structlog.get_logger("portask.broker")

Handler = Callable[["Broker", Session, Frame], None]


def handle(broker: Broker, session: Session, frames: list[Frame]) -> None:
    """Handles frames in order. A request that fails is answered; the others go on."""
    for frame in frames:
        try:
            _HANDLERS[frame.opcode](broker, session, frame)
        except PortaskError as error:
            session.flush_acks()  # what was published before must be acknowledged before
            session.refuse(error, frame.correlation, frame.channel)
            if session.gone:
                return
        except Exception:
            # A fault of ours must cost one connection, not the broker.
            log.exception("a request failed on our side", peer=session.peer, opcode=frame.opcode)
            session.refuse(BrokerError("the broker failed on this request; its log says why"), 0)
            return


def _publish(broker: Broker, session: Session, frame: Frame) -> None:
    number = frame.channel
    channel = session.channels.get(number)
    if channel is None:
        raise RemoteProtocolError(f"PUBLISH on channel {number}, which was not opened")
    if broker.draining:
        raise Draining("this broker is going away: publish to another, or later")
    batch = batches.parse(frame.body, broker.options.max_raw)
    partition = channel.partition
    turn = broker.turns
    size = len(batch.data)
    slot = [frame.correlation, -1, size]
    if frame.correlation:
        channel.slots.append(slot)
        session.unacked += size

    def done(offset: int, error: PortaskError | None) -> None:
        if error is not None:
            if slot[0]:
                channel.slots.remove(slot)
                session.unacked -= size
            session.flush_acks()
            session.refuse(error, slot[0], number)
            broker.mark(session)
            return
        partition.next = offset + batch.count
        if slot[0]:
            slot[1] = offset
            session.acking[number] = channel
        if turn == broker.turns and broker.in_turn:
            partition.fresh.append((offset, batch))
        else:
            partition.fresh.clear()  # the arrival's bytes are gone: readers go to the storage
            broker.mark(session)
        broker.touch(partition)

    broker.storage.append(partition.key, batch, broker.now, done)


def _open(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Open)
    if not 0 < frame.channel < control.DELIVERY_CHANNELS:
        raise RemoteProtocolError(f"channel {frame.channel} is not a client's to open")
    topic = broker.topic(body.topic, body.partitions)
    partition = _partition(topic, body.partition)
    if len(session.channels) >= broker.options.max_channels:
        raise NotPermitted(
            f"{len(session.channels):,} channels are open on this connection: close some, or open another"
        )
    session.channels[frame.channel] = Channel(partition)
    reply = control.Open(body.topic, body.partition, len(topic.partitions))
    session.connection.send_control(Opcode.OPEN, reply, frame.correlation, frame.channel, REPLY)


def _partition(topic: Topic, number: int) -> Partition:
    if not 0 <= number < len(topic.partitions):
        raise UnknownPartition(
            f"{topic.name} has the partitions 0 to {len(topic.partitions) - 1}, not {number}"
        )
    return topic.partitions[number]


def _subscribe(broker: Broker, session: Session, frame: Frame) -> None:
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
    check_filter(body.filter)
    subscription = Subscription(session, number, matcher(body.filter), body.partition)
    subscription.messages, subscription.bytes = body.messages, body.bytes
    session.subscriptions[number] = subscription
    matching = [topic for topic in broker.topics.values() if subscription.matches(topic.name)]
    wanted = [partition for topic in matching for partition in _chosen(subscription, topic)]
    waiting = len(wanted)
    failed = False

    def finish() -> None:
        end = control.Assigned("", 0, 0, 0)
        session.connection.send_control(Opcode.SUBSCRIBE, end, frame.correlation, number, REPLY)
        broker.mark(session)

    def start(partition: Partition) -> Found:
        def found(offset: int, error: PortaskError | None) -> None:
            nonlocal waiting, failed
            waiting -= 1
            if failed or number not in session.subscriptions:
                return
            if error is not None:
                failed = True
                broker.forget(subscription)
                session.subscriptions.pop(number, None)
                session.refuse(error, frame.correlation, number)
                broker.mark(session)
                return
            _add_cursor(broker, subscription, partition, offset)
            if not waiting:
                finish()

        return found

    if not wanted:
        finish()
    for partition in wanted:
        key = partition.key
        known = body.resume.get(key.topic, ())
        if key.partition < len(known) and known[key.partition] >= 0:
            _resume_offset(broker, partition, known[key.partition], start(partition))
        else:
            _start_offset(broker, partition, body.start, body.time, start(partition))


def assign(broker: Broker, subscription: Subscription, topic: Topic) -> None:
    """A topic was created that a subscription waits for: it is read from its first record."""
    for partition in _chosen(subscription, topic):
        _add_cursor(broker, subscription, partition, partition.next)
    broker.mark(subscription.session)


def _chosen(subscription: Subscription, topic: Topic) -> Sequence[Partition]:
    if subscription.only_partition is None:
        return topic.partitions
    return topic.partitions[subscription.only_partition : subscription.only_partition + 1]


def _add_cursor(broker: Broker, subscription: Subscription, partition: Partition, offset: int) -> None:
    session = subscription.session
    cursor = Cursor(subscription, partition, session.next_delivery, offset)
    session.next_delivery += 1
    session.cursors[cursor.delivery] = cursor
    subscription.cursors.append(cursor)
    partition.cursors[cursor] = None
    body = control.Assigned(partition.key.topic, partition.key.partition, cursor.delivery, offset)
    session.connection.send_control(Opcode.SUBSCRIBE, body, 0, subscription.channel, REPLY)
    if offset < partition.next:
        broker.delivery.behind[cursor] = None


def _start_offset(broker: Broker, partition: Partition, start: int, time: int | None, done: Found) -> None:
    """The offset that a request means, or an error that says what there is."""
    storage, key = broker.storage, partition.key

    def empty_is_zero(offset: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            done(0, None)
        else:
            done(offset, error)

    def check_bounds(first: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            first, error = 0, None
        if error is None and not first <= start <= partition.next:
            text = f"offset {start} of {key} is not there: it holds {first} to {partition.next}"
            error = OffsetOutOfRange(text, first, partition.next)
        done(start, error)

    if time is not None:
        storage.lookup(key, max(time, 0), empty_is_zero)
    elif start < 0:
        storage.lookup(key, start, empty_is_zero)
    else:
        storage.lookup(key, EARLIEST, check_bounds)


def _resume_offset(broker: Broker, partition: Partition, offset: int, done: Found) -> None:
    """The offset that a cut-off subscription asks for; the oldest one if retention, or a lost log, took it away."""

    def check_bounds(first: int, error: PortaskError | None) -> None:
        if isinstance(error, UnknownPartition):
            first, error = 0, None
        done(offset if first <= offset <= partition.next else first, error)

    broker.storage.lookup(partition.key, EARLIEST, check_bounds)


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
    broker.delivery.nudge(subscription)


def _ack(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Ack)
    cursor = session.cursors.get(frame.channel)
    if cursor is not None:
        for first, last in body.ranges:
            if not 0 <= first <= last < cursor.offset:
                raise RemoteProtocolError(
                    f"ACK of the offsets {first} to {last}: {cursor.offset} is the next to deliver"
                )
            cursor.acked = max(cursor.acked, last)


def _nack(broker: Broker, session: Session, frame: Frame) -> None:
    raise NotPermitted(
        "NACK needs a group: a plain subscription sees every record once; subscribe again from the offset"
    )


def _fetch(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Fetch)
    if not frame.correlation:
        raise RemoteProtocolError("FETCH needs a correlation id")
    topic = broker.topics.get(body.topic)
    if topic is None:
        raise UnknownTopic(f"there is no topic {body.topic!r}")
    partition = _partition(topic, body.partition)

    def refuse(error: PortaskError) -> None:
        session.refuse(error, frame.correlation, frame.channel)
        broker.mark(session)

    def read(found: Sequence[Buffer], error: PortaskError | None) -> None:
        if error is not None and not isinstance(error, UnknownPartition):
            refuse(error)
            return
        if session.gone:
            return
        room = session.connection.max_batch
        parts: list[Buffer] = []
        for batch in found:
            if len(batch) > room:
                break
            room -= len(batch)
            parts.append(batch)
        if found and not parts:
            refuse(
                LocalProtocolError(f"a batch of {len(found[0]):,} bytes is above this connection's max_frame")
            )
            return
        session.connection.send_parts(Opcode.DELIVER, parts, frame.correlation, frame.channel, REPLY)
        broker.mark(session)

    def found(offset: int, error: PortaskError | None) -> None:
        if error is not None:
            refuse(error)
        else:
            broker.storage.read(partition.key, offset, max(1, body.bytes), read)

    _start_offset(broker, partition, body.start, body.time, found)


def _describe(broker: Broker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Describe)
    matches = matcher(check_filter(body.filter))
    storage = broker.storage
    catalog = storage if isinstance(storage, Catalog) else None
    described = []
    for topic in sorted(broker.topics.values(), key=lambda topic: topic.name):
        if not matches(topic.name):
            continue
        parts = []
        for partition in topic.partitions:
            size = catalog.size(partition.key) if catalog else -1
            info = control.PartitionInfo(
                partition.key.partition, 0, partition.next, size, len(partition.cursors)
            )
            storage.lookup(partition.key, EARLIEST, _first_of(info))
            parts.append(info)
        described.append(control.TopicInfo(topic.name, parts))
    reply = control.Described(described, storage.durability.value, len(broker.sessions), broker.options.name)
    session.connection.send_control(Opcode.DESCRIBE, reply, frame.correlation, frame.channel, REPLY)


def _first_of(info: control.PartitionInfo) -> Found:
    def found(offset: int, error: PortaskError | None) -> None:
        if error is None:
            info.first = offset

    return found


def _ignore(broker: Broker, session: Session, frame: Frame) -> None:
    """PONG, an ERROR that answers us, DRAIN (`finish_drain` answers it once everything is acknowledged)."""


def finish_drain(session: Session) -> None:
    """The client said DRAIN and everything it published is acknowledged: says so, and hangs up."""
    if not session.closing:
        session.connection.send(Opcode.DRAIN, b"", 0, 0, REPLY)
        session.closing = True


_HANDLERS: dict[int, Handler] = {
    Opcode.PUBLISH: _publish,
    Opcode.OPEN: _open,
    Opcode.SUBSCRIBE: _subscribe,
    Opcode.UNSUBSCRIBE: _unsubscribe,
    Opcode.CREDIT: _credit,
    Opcode.ACK: _ack,
    Opcode.NACK: _nack,
    Opcode.FETCH: _fetch,
    Opcode.DESCRIBE: _describe,
    Opcode.PONG: _ignore,
    Opcode.ERROR: _ignore,
    Opcode.DRAIN: _ignore,
}
