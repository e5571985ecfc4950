"""What workers tell each other, apart from frames: one function for each kind of message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from portask.core.groups import Settings as GroupSettings
from portask.errors import PortaskError, from_code
from portask.messages import TopicPartition
from portask.multicore.links import Kind, Link, Message
from portask.multicore.sessions import Attached, Proxy
from portask.wire import batches

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker


class Greeting(msgspec.Struct, array_like=True):
    """What a worker tells another first.

    Attributes:
        topics: Partitions by name.
        groups: Of which it has something: what their members agreed on, by name.
    """

    topics: dict[str, int]
    groups: dict[str, GroupSettings]


def _attached(broker: WorkerBroker, link: Link, message: Message) -> None:
    attached = msgspec.msgpack.decode(message.body, type=Attached)
    proxy = Proxy(broker, link, message.session, attached, broker.offer)
    proxy.congested = link.stuffed
    link.proxies[message.session] = proxy


def _detached(broker: WorkerBroker, link: Link, message: Message) -> None:
    proxy = link.proxies.get(message.session)
    if proxy is not None:
        broker.leaving.append(proxy)  # once it has handled what came before


def _congested(broker: WorkerBroker, link: Link, message: Message) -> None:
    proxy = link.proxies.get(message.session)
    if proxy is None:
        return
    proxy.deaf = not message.flags
    if proxy.deaf:
        proxy.congested = True
    elif not link.stuffed:
        broker.uncongested(proxy)


def _greeted(broker: WorkerBroker, link: Link, message: Message) -> None:
    greeting = msgspec.msgpack.decode(message.body, type=Greeting)
    for name, count in greeting.topics.items():
        broker.extend(name, count)
    broker.groups_elsewhere[link.place] = greeting.groups
    link.greeted = True
    broker.shared_topics.back(link.place)
    broker.relieve(link)


def _group(broker: WorkerBroker, link: Link, message: Message) -> None:
    name, settings = msgspec.msgpack.decode(message.body, type=tuple[str, GroupSettings | None])
    known = broker.groups_elsewhere.setdefault(link.place, {})
    if settings is None:
        known.pop(name, None)
    else:
        known[name] = settings


def _agreed(broker: WorkerBroker, _link: Link, message: Message) -> None:
    """The store knows better than a worker that has no partition of a group's topics, and asked it nothing."""
    name, settings = msgspec.msgpack.decode(message.body, type=tuple[str, GroupSettings])
    for known in broker.groups_elsewhere.values():
        if name in known:
            known[name] = settings
    group = broker.groups.groups.get(name)
    if group is not None and not group.shares:
        group.settings = settings


def _append(broker: WorkerBroker, link: Link, message: Message) -> None:
    """Another worker has a dead letter for a partition of this one."""
    key = msgspec.msgpack.decode(message.body[: message.session], type=TopicPartition)
    token = message.correlation

    def done(offset: int, error: PortaskError | None) -> None:
        refused = None if error is None else (error.code, str(error))
        if broker.links.get(link.place) is link:
            broker.tell(link, Kind.APPENDED, (offset, refused), 0, token)
            if not broker.in_turn:
                broker.wake()

    try:
        batch = batches.parse(message.body[message.session :], broker.options.max_raw)
    except PortaskError as error:
        done(-1, error)
        return
    topic = broker.extend(key.topic, key.partition + 1)
    broker.append(topic.partitions[key.partition], batch, broker.now, done)


def _was_appended(broker: WorkerBroker, _link: Link, message: Message) -> None:
    offset, refused = msgspec.msgpack.decode(message.body, type=tuple[int, tuple[str, str] | None])
    _, done = broker.appends.pop(message.correlation, (0, None))
    if done is not None:
        done(offset, None if refused is None else from_code(*refused))


def _failed(broker: WorkerBroker, _link: Link, message: Message) -> None:
    broker.admission.failed_elsewhere(msgspec.msgpack.decode(message.body, type=str), broker.now)


HEARD: dict[int, Callable[[WorkerBroker, Link, Message], None]] = {
    Kind.ATTACH: _attached,
    Kind.DETACH: _detached,
    Kind.CONGESTED: _congested,
    Kind.GREETING: _greeted,
    Kind.DECLARE: lambda broker, link, message: broker.shared_topics.asked(link, message),
    Kind.DECLARED: lambda broker, link, message: broker.shared_topics.answered(link, message),
    Kind.TOPIC: lambda broker, link, message: broker.shared_topics.told(link, message),
    Kind.KNOWN: lambda broker, link, message: broker.shared_topics.known(link, message),
    Kind.GROUP: _group,
    Kind.AGREED: _agreed,
    Kind.ACCOUNT: lambda broker, link, message: broker.accounts.heard(link, message),
    Kind.FAILED: _failed,
    Kind.APPEND: _append,
    Kind.APPENDED: _was_appended,
}
