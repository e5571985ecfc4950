"""Requests that several workers answer, and the client hears one answer.

While one is under way its session waits: what the client asks next must find it done. Requests and answers travel with
the correlation id `GATHERED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from portask.core import describing
from portask.core.subscribing import Subscribed
from portask.errors import OffsetOutOfRange, PortaskError, UnknownGroup, from_code
from portask.multicore.links import Message
from portask.multicore.owners import owner_of
from portask.multicore.sessions import HomeSession
from portask.wire import control
from portask.wire.frames import Opcode

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker

GATHERED = 0xFFFFFFFF
_ANY_SIZE = 1 << 32


def error_in(body: memoryview) -> PortaskError:
    """The error that an ERROR of another worker says."""
    said = control.decode(body, control.Error)
    if said.code == OffsetOutOfRange.code:
        return OffsetOutOfRange(said.message, said.first, said.next)
    return from_code(said.code, said.message)


class Gather:
    """Waits for an answer of each place; ``done`` gets the answers by place, or what went wrong there.

    Args:
        broker: The client's home.
        session: Of the client.
        done: Called once, unless the session is gone before.
    """

    def __init__(
        self,
        broker: WorkerBroker,
        session: HomeSession,
        done: Callable[[dict[int, Message], dict[int, PortaskError]], None],
    ) -> None:
        self._broker = broker
        self._session = session
        self._done = done
        self._missing: set[int] = set()
        self._answers: dict[int, Message] = {}
        self._errors: dict[int, PortaskError] = {}
        self._waits = False

    def ask(self, places: Iterable[int], opcode: int, body: bytes, channel: int = 0) -> None:
        """Asks them, and waits, if there are any."""
        self._missing.update(places)
        if self._missing and not self._waits:
            self._waits = True
            self._session.waits += 1
            self._session.answer = self._answer
        for place in self._missing:
            self._broker.homes.send_to(place, self._session, opcode, body, GATHERED, channel)
        if not self._missing:
            self._finish()

    def _answer(self, place: int, message: Message) -> None:
        if message.opcode == Opcode.ERROR:
            self._errors[place] = error_in(message.body)
        else:
            self._answers[place] = message
        self._missing.discard(place)
        if not self._missing:
            self._finish()

    def _finish(self) -> None:
        if self._waits:
            self._session.answer = None
        self._done(self._answers, self._errors)
        if self._waits:
            self._broker.homes.resume(self._session)


class Subscribing:
    """One SUBSCRIBE, at its home and at other places, in stages; an error of any takes all back.

    A group is asked for at its home first, so that of two clients who want it differently the same one is first
    everywhere. Here comes before the other places: they are told on the way of the group that is here now.

    Args:
        broker: The client's home.
        session: Of the client.
        number: The subscription's channel.
        body: What is asked for, without credit: nothing may be delivered before all have agreed.
        elsewhere: What the others are asked for: the same, unless they are one, and here has nothing to refuse.
        flags: See `portask.multicore.routing`.
        places: The others to ask.
        first: The place to ask before all others; -1 for none.
        done: Gets the outcome.
    """

    def __init__(
        self,
        broker: WorkerBroker,
        session: HomeSession,
        number: int,
        body: control.Subscribe,
        *,
        elsewhere: control.Subscribe,
        flags: int,
        places: Sequence[int],
        first: int,
        done: Subscribed,
    ) -> None:
        self._broker = broker
        self._session = session
        self._number = number
        self._body = body
        self._elsewhere = elsewhere
        self._flags = flags
        self._done = done
        self._error: PortaskError | None = None
        self._ack_wait = 0
        self._over = False
        self._asked: list[int] = []
        self._missing: set[int] = set()
        rest = [place for place in places if place != first]
        here = [] if first == broker.place else [broker.place]
        self._stages = [[first], here + rest] if first >= 0 else [here + rest]

    def begin(self) -> None:
        """Asks."""
        self._session.waits += 1
        self._session.answer = self._answer
        self._next()

    def _next(self) -> None:
        places = self._stages.pop(0)
        self._missing.update(places)
        for place in places:
            if self._error is None:
                self._asked.append(place)
                self._ask(place)
            else:
                self._missing.discard(place)
        self._settle()

    def _ask(self, place: int) -> None:
        session, number = self._session, self._number
        if place != self._broker.place:
            data = control.encode(self._elsewhere)
            self._broker.homes.send_to(place, session, Opcode.SUBSCRIBE, data, GATHERED, number, self._flags)
            return
        try:
            self._broker.subscribe(session, number, self._body, self._flags, self._here)
        except PortaskError as error:
            self._here(0, error)

    def _here(self, ack_wait: int, error: PortaskError | None) -> None:
        self._came(self._broker.place, ack_wait, error)

    def _answer(self, place: int, message: Message) -> None:
        if message.opcode == Opcode.ERROR:
            self._came(place, 0, error_in(message.body))
        else:
            self._came(place, control.decode(message.body, control.Assigned).ack_wait, None)

    def _came(self, place: int, ack_wait: int, error: PortaskError | None) -> None:
        self._missing.discard(place)
        self._ack_wait = max(self._ack_wait, ack_wait)
        if error is not None:
            self._error = self._error or error
            self._asked.remove(place)
        self._settle()

    def _settle(self) -> None:
        if self._missing or self._over:
            return
        if self._stages and self._error is None:
            self._next()
            return
        self._over = True
        session = self._session
        session.answer = None
        if self._error is not None:
            self._take_back()
        self._done(self._ack_wait, self._error)
        self._broker.homes.resume(session)

    def _take_back(self) -> None:
        session, number = self._session, self._number
        session.routes.pop(number, None)
        subscription = session.subscriptions.pop(number, None)
        if subscription is not None:
            self._broker.forget(subscription)
        for place in self._asked:
            if place != self._broker.place:
                self._broker.homes.send_to(place, session, Opcode.UNSUBSCRIBE, b"", 0, number)


def describe(
    broker: WorkerBroker,
    session: HomeSession,
    body: control.Describe,
    seen: Callable[[str], bool],
    done: describing.Describing,
) -> None:
    """Asks all, and this one too; ``done`` gets one answer."""
    parts: dict[int, control.Described] = {}

    def here(part: control.Described | None, error: PortaskError | None) -> None:
        if part is None:
            done(None, error)
            return
        parts[broker.place] = part
        done(merged(parts, broker.places, seen, broker.connections), None)

    def gathered(answers: dict[int, Message], errors: dict[int, PortaskError]) -> None:
        for error in errors.values():
            done(None, error)
            return
        for place, message in answers.items():
            parts[place] = control.decode(message.body, control.Described, _ANY_SIZE)
        describing.describe(broker, body, lambda _: True, here)

    Gather(broker, session, gathered).ask(broker.others(), Opcode.DESCRIBE, control.encode(body))


def merged(
    parts: dict[int, control.Described], places: int, seen: Callable[[str], bool], connections: int
) -> control.Described:
    """One answer from those of all places: of each partition, what its owner says."""
    topics: dict[str, dict[int, control.PartitionInfo]] = {}
    groups: dict[str, list[control.GroupInfo]] = {}
    duplicates = 0
    for place, part in sorted(parts.items()):
        duplicates += part.duplicates
        for topic in filter(lambda each: seen(each.topic), part.topics):
            known = topics.setdefault(topic.topic, {})
            for info in topic.partitions:
                if owner_of(topic.topic, info.partition, places) == place:
                    known[info.partition] = info
                else:
                    known.setdefault(info.partition, info)
        for group in filter(lambda each: seen(each.group), part.groups):
            groups.setdefault(group.group, []).append(group)
    first = parts[min(parts)]
    return control.Described(
        [
            control.TopicInfo(name, [infos[number] for number in sorted(infos)])
            for name, infos in sorted(topics.items())
        ],
        first.durability,
        connections,
        first.broker,
        first.settings,
        groups=[_one_group(groups[name], seen) for name in sorted(groups)],
        duplicates=duplicates,
        promise=first.promise,
    )


def _one_group(parts: Sequence[control.GroupInfo], seen: Callable[[str], bool]) -> control.GroupInfo:
    """A group whose members are at several places, each with what it has there."""
    members: dict[tuple[str, str, int], control.MemberInfo] = {}
    for part in parts:
        several: dict[tuple[str, str], int] = {}
        for member in part.members:
            # two subscriptions of one client join in the same order everywhere
            number = several[member.peer, member.client] = several.get((member.peer, member.client), -1) + 1
            known = members.setdefault(
                (member.peer, member.client, number), control.MemberInfo(member.peer, member.client, 0)
            )
            known.in_flight += member.in_flight
    partitions = [each for part in parts for each in part.partitions if seen(each.topic)]
    first = max(parts, key=lambda each: len(each.partitions))  # who has some knows what was agreed on
    return control.GroupInfo(
        first.group,
        first.ack_wait,
        first.max_deliveries,
        first.dead_letter,
        list(members.values()),
        sorted(partitions, key=lambda each: (each.topic, each.partition)),
    )


def outcome_of_drop(errors: dict[int, PortaskError], places: int) -> PortaskError | None:
    """What came of a DROP_GROUP, from what went wrong where: not to have had it is no fault if another had it."""
    for error in errors.values():
        if not isinstance(error, UnknownGroup):
            return error
    if len(errors) < places:
        return None
    return next(iter(errors.values()), None)
