"""Parts of subscriptions' credit at an owner; see `portask.multicore.purses` for where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from portask.core.partitions import Subscription
from portask.core.ranges import NEVER
from portask.core.session import Session
from portask.multicore.deliveries import has_work, is_reading, is_short
from portask.multicore.links import Aside, Kind, Message
from portask.multicore.purses import Amounts
from portask.multicore.routing import NO_ROOM, SPLIT
from portask.multicore.sessions import HomeSession, Proxy

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker

_MOST = 1 << 62  # what the messages between workers carry


class Credits:
    """Of one worker: the subscriptions, its own clients' and proxies', whose credit is shared with other workers."""

    def __init__(self, broker: WorkerBroker) -> None:
        self._broker = broker
        self._wanting: dict[Subscription, bool] = {}  # whether it was said that it has too little
        self._seen: dict[Subscription, int] = {}  # grants
        self._recalled: dict[Subscription, None] = {}
        self._owing: dict[Subscription, None] = {}  # what they get back of records in flight is not theirs

    def begin(self, session: Session, number: int, flags: int) -> None:
        """A subscription was made here, as ``flags`` of `portask.multicore.routing` say."""
        subscription = session.subscriptions.get(number)
        if subscription is None or not flags & SPLIT:
            return
        self._wanting[subscription] = False
        if flags & NO_ROOM and subscription.member is not None:
            subscription.member.limit = 0

    def forget(self, subscription: Subscription) -> None:
        """It is over."""
        self._wanting.pop(subscription, None)
        self._seen.pop(subscription, None)
        self._owing.pop(subscription, None)
        self._recalled.pop(subscription, None)

    def starving(self, subscription: Subscription) -> None:
        """It has something to read, and too little credit."""
        if self._wanting.get(subscription) is False:
            self._give_back(subscription, wants=True)

    def granted(self, session: Session, number: int, amounts: Amounts) -> None:
        """It gets more."""
        subscription = session.subscriptions.get(number)
        if subscription not in self._wanting or subscription is None:
            return  # it crossed an UNSUBSCRIBE on the way
        messages, size, in_flight = amounts
        subscription.messages += messages
        subscription.bytes += size
        self._wanting[subscription] = False
        self._seen[subscription] = self._seen.get(subscription, 0) + 1
        self._owing.pop(subscription, None)
        member = subscription.member
        if member is None:
            self._broker.delivery.nudge(subscription)
        else:
            member.limit += in_flight
            self._broker.groups.nudge(member)
        if is_short(subscription) and has_work(subscription):
            self.starving(subscription)

    def recalled(self, session: Session, number: int) -> None:
        """What it does not use is to be given back, at the end of the turn: what was just granted may be used in it."""
        subscription = session.subscriptions.get(number)
        if subscription is not None and subscription in self._wanting:
            self._recalled[subscription] = None

    def settle(self) -> None:
        """The end of a turn: what was recalled, or acknowledged and is owed, goes back."""
        for subscription in list(self._owing):
            member = subscription.member
            slack = 0 if member is None else member.limit - member.in_flight
            if member is not None and slack > 0:
                member.limit -= slack
                self._send(subscription, (0, 0, slack), wants=self._wanting[subscription])
        busy: dict[Subscription, None] = {}
        while self._recalled:  # what one gives back may have another recalled
            subscription, _ = self._recalled.popitem()
            if is_reading(subscription) and subscription.ready():
                busy[subscription] = None  # it is about to use some
            elif subscription in self._wanting:
                self._give_back(subscription, wants=self._wanting[subscription] or has_work(subscription))
        self._recalled = busy

    def returned(self, session: HomeSession, place: int, message: Message) -> None:
        """An owner gives back a part of a client's."""
        route = session.routes.get(message.channel)
        if route is not None and route.purse is not None:
            amounts, seen = msgspec.msgpack.decode(message.body, type=tuple[tuple[int, int, int], int])
            route.purse.returned(place, amounts, wants=bool(message.flags), seen=seen)

    def _give_back(self, subscription: Subscription, *, wants: bool) -> None:
        amounts = [subscription.messages, subscription.bytes, 0]
        subscription.messages = subscription.bytes = 0
        member = subscription.member
        if member is not None and member.limit < NEVER:
            slack = max(0, member.limit - member.in_flight)
            member.limit -= slack
            amounts[2] = slack
            self._owing[subscription] = None
        self._wanting[subscription] = wants
        messages, size, in_flight = (max(-_MOST, min(_MOST, amount)) for amount in amounts)
        self._send(subscription, (messages, size, in_flight), wants=wants)

    def _send(self, subscription: Subscription, amounts: Amounts, *, wants: bool) -> None:
        session, number = subscription.session, subscription.channel
        seen = self._seen.get(subscription, 0)
        if isinstance(session, Proxy):
            body = msgspec.msgpack.encode((amounts, seen))
            flags = 1 if wants else 0
            session.link.send(
                Kind.BACK, session.number, (body,), len(body), Aside.RETURN, flags, channel=number
            )
        elif isinstance(session, HomeSession):
            route = session.routes.get(number)
            if route is not None and route.purse is not None:
                route.purse.returned(self._broker.place, amounts, wants=wants, seen=seen)
