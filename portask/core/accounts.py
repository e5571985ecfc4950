"""What the connections of one identity have together, and what one of them has of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from portask.config.access import ACTIONS
from portask.core.identities import Credentials, Identity
from portask.core.rates import Bucket, buckets
from portask.errors import NotPermitted

if TYPE_CHECKING:
    from portask.core.partitions import Subscription
    from portask.core.session import Session

ANYONE = Identity("", dict.fromkeys(ACTIONS, (">",)))
"""Where nobody is asked."""


class Account:
    """Of one identity. Stays when its connections are gone, or the next one would find its buckets full.

    Attributes:
        name: Of the identity.
        limits: Likewise.
        sessions: Its connections.
        subscriptions: Of all of them.
        unacked: Bytes of publishes that wait for the storage, as of the end of the last turn, if they are limited.
        waiting: Connections that are not read until ``unacked`` is within the limit again.
        messages: The bucket for them, if there is a limit.
        bytes: Likewise.
        elsewhere: Its connections and subscriptions at the broker's other processes.
    """

    def __init__(self, identity: Identity, now: int) -> None:
        self.name = identity.name
        self.elsewhere = (0, 0)
        self._sharing = 1
        self.sessions: dict[Session, None] = {}
        self.subscriptions: dict[Subscription, None] = {}
        self.unacked = 0
        self.waiting: dict[Session, None] = {}
        self.set_limits(identity, now)

    def set_limits(self, identity: Identity, now: int) -> None:
        """Takes over what the identity has now; buckets start full."""
        self.limits = identity.limits
        self.messages: tuple[Bucket, ...] = buckets(self._part(identity.limits.messages), now)
        self.bytes: tuple[Bucket, ...] = buckets(self._part(identity.limits.bytes), now)

    def share(self, sharing: int, now: int) -> None:
        """So many of the broker's processes have connections of the identity: each lets its part through."""
        if sharing != self._sharing:
            self._sharing = sharing
            for rate, filled in ((self.limits.messages, self.messages), (self.limits.bytes, self.bytes)):
                for bucket in filled:
                    bucket.change(self._part(rate), now)

    def _part(self, rate: int) -> int:
        return max(1, rate // self._sharing) if rate else 0

    @property
    def full(self) -> bool:
        """Whether more waits for the storage than may."""
        return 0 < self.limits.unacked < self.unacked


class Standing:
    """Of one connection.

    Attributes:
        identity: Whose it is.
        credentials: By which that was found out; it is again when the rules change.
        account: Of the identity; ``None`` where nobody is asked.
        counted: Of the session's unacknowledged bytes, those that the account knows of.
    """

    __slots__ = ("account", "counted", "credentials", "identity")

    def __init__(self, identity: Identity, credentials: Credentials, account: Account | None = None) -> None:
        self.identity = identity
        self.credentials = credentials
        self.account = account
        self.counted = 0


STRANGER = Standing(Identity("", {}), Credentials())
"""Before HELLO, and after the end: nothing is allowed."""
VISITOR = Standing(ANYONE, Credentials())
"""Who shows nothing where nobody is asked: one for all of them."""


def permit(session: Session, action: str, text: str) -> None:
    """Raises `NotPermitted` unless the session's identity may do this with all that ``text`` can mean."""
    identity = session.standing.identity
    if identity is ANYONE or identity.may(action, text):
        return
    raise NotPermitted(
        f"{identity.name!r} may not {action} {text!r}: who runs this broker can allow it "
        f"(auth.identities.{identity.name}.allow)"
    )


def visible(session: Session) -> Callable[[str], bool]:
    """A function that is true for the names of which the session may hear.

    Raises:
        NotPermitted: there are none.
    """
    identity = session.standing.identity
    if identity is ANYONE:
        return lambda _: True
    if not identity.allow.get("describe"):
        permit(session, "describe", ">")
    return lambda name: identity.may("describe", name)
