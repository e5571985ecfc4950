"""Which frame of a client goes where: `ROUTES`, in the place of `portask.core.requests.HANDLERS` at its home.

Whatever can be found wrong with a request without knowing the partition is found here, by the same functions that a
broker of one process asks; then the frame is handed on as it came, or handled here, if here is where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from portask.core import describing, group_requests, inboxes, requests, subscribing
from portask.core.accounts import visible
from portask.core.nothing import NOTHING
from portask.core.partitions import Topic
from portask.core.publishing import publish
from portask.core.session import Later
from portask.core.topics import check_filter, is_literal
from portask.errors import Draining, PortaskError, RemoteProtocolError
from portask.multicore import gathering
from portask.multicore.gathering import Gather, Subscribing
from portask.multicore.links import Message
from portask.multicore.owners import home_of
from portask.multicore.purses import Purse
from portask.multicore.sessions import HomeSession, RemoteChannel, Route
from portask.wire import batches, control
from portask.wire.frames import REPLY, Frame, Opcode
from portask.wire.inboxes import PREFIX, unpack

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker

Handler = Callable[["WorkerBroker", HomeSession, Frame], None]

SPLIT = 1 << 14
"""Flag of a SUBSCRIBE between workers: its credit is a part of what the client granted."""
NO_ROOM = 1 << 15
"""Flag of a SUBSCRIBE between workers: it has no part of ``max_in_flight`` yet."""
_BATCH = 64  # bytes of a batch's header


def _publish(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    if session.waits:
        raise Later
    channel = session.channels.get(frame.channel)
    if type(channel) is not RemoteChannel:
        publish(broker, session, frame)
        return
    if broker.draining:
        raise Draining("this broker is going away: publish to another, or later")
    broker.homes.forward(channel.place, session, frame)
    meter = session.meter
    if meter is not None and len(frame.body) >= _BATCH:
        meter.spend(batches.peek(frame.body)[2], len(frame.body), broker.now)


def _open(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    body = requests.check_open(broker, session, frame)
    topic = broker.topics.get(body.topic)
    if topic is None:
        topic = _new_topic(broker, session, frame, body)
        if topic is None:
            raise Later
    channel = frame.channel
    known = session.channels.get(channel)
    if type(known) is RemoteChannel and known.opening:
        known.awaited = True  # whether it is taken is not known yet
        session.waits += 1
        raise Later
    partition = requests.to_open(broker, session, topic, body, channel)
    place = broker.owner(partition.key)
    if place == broker.place:
        requests.HANDLERS[Opcode.OPEN](broker, session, frame)
        return
    broker.homes.forward(place, session, frame)
    if known is None:
        session.open(RemoteChannel(session, channel, partition, place, frame.correlation))


def _new_topic(broker: WorkerBroker, session: HomeSession, frame: Frame, body: control.Open) -> Topic | None:
    """The topic, if that is known at once; else the session waits, with this frame as the first that it holds.

    Raises:
        PortaskError: it cannot be had.
    """
    outcome: list[Topic] = []
    correlation, channel = frame.correlation, frame.channel
    later = False

    def found(topic: Topic | None, error: PortaskError | None) -> None:
        if not later:
            if topic is None:
                raise error or RemoteProtocolError("there is no such topic")
            outcome.append(topic)
            return
        if session not in broker.sessions:
            return
        if topic is None:
            if session.inbox:
                del session.inbox[0]
            session.refuse(error or RemoteProtocolError("there is no such topic"), correlation, channel)
        broker.homes.resume(session)

    broker.topic(body.topic, body.partitions, found)
    if outcome:
        return outcome[0]
    later = True
    session.waits += 1
    return None


def _subscribe(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    body = subscribing.check_subscribe(broker, session, frame)
    places = _readers(broker, body)
    here = broker.place
    if places == [here] and not body.group:
        requests.HANDLERS[Opcode.SUBSCRIBE](broker, session, frame)
        return
    # a group is known to all, whoever has something of it
    others = broker.others() if body.group else [place for place in places if place != here]
    for place in others:
        broker.homes.reach(place, session)
    number = frame.channel
    purse = None
    if len(places) > 1:
        purse = Purse(
            places,
            body.max_in_flight > 0,
            lambda place, amounts: broker.grant(place, session, number, amounts),
            lambda place: broker.recall(place, session, number),
        )
    route = Route(others, places[0], purse)
    if session.routes is NOTHING:
        session.routes = {}
    session.routes[number] = route
    answer = subscribing.answer_subscribe(broker, session, frame)

    # who sends to an inbox is refused where nobody takes anything: it has its credit from the beginning
    inbox = body.filter.startswith(PREFIX)

    def done(ack_wait: int, error: PortaskError | None) -> None:
        answer(ack_wait, error)
        if error is None and not inbox:
            _first_credit(broker, session, number, route, body)

    bare = msgspec.structs.replace(body, messages=0, bytes=0)
    flags = 0 if purse is None else SPLIT | (NO_ROOM if body.max_in_flight else 0)
    first = home_of(body.group, broker.places) if body.group else -1
    Subscribing(
        broker,
        session,
        number,
        bare,
        elsewhere=body if inbox else bare,
        flags=flags,
        places=others,
        first=first,
        done=done,
    ).begin()


def _first_credit(
    broker: WorkerBroker, session: HomeSession, number: int, route: Route, body: control.Subscribe
) -> None:
    """All have agreed: hands out the credit that came with a SUBSCRIBE."""
    if route.purse is not None:
        route.purse.begin(body.messages, body.bytes, body.max_in_flight)
        return
    credit = control.encode(control.Credit(body.messages, body.bytes))
    if route.reader == broker.place:
        requests.HANDLERS[Opcode.CREDIT](broker, session, Frame(Opcode.CREDIT, 0, 0, number, credit))
    else:
        broker.homes.send_to(route.reader, session, Opcode.CREDIT, credit, 0, number)


def _readers(broker: WorkerBroker, body: control.Subscribe) -> list[int]:
    """The places that have, or may come to have, something of what is asked for."""
    if body.filter.startswith(PREFIX):
        return [home_of(body.filter, broker.places)]
    if is_literal(body.filter) and broker.shared is None:
        topic = broker.topics.get(body.filter)
        if topic is not None:
            chosen = [
                each
                for each in topic.partitions
                if body.partition is None or body.partition == each.key.partition
            ]
            return sorted({broker.owner(each.key) for each in chosen}) or [broker.place]
    return list(range(broker.places))


def _unsubscribe(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    route = session.routes.get(frame.channel)
    here = requests.HANDLERS[Opcode.UNSUBSCRIBE]
    if route is None or not route.places:
        here(broker, session, frame)
        return
    for place in route.places:
        broker.homes.reach(place, session)
    del session.routes[frame.channel]
    if not frame.correlation:
        for place in route.places:
            broker.homes.forward(place, session, frame)
        here(broker, session, frame)
        return
    # at once: what the client gave back just before must not be delivered to it again meanwhile
    here(broker, session, msgspec.structs.replace(frame, correlation=0))

    def gathered(_answers: dict[int, Message], _errors: dict[int, PortaskError]) -> None:
        session.connection.send(Opcode.UNSUBSCRIBE, b"", frame.correlation, frame.channel, REPLY)
        broker.mark(session)

    Gather(broker, session, gathered).ask(route.places, Opcode.UNSUBSCRIBE, b"", frame.channel)


def _credit(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    route = session.routes.get(frame.channel)
    if route is None or (route.purse is None and route.reader == broker.place):
        requests.HANDLERS[Opcode.CREDIT](broker, session, frame)
        return
    body = control.decode(frame.body, control.Credit)
    if body.messages < 0 or body.bytes < 0:
        raise RemoteProtocolError("credit is not negative")
    if route.purse is not None:
        route.purse.add(body.messages, body.bytes)
    elif frame.channel in session.subscriptions:
        broker.homes.forward(route.reader, session, frame)


def _acknowledge(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    """ACK and NACK: each worker gives out delivery channels of its own."""
    place = (frame.channel - control.DELIVERY_CHANNELS) % broker.places
    if frame.channel < control.DELIVERY_CHANNELS or place not in session.places:
        requests.HANDLERS[frame.opcode](broker, session, frame)
    else:
        broker.homes.forward(place, session, frame)


def _fetch(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    _, partition = requests.check_fetch(broker, session, frame)
    place = broker.owner(partition.key)
    if place == broker.place:
        requests.HANDLERS[Opcode.FETCH](broker, session, frame)
        return
    session.make_room()
    broker.homes.forward(place, session, frame)


def _send(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    name, _ = unpack(memoryview(frame.body))
    place = home_of(name, broker.places)
    if place != broker.place:
        broker.homes.reach(place, session)
    name, batch = inboxes.check_send(broker, session, frame)
    if place == broker.place:
        inboxes.hand_over(broker, session, frame, name, batch)
    else:
        broker.homes.forward(place, session, frame)


def _describe(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    body = control.decode(frame.body, control.Describe)
    for text in filter(None, (body.filter, body.groups)):
        check_filter(text)
    seen = visible(session)
    session.make_room()
    for place in broker.others():
        broker.homes.reach(place, session)
    gathering.describe(broker, session, body, seen, describing.answer_describe(broker, session, frame))


def _drop_group(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
    group = group_requests.check_drop(session, frame)
    for place in broker.others():
        broker.homes.reach(place, session)
    done = group_requests.answer_drop(broker, session, frame)

    def gathered(_answers: dict[int, Message], errors: dict[int, PortaskError]) -> None:
        def dropped(error: PortaskError | None) -> None:
            if error is not None:
                errors[broker.place] = error
            done(gathering.outcome_of_drop(errors, broker.places))

        try:
            broker.groups.drop(group, dropped)
        except PortaskError as error:
            dropped(error)

    Gather(broker, session, gathered).ask(
        broker.others(), Opcode.DROP_GROUP, control.encode(control.DropGroup(group))
    )


def _drain(broker: WorkerBroker, session: HomeSession, _frame: Frame) -> None:
    """The client says DRAIN: what it published elsewhere is to be acknowledged before it is answered."""
    places = [place for place in session.places if place in broker.links]
    Gather(broker, session, lambda _answers, _errors: broker.mark(session)).ask(places, Opcode.DRAIN, b"")


def _in_turn(handler: Handler) -> Handler:
    """A frame behind one that is not done yet waits."""

    def handle(broker: WorkerBroker, session: HomeSession, frame: Frame) -> None:
        if session.waits:
            raise Later
        handler(broker, session, frame)

    return handle


_ROUTES: dict[int, Handler] = {
    Opcode.PUBLISH: _publish,
    Opcode.SEND: _in_turn(_send),
    Opcode.OPEN: _in_turn(_open),
    Opcode.SUBSCRIBE: _in_turn(_subscribe),
    Opcode.UNSUBSCRIBE: _in_turn(_unsubscribe),
    Opcode.CREDIT: _in_turn(_credit),
    Opcode.ACK: _in_turn(_acknowledge),
    Opcode.NACK: _in_turn(_acknowledge),
    Opcode.FETCH: _in_turn(_fetch),
    Opcode.DESCRIBE: _in_turn(_describe),
    Opcode.DROP_GROUP: _in_turn(_drop_group),
    Opcode.PONG: _in_turn(requests.HANDLERS[Opcode.PONG]),
    Opcode.ERROR: _in_turn(requests.HANDLERS[Opcode.ERROR]),
    Opcode.DRAIN: _in_turn(_drain),
}
ROUTES = cast("requests.Handlers", _ROUTES)  # the sessions of a worker's clients are home sessions
