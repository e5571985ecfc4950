"""Who a client is, as the core sees it: data. How that was found out is an `Authenticator`'s affair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from portask.core.topics import covers


class Limits(msgspec.Struct, frozen=True):
    """What all connections of one identity may take together; 0 for no limit.

    Attributes:
        connections: At a time.
        subscriptions: At a time.
        unacked: Bytes of publishes that wait for the storage.
        messages: Published a second.
        bytes: Published a second.
    """

    connections: int = 0
    subscriptions: int = 0
    unacked: int = 0
    messages: int = 0
    bytes: int = 0


class Identity(msgspec.Struct, frozen=True):
    """A name, what it may do, and how much.

    Attributes:
        name: Empty where nobody is asked.
        allow: Filters of topics' and groups' names by action: publish, create, subscribe, describe, group, drop_group.
        limits: Of all its connections together.
    """

    name: str
    allow: Mapping[str, tuple[str, ...]]
    limits: Limits = Limits()

    def may(self, action: str, text: str) -> bool:
        """Whether the action is allowed on everything that ``text``, a name or a filter, can mean.

        One filter must cover it: two that only do so together do not count. Costs a µs or two a filter.
        """
        return any(covers(filter_, text) for filter_ in self.allow.get(action, ()))


class Credentials(msgspec.Struct, frozen=True):
    """What a client showed, without anything that is worth stealing.

    Attributes:
        claimed: The name in its token, if it showed one of the right form; it proves nothing.
        token: SHA-256 of what it showed as a token, whatever its form; empty if it showed none.
        certificate: Names in the certificate that it proved to have: ``CN:…``, ``DNS:…``, ``URI:…``, ``EMAIL:…``.
    """

    claimed: str = ""
    token: bytes = b""
    certificate: tuple[str, ...] = ()


class Authenticator(Protocol):
    """Knows who there is."""

    def authenticate(self, credentials: Credentials) -> Identity:
        """Whose they are. Must not block: it is asked in the midst of a turn. Takes as long whatever is wrong.

        Raises:
            AuthenticationFailed: nobody's. The text is for the log and says what was wrong; clients do not get it.
        """
        ...
