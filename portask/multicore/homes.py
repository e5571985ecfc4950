"""Clients that are connected here, as far as they have business elsewhere: the way there and back.

A frame that cannot be handed on now makes its session wait (`Later`): its frames stay in its inbox, and it is not read,
until there is a way and room on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.core.nothing import NOTHING
from portask.core.session import Later
from portask.multicore.gathering import GATHERED, error_in
from portask.multicore.links import Aside, Kind, Link, Message
from portask.multicore.sessions import Attached, HomeSession, RemoteChannel
from portask.wire.frames import HEADER_SIZE, Frame, Opcode

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker

_STRAIGHT = frozenset({int(Opcode.DELIVER), int(Opcode.PUBACK)})


class Homes:
    """Of one worker.

    Attributes:
        clients: Those that have a proxy somewhere, by number.
        waiting: Those that wait for a link, or for room in it, by place.
    """

    def __init__(self, broker: WorkerBroker) -> None:
        self._broker = broker
        self.clients: dict[int, HomeSession] = {}
        self.waiting: dict[int, dict[HomeSession, None]] = {}
        self._last_number = 0
        self._congestion: dict[HomeSession, None] = {}

    # ── there ─────────────────────────────────────────────────────────────────────────────────────────────

    def reach(self, place: int, session: HomeSession) -> Link:
        """The way to a place, with a proxy of the session there.

        Raises:
            Later: there is no way now, or no room on it; the session waits.
        """
        link = self._broker.links.get(place)
        if link is None or link.full or not link.greeted:
            self.waiting.setdefault(place, {})[session] = None
            session.waits += 1
            raise Later
        if place not in session.places:
            self._attach(link, session)
        return link

    def forward(self, place: int, session: HomeSession, frame: Frame) -> None:
        """Hands a frame on. Raises `Later` like `reach`."""
        body = frame.body
        self.reach(place, session).send(
            Kind.FRAME,
            session.number,
            (body,),
            len(body),
            frame.opcode,
            frame.flags,
            frame.correlation,
            frame.channel,
        )

    def send_to(  # noqa: PLR0917 - a head's fields, in their order
        self,
        place: int,
        session: HomeSession,
        opcode: int,
        body: bytes,
        correlation: int = 0,
        channel: int = 0,
        flags: int = 0,
    ) -> None:
        """Sends a frame of our own to the session's proxy; without a way there the session is over."""
        link = self._broker.links.get(place)
        if link is None:
            self.hang_up(session)
            return
        if place not in session.places:
            self._attach(link, session)
        link.send(Kind.FRAME, session.number, (body,), len(body), opcode, flags, correlation, channel)

    def _attach(self, link: Link, session: HomeSession) -> None:
        if not session.number:
            # Not that of a client that just left: elsewhere, what was under way for it may not be done yet.
            number = self._last_number + 1
            while not number or number in self.clients:
                number = (number + 1) & 0xFFFFFFFF
            session.number = self._last_number = number
            self.clients[session.number] = session
        if session.places is NOTHING:
            session.places = {}
        session.places[link.place] = None
        connection = session.connection
        attached = Attached(session.peer, connection.client, connection.max_batch)
        self._broker.tell(link, Kind.ATTACH, attached, session.number)
        if session.congested:
            link.send(Kind.CONGESTED, session.number)

    def resume(self, session: HomeSession) -> None:
        """One thing that the session waited for has come."""
        session.waits -= 1
        if session in self._broker.sessions:
            if session.inbox and not session.waits:
                self._broker.arrived[session] = None
            self._broker.mark(session)

    def hang_up(self, session: HomeSession) -> None:
        """Ends a connection so that its client connects again."""
        if not session.gone:
            session.connection.hang_up()
        self._broker.mark(session)

    def congestion_changed(self, session: HomeSession) -> None:
        """The client does not read what is written to it, or does again."""
        if session.places:
            self._congestion[session] = None
            if not self._broker.in_turn:
                self._broker.wake()

    def tell_congestion(self) -> None:
        """Has proxies know, at the beginning of a turn."""
        changed, self._congestion = self._congestion, {}
        for session in changed:
            for place in session.places:
                self._broker.links[place].send(
                    Kind.CONGESTED, session.number, flags=0 if session.congested else 1
                )

    def left(self, session: HomeSession) -> None:
        """The client is gone: its proxies are told."""
        if not self.clients.pop(session.number, None):
            return
        for place in session.places:
            link = self._broker.links.get(place)
            if link is not None:
                link.send(Kind.DETACH, session.number)
        session.places.clear()
        session.routes.clear()
        session.answer = None
        self._congestion.pop(session, None)
        if not self._broker.in_turn:
            self._broker.wake()  # the others should hear of it

    def lost(self, place: int) -> None:
        """A worker is gone: so are the clients that had business there."""
        for session in [each for each in self.clients.values() if place in each.places]:
            del session.places[place]
            self.hang_up(session)

    # ── and back ──────────────────────────────────────────────────────────────────────────────────────────

    def back(self, session: HomeSession, link: Link, message: Message) -> None:
        """A proxy's output: goes to the client as it is, unless it is meant for us."""
        _, opcode, flags, _, correlation, channel, body = message
        if session.gone:
            return
        if opcode not in _STRAIGHT and not self._is_for_client(session, link, message):
            return
        length = len(body)
        if session.congested and opcode == Opcode.DELIVER and not correlation:
            # on its way before its owner knew: what it did not ask for is no reason not to hear it
            session.owed -= HEADER_SIZE + length
        session.connection.output.append(
            (opcode, flags, length, correlation, channel, (body,) if length else ())
        )
        self._broker.mark(session)

    def _is_for_client(self, session: HomeSession, link: Link, message: Message) -> bool:
        opcode, correlation = message.opcode, message.correlation
        if opcode in {Opcode.OPEN, Opcode.ERROR}:
            self._opened(session, message)
        if opcode == Aside.RETURN:
            self._broker.credits.returned(session, link.place, message)
        elif opcode == Aside.PAUSE:
            if not message.flags:
                session.paused_by |= {link.place}
                session.waits += 1
            elif link.place in session.paused_by:
                session.paused_by -= {link.place}
                self.resume(session)
        elif opcode == Opcode.ERROR and not correlation:
            session.connection.fail(error_in(message.body))
            self._broker.mark(session)
        elif session.answer is not None and (correlation == GATHERED or opcode == Opcode.DRAIN):
            session.answer(link.place, message)
        elif opcode != Opcode.DRAIN:
            return True
        return False

    def _opened(self, session: HomeSession, message: Message) -> None:
        """An OPEN was answered, or something else failed."""
        channel = session.channels.get(message.channel)
        if (
            type(channel) is not RemoteChannel
            or channel.opening != message.correlation
            or not channel.opening
        ):
            return
        channel.opening = 0
        if message.opcode == Opcode.ERROR:
            del session.channels[message.channel]
        if channel.awaited:
            channel.awaited = False
            self.resume(session)
