"""Inboxes: where replies go. An inbox is there as long as somebody subscribes to it, and stores nothing.

Subscribing to a name that begins with ``_inbox.`` makes it; the last subscriber that leaves, or whose connection is
lost, takes it along. A SEND is handed to the subscribers' connections in the same turn, or refused: a reply is for
somebody who waits now, and is worth neither a file nor a sync. Its ack says that it is on its way to who asked.

Inboxes are no topics: filters do not match them, nothing lists them, and no group reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.core.accounts import permit
from portask.core.partitions import Partition
from portask.core.topics import is_literal
from portask.errors import Draining, LocalProtocolError, NotPermitted, RemoteProtocolError, UnknownTopic
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.wire import batches, control, inboxes
from portask.wire.frames import REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker
    from portask.core.partitions import Cursor
    from portask.core.session import Session


_MOST = 1 << 62  # an offset that nobody reaches, far enough from what a header can carry


class Inboxes:
    """Those of one broker, by name."""

    def __init__(self) -> None:
        self._open: dict[str, Partition] = {}

    def __len__(self) -> int:
        return len(self._open)

    def get(self, name: str) -> Partition | None:
        """The inbox, if somebody subscribes to it."""
        return self._open.get(name)

    def open(self, body: control.Subscribe) -> Partition:
        """The inbox that is subscribed to. A new one goes on with the offsets of the one that its subscriber lost."""
        name = body.filter
        found = self._open.get(name)
        if found is None:
            resumed = next(iter(body.resume.get(name, ())), 0)
            start = resumed if 0 <= resumed < _MOST else 0
            found = self._open[name] = Partition(TopicPartition(name), start)
        return found

    def left(self, partition: Partition) -> None:
        """Somebody unsubscribed from it, if it is an inbox at all."""
        name = partition.key.topic
        if not partition.cursors and self._open.get(name) is partition:
            del self._open[name]


def check(body: control.Subscribe) -> None:
    """Raises `NotPermitted` for a group, or a filter for many."""
    if body.group or not is_literal(body.filter):
        raise NotPermitted(f"{body.filter!r}: an inbox is read by its name and by no group")


def check_send(broker: Broker, session: Session, frame: Frame) -> tuple[str, RecordBatch]:
    """What a SEND that the client may send brings, and where; it is counted as published.

    Raises:
        NotPermitted: this client may not publish there.
        Draining: the broker is going away.
        BatchError: the batch is damaged or too large.
        RemoteProtocolError: no correlation id, or no name.
    """
    if not frame.correlation:
        raise RemoteProtocolError("SEND needs a correlation id")
    if broker.draining:
        raise Draining("this broker is going away: send to another, or later")
    name, data = inboxes.unpack(memoryview(frame.body))
    permit(session, "publish", name)
    batch = batches.parse(data, broker.options.max_raw)
    if session.meter is not None:
        session.meter.spend(batch.count, len(batch.data), broker.now)
    return name, batch


def send(broker: Broker, session: Session, frame: Frame) -> None:
    """SEND.

    Raises:
        UnknownTopic: nobody subscribes to that inbox.
        NotPermitted: nobody there takes more at the moment, or this client may not publish there.
        PortaskError: see `check_send`.
    """
    name, batch = check_send(broker, session, frame)
    hand_over(broker, session, frame, name, batch)


def hand_over(broker: Broker, session: Session, frame: Frame, name: str, batch: RecordBatch) -> None:
    """Hands what a SEND brings to whoever waits at the inbox.

    Raises:
        UnknownTopic: nobody does.
        NotPermitted: nobody there takes more at the moment.
    """
    inbox = broker.inboxes.get(name)
    if inbox is None:
        raise UnknownTopic(f"nobody waits at {name}: who asked has gone")
    base = inbox.next
    inbox.next = base + batch.count
    if not sum([_deliver(broker, cursor, base, batch) for cursor in inbox.cursors]):
        raise NotPermitted(f"who waits at {name} takes no more at the moment, or no batch so large")
    session.connection.send(Opcode.SEND, b"", frame.correlation, frame.channel, REPLY)


def _deliver(broker: Broker, cursor: Cursor, base: int, batch: RecordBatch) -> bool:
    """Whether the subscriber gets it."""
    cursor.offset = base + batch.count  # whether or not: there is nothing to read later
    subscription = cursor.subscription
    session = subscription.session
    if session.gone or not subscription.ready():
        return False
    # the arriving bytes behind a new stamp: not even copied
    parts: list[Buffer] = [batches.stamp(base, broker.now), memoryview(batch.data)[batches.STAMP_SIZE :]]
    try:
        session.connection.send_parts(Opcode.DELIVER, parts, len(batch.data), 0, cursor.delivery)
    except LocalProtocolError:
        return False  # larger than what this client takes
    subscription.messages -= batch.count
    subscription.bytes -= len(batch.data)
    broker.mark(session)
    return True
