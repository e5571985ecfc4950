"""When the storage has no room: who publishes waits, if waiting helps.

What must hold: a storage with a limit never passes it, nothing is dropped, and nobody waits for what cannot come.

- Retention is applied at once, and not only with the timers: much of the time that makes room.
- Where records expire by age, time will make room. So a publish that does not fit is kept, its connection is not read,
  and both go on when there is room. Meanwhile it gets PINGs, so that its client does not take the broker for dead, and
  it is not hung up on for its silence. Consumers are served all the time.
- Elsewhere nothing would ever make room: the publish is refused with `StorageFull`, which says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from portask.contracts import Bounded
from portask.core.pacing import SIGN
from portask.core.session import Later, Session
from portask.wire.connection import State
from portask.wire.frames import Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker

QUIET = 60_000_000
"""µs between two lines of the log that say so."""
SPARE = 3_000_000
"""µs that a publish waits longer than the oldest record may become: retention works by whole batches and seconds."""

log = structlog.get_logger("portask.broker")


class Shortage:
    """Belongs to one broker.

    Attributes:
        waiting: Sessions whose next publish does not fit, and when they got their last sign of life, µs.
    """

    __slots__ = ("_broker", "_granted", "_logged", "_room", "_since", "_vain", "waiting")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        storage = broker.storage
        self._room = storage.room if isinstance(storage, Bounded) else None
        self.waiting: dict[Session, int] = {}
        self._since: dict[Session, int] = {}
        self._vain = -1
        self._granted = 0
        self._logged = -QUIET

    def check(self, session: Session, size: int) -> None:
        """Called before an append of so many bytes.

        Raises:
            Later: it has to wait. Without it the storage may still say `StorageFull`.
        """
        room = self._room
        if room is None:
            return
        if room() >= size:
            if self._since:
                self._since.pop(session, None)
            return
        broker = self._broker
        if self._vain != broker.turns:  # where it did not help, it does not help again in the same turn
            broker.retain(broker.now)
            if room() < size:
                self._vain = broker.turns
        now = broker.now
        oldest = self._oldest()
        since = self._since.setdefault(session, now)
        # what was stored then has expired since: what still does not fit never will
        if room() >= size or not oldest or now > max(since, self._granted) + oldest + SPARE:
            del self._since[session]
            return
        if now >= self._logged + QUIET:
            self._logged = now
            log.warning("the storage is full: publishers wait until retention makes room", peer=session.peer)
        self.waiting[session] = now
        raise Later

    def forget(self, session: Session) -> None:
        """The connection is gone."""
        self.waiting.pop(session, None)
        self._since.pop(session, None)

    def retry(self) -> None:
        """Lets all look again, in the order in which they came; those that do not fit yet wait on."""
        waiting, self.waiting = self.waiting, {}
        self._broker.arrived.update(dict.fromkeys(waiting))

    def sweep(self, now: int) -> None:
        """Once a second, when retention was applied: those go on for whom there is room now, the first ones first."""
        if not self.waiting or self._room is None:
            return
        room = self._room()
        late = now - self._oldest() - SPARE
        for session, since in list(self.waiting.items()):
            size = len(session.inbox[0].body) if session.inbox else 0
            if size <= room:
                self._granted = now
            if size <= room or max(self._since[session], self._granted) < late:
                room -= size
                del self.waiting[session]
                self._broker.arrived[session] = None
                continue
            session.last_seen = now  # it may have said a lot that nobody reads
            if since + SIGN <= now and session.connection.state is State.OPEN:
                self.waiting[session] = now
                session.connection.send(Opcode.PING)
                self._broker.mark(session)

    def _oldest(self) -> int:
        """How old a record may become, µs; 0 where none expires by age."""
        return max((policy.age or 0 for policy in self._broker.options.retention.values()), default=0)
