"""DESCRIBE: what a broker says of itself, its topics and its groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from portask.contracts import EARLIEST, Catalog, Explained, Found, Storage
from portask.core import group_requests
from portask.core.accounts import visible
from portask.core.session import Session
from portask.core.topics import check_filter, matcher
from portask.errors import BrokerError, LocalProtocolError, PortaskError
from portask.wire import control
from portask.wire.frames import REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker

Describing = Callable[["control.Described | None", "PortaskError | None"], None]


def requested(broker: Broker, session: Session, frame: Frame) -> None:
    """DESCRIBE."""
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
