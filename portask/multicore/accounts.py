"""What identities have at all workers together, so that their limits are those of the broker.

Each worker tells the others how many connections and subscriptions an identity has there, at the end of the turn in
which that changed. So a limit may be passed by as many as come to different workers within the same fraction of a
millisecond; those stay. Rates are divided evenly among the workers that have connections of the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from portask.core.accounts import Account
from portask.multicore.links import Kind, Link, Message

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker


class Accounts:
    """Of one worker."""

    def __init__(self, broker: WorkerBroker) -> None:
        self._broker = broker
        self._elsewhere: dict[int, dict[str, tuple[int, int]]] = {}
        self._changed: dict[Account, None] = {}

    def changed(self, account: Account) -> None:
        """It is not as it was, or is new here: then it may have something elsewhere already."""
        self._changed[account] = None
        self._apply(account)
        if not self._broker.in_turn:
            self._broker.wake()

    def settle(self) -> None:
        """The end of a turn: the others are told."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for account in changed:
            for link in self._broker.links.values():
                self._tell(link, account)

    def greet(self, link: Link) -> None:
        """Another worker has to know all."""
        for account in self._broker.admission.accounts.values():
            self._tell(link, account)

    def heard(self, link: Link, message: Message) -> None:
        """Another worker says what an identity has there."""
        name, *counts = msgspec.msgpack.decode(message.body, type=tuple[str, int, int])
        known = self._elsewhere.setdefault(link.place, {})
        if any(counts):
            known[name] = (counts[0], counts[1])
        else:
            known.pop(name, None)
        self._apply(self._broker.admission.accounts.get(name))

    def gone(self, place: int) -> None:
        """A worker is gone, with all that anybody had there."""
        for name in self._elsewhere.pop(place, {}):
            self._apply(self._broker.admission.accounts.get(name))

    def _tell(self, link: Link, account: Account) -> None:
        counts = (account.name, len(account.sessions), len(account.subscriptions))
        self._broker.tell(link, Kind.ACCOUNT, counts)

    def _apply(self, account: Account | None) -> None:
        if account is None:
            return
        others = [known[account.name] for known in self._elsewhere.values() if account.name in known]
        account.elsewhere = (sum(each[0] for each in others), sum(each[1] for each in others))
        sharing = sum(each[0] > 0 for each in others) + (len(account.sessions) > 0)
        account.share(max(1, sharing), self._broker.now)
