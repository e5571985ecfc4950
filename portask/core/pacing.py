"""Who has to wait: connections that publish faster than they may, and answers that are held back.

A connection that waits is not read, so what it sends piles up at its own end. When its time comes, or after `SIGN` µs,
it is looked at again; one that has to go on waiting gets a PING, so that its client does not take the broker for dead.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from portask.core.ranges import NEVER
from portask.wire.connection import State
from portask.wire.frames import Opcode, Outgoing

if TYPE_CHECKING:
    from portask.core.accounts import Account
    from portask.core.broker import Broker
    from portask.core.session import Session

SIGN = 3_000_000
"""µs between signs of life."""


class Pacing:
    """Belongs to one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._resting: list[tuple[int, int, Session]] = []
        self._numbers = count()
        self._withheld: dict[Session, list[Outgoing]] = {}

    @property
    def due(self) -> int:
        """When `rouse` should be called, µs; `NEVER` if nobody waits."""
        return self._resting[0][0] if self._resting else NEVER

    def rouse(self, now: int) -> None:
        """Looks at those again whose time has come."""
        resting = self._resting
        while resting and resting[0][0] <= now:
            _, _, session = heappop(resting)
            session.rests = False
            if session not in self._broker.sessions:
                continue
            meter = session.meter
            open_ = session.connection.state is State.OPEN
            if open_ and meter is not None and meter.spent and meter.ready > now:
                session.connection.send(Opcode.PING)
            self._broker.mark(session)

    def _rest(self, session: Session, until: int) -> None:
        if not session.rests:
            session.rests = True
            heappush(self._resting, (until, next(self._numbers), session))

    def silences(self, session: Session, now: int) -> bool:
        """Whether the last words of a closed connection wait; if not any more, they leave now."""
        if not session.answer_at:
            return False
        if session.answer_at > now:
            self._withheld.setdefault(session, []).extend(session.output)
            session.output.clear()
            self._rest(session, session.answer_at)
            return True
        session.answer_at = 0
        session.output.extend(self._withheld.pop(session, ()))
        return False

    def forget(self, session: Session) -> None:
        """The connection is gone."""
        self._withheld.pop(session, None)

    def holds(self, session: Session, now: int) -> bool:
        """A session's end of the turn: whether it must not be read for now."""
        held = False
        meter = session.meter
        if meter is not None and meter.spent:
            due = meter.ready
            held = due > now
            if held:
                self._rest(session, min(due, now + SIGN))
            else:
                meter.spent = False
        account = session.standing.account
        if account is not None:
            held = self._settle(session, account) or held
        return held

    def _settle(self, session: Session, account: Account) -> bool:
        standing = session.standing
        account.unacked += session.unacked - standing.counted
        standing.counted = session.unacked
        if account.full and session.unacked:
            account.waiting[session] = None
            return True
        account.waiting.pop(session, None)
        self.relieve(account)
        return False

    def relieve(self, account: Account) -> None:
        """Looks at those again who waited for others of their identity."""
        if account.waiting and not account.full:
            waiting, account.waiting = account.waiting, {}
            for session in waiting:
                self._broker.mark(session)
