"""The receiving half of a client: its subscriptions, and which delivery channel is whose on the present link."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from portask.client.codecs import Decoder
from portask.client.link import Link
from portask.client.options import GOODBYE, Options
from portask.client.positions import Position
from portask.client.subscription import Subscription
from portask.errors import NotConnected, PortaskError, RemoteProtocolError, RequestTimeout
from portask.wire import control
from portask.wire.batches import MAX_RAW_LENGTH
from portask.wire.frames import WINDOW, Frame, Opcode

FIRST_CHANNEL = 1 << 30
"""Subscriptions count up from here, publishing channels from 1: they never meet."""


_MOST_PARTITIONS = 65_536


def _check(body: control.Assigned) -> None:
    """Numbers that tables are built from are not taken on trust."""
    possible = 0 <= body.partition < _MOST_PARTITIONS and body.offset >= 0
    if not possible or body.delivery < control.DELIVERY_CHANNELS:
        raise RemoteProtocolError(f"an assignment that cannot be: {body}")


class Subscriber:
    """Belongs to one client; outlives its links.

    Attributes:
        options: The client's.
        decoder: Opens batches; set once the codec is known.
        link: The present one; ``None`` between two.
        max_raw: Most raw bytes that one batch may unfold to.
    """

    decoder: Decoder

    def __init__(self, options: Options) -> None:
        self.options = options
        self.link: Link | None = None
        self.max_raw = MAX_RAW_LENGTH
        self._over: PortaskError | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._deliveries: dict[int, Position] = {}
        self._numbers = FIRST_CHANNEL

    def next_number(self) -> int:
        """A channel number for a subscription."""
        self._numbers += 1
        return self._numbers

    def subscriptions(self) -> list[Subscription]:
        """Those that are under way."""
        return list(self._subscriptions.values())

    def check_open(self) -> None:
        """Raises `NotConnected` once the client is closed or gave up."""
        if self._over is not None:
            raise NotConnected(str(self._over))

    def add(self, number: int, subscription: Subscription) -> None:
        """Begins a subscription, now or on the next link."""
        self._subscriptions[number] = subscription
        if self.link is not None and self.link.usable:
            subscription.begin(self.link)

    def remove(self, number: int) -> None:
        """The subscription is over; what still arrives for it is ignored."""
        subscription = self._subscriptions.pop(number, None)
        self._deliveries = {
            channel: position
            for channel, position in self._deliveries.items()
            if position.subscription is not subscription
        }

    async def unsubscribe(self, number: int) -> None:
        """Tells the broker, and waits for its answer if there is a link."""
        link = self.link
        if link is not None and link.alive:
            with suppress(NotConnected, RequestTimeout):  # a broker that is gone has forgotten it too
                timeout = min(GOODBYE, self.options.request_timeout)
                await link.request(
                    Opcode.UNSUBSCRIBE, b"", channel=number, timeout=timeout, about="UNSUBSCRIBE"
                )

    def send(self, opcode: int, body: msgspec.Struct, channel: int) -> None:
        """Sends a one-way frame with the others of this iteration of the loop."""
        link = self.link
        if link is not None and link.alive and channel:
            link.send(opcode, control.encode(body), 0, channel)
            link.write_soon()

    # ── frames ────────────────────────────────────────────────────────────────────────────────────────────────────

    def assigned(self, link: Link, frame: Frame) -> None:
        """SUBSCRIBE reply that assigns a partition."""
        subscription = self._subscriptions.get(frame.channel)
        if subscription is not None:
            body = control.decode(frame.body, control.Assigned)
            if body.topic:
                _check(body)
                self._deliveries[body.delivery] = subscription.assigned(body)

    def deliver(self, link: Link, frame: Frame) -> None:
        """DELIVER."""
        position = self._deliveries.get(frame.channel)
        if position is not None:
            if position.windowed is not bool(frame.flags & WINDOW):
                raise RemoteProtocolError(
                    "a DELIVER has a window if, and only if, it is for a group's member"
                )
            position.subscription.arrived(position, memoryview(frame.body))

    # ── links ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def link_up(self, link: Link) -> None:
        """A new link: every subscription is made again."""
        self.link = link
        for subscription in list(self._subscriptions.values()):
            subscription.begin(link)

    def link_lost(self) -> None:
        """Delivery channels belong to the link."""
        self.link = None
        self._deliveries.clear()

    def end(self, error: PortaskError | None, reason: PortaskError) -> None:
        """The client is over. Iterators end, with ``error`` if there is one; new subscriptions get ``reason``."""
        self._over = reason
        self.link = None
        self._deliveries.clear()
        for subscription in list(self._subscriptions.values()):
            subscription.end(error)
