"""Who may come in, and what for: asked at HELLO, and again at every request that names a topic or a group.

Nothing is asked for a PUBLISH: its channel was permitted when it was opened. So when the rules change, whoever has
something open that is not allowed any more is hung up on, with the reason; a client that connects again gets what is
still allowed, and a refusal for the rest.

A client that is refused learns no more than that. What was wrong is in the log, a few times for each address; one that
goes on failing waits `PENALTY` µs for each answer. Others behind the same address do not: guessing is hopeless
(`portask.config.tokens`), so what is limited is noise, and a valid token always gets in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from portask.config import tokens
from portask.core.accounts import ANYONE, STRANGER, VISITOR, Account, Standing, permit
from portask.core.identities import Authenticator, Credentials
from portask.core.rates import Meter, buckets
from portask.errors import AuthenticationFailed, NotPermitted, PortaskError
from portask.wire import control
from portask.wire.inboxes import PREFIX

if TYPE_CHECKING:
    from portask.core.broker import Broker
    from portask.core.session import Session

log = structlog.get_logger("portask.broker")

REFUSED = "this broker asks who is there: show a valid token, or a certificate that it knows"
FAILURES = 10
"""Failures of one address in `WINDOW` that are logged and answered at once."""
WINDOW = 10_000_000
"""µs."""
PENALTY = 1_000_000
"""µs that the answer to a further one takes."""
ADDRESSES = 4096
"""That failed of late, and are remembered."""


class Admission:
    """Belongs to one broker.

    Attributes:
        authenticator: Who knows the clients; ``None`` lets everybody in. May be replaced, from any thread: the next
            turn looks at every connection again.
        accounts: By identity.
    """

    def __init__(self, broker: Broker, authenticator: Authenticator | None) -> None:
        self._broker = broker
        self.authenticator = authenticator
        self.accounts: dict[str, Account] = {}
        self._in_force = (authenticator, broker.options)
        self._failures: dict[str, list[int]] = {}  # address → [end of its window, failures]

    # ── HELLO ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, session: Session, hello: control.Hello) -> str:
        """The name of who says HELLO; see `portask.wire.connection.Connection.gate`.

        Raises:
            AuthenticationFailed: it is nobody's.
            NotPermitted: whose it is has too many connections.
        """
        now = max(self._broker.now, session.since)  # the last turn may be long ago
        text, hello.token = hello.token, None  # kept not a moment longer than needed
        certificate = session.certificate
        credentials = Credentials(certificate=certificate)
        if text is not None:
            credentials = Credentials(tokens.identity_of(text) or "", tokens.digest(text), certificate)
        try:
            standing = self._standing(credentials, now)
        except AuthenticationFailed as error:
            session.logged = True
            if self._failed(session.peer, credentials, error, now):
                session.answer_at = now + PENALTY
            raise AuthenticationFailed(REFUSED) from None
        account = standing.account
        if account is not None:
            most = account.limits.connections
            if most and len(account.sessions) + account.elsewhere[0] >= most:
                raise NotPermitted(
                    f"{standing.identity.name!r} has {most:,} connections (max_connections of its limits)"
                )
            account.sessions[session] = None
            self._broker.account_changed(account)
        session.standing = standing
        self._pace(session, now)
        return standing.identity.name

    def _standing(self, credentials: Credentials, now: int) -> Standing:
        if self.authenticator is None:
            return VISITOR if credentials == VISITOR.credentials else Standing(ANYONE, credentials)
        identity = self.authenticator.authenticate(credentials)
        account = self.accounts.get(identity.name)
        if account is None:
            account = self.accounts[identity.name] = Account(identity, now)
            self._broker.account_changed(account)
        elif account.limits != identity.limits:
            account.set_limits(identity, now)
        return Standing(identity, credentials, account)

    def _pace(self, session: Session, now: int) -> None:
        options, account = self._broker.options, session.standing.account
        messages, sizes = buckets(options.publish_messages, now), buckets(options.publish_bytes, now)
        if account is not None:
            messages, sizes = messages + account.messages, sizes + account.bytes
        session.meter = Meter(messages, sizes) if messages or sizes else None
        session.paced = session.meter is not None or (account is not None and account.limits.unacked > 0)

    def _failed(self, peer: str, credentials: Credentials, error: AuthenticationFailed, now: int) -> bool:
        """Logs a failure, unless its address has so many: then true."""
        address = peer.rpartition(":")[0]
        entry = self._failures_of(address, now)
        entry[1] += 1
        if entry[1] > FAILURES:
            return True
        self._broker.address_failed(address)
        log.warning("authentication failed", peer=peer, identity=credentials.claimed, reason=str(error))
        return False

    def _failures_of(self, address: str, now: int) -> list[int]:
        entry = self._failures.pop(address, None)
        if entry is None or entry[0] <= now:
            _sum_up(address, entry)
            entry = [now + WINDOW, 0]
        self._failures[address] = entry  # the last one in is the last one to be forgotten
        if len(self._failures) > ADDRESSES:
            oldest = next(iter(self._failures))
            _sum_up(oldest, self._failures.pop(oldest))
        return entry

    def failed_elsewhere(self, address: str, now: int) -> None:
        """Another process of the broker logged a failure."""
        entry = self._failures_of(address, now)
        if entry[1] < FAILURES:  # beyond that, what is counted is what was not logged here
            entry[1] += 1

    def sweep(self, now: int) -> None:
        """Once a second: what was not logged one by one is summed up."""
        for address in [address for address, entry in self._failures.items() if entry[0] <= now]:
            _sum_up(address, self._failures.pop(address))

    # ── subscriptions ─────────────────────────────────────────────────────────────────────────────────────────────

    def permit(self, session: Session, text: str, group: str = "", dead_letter: str | None = None) -> None:
        """Raises `NotPermitted` unless the session may subscribe so. An inbox is for whom it is named after."""
        name = session.standing.identity.name
        if not text.startswith(PREFIX):
            permit(session, "subscribe", text)
        elif name and not text.startswith(f"{PREFIX}{name}."):
            raise NotPermitted(f"an inbox of {name!r} begins with {PREFIX}{name}., and it may read no other")
        if group:
            permit(session, "group", group)
        if dead_letter:
            permit(session, "publish", dead_letter)
            if dead_letter not in self._broker.topics:
                permit(session, "create", dead_letter)

    def check_room(self, session: Session) -> None:
        """Raises `NotPermitted` if the session's identity has all the subscriptions that it may have."""
        standing = session.standing
        account = standing.account
        if account is not None:
            most = account.limits.subscriptions
            if most and len(account.subscriptions) + account.elsewhere[1] >= most:
                raise NotPermitted(
                    f"{standing.identity.name!r} has {most:,} subscriptions (max_subscriptions of its limits)"
                )

    # ── turns ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def renew(self) -> None:
        """Takes over what was set meanwhile. Costs nothing if nothing was, else a look at every connection."""
        broker = self._broker
        if self.authenticator is self._in_force[0] and broker.options is self._in_force[1]:
            return
        self._in_force = (self.authenticator, broker.options)
        for session in broker.sessions:
            if session.standing is STRANGER or session.gone:
                continue
            try:
                self._renew(session, broker.now)
            except PortaskError as error:
                name = session.standing.identity.name
                log.warning("a client may not stay", peer=session.peer, identity=name, reason=str(error))
                session.logged = True
                unknown = isinstance(error, AuthenticationFailed)
                session.connection.fail(AuthenticationFailed(REFUSED) if unknown else error)
                broker.mark(session)

    def _renew(self, session: Session, now: int) -> None:
        old = session.standing
        new = self._standing(old.credentials, now)
        if new.account is old.account:
            new.counted = old.counted
        else:
            self.leave(session)
            if new.account is not None:
                new.account.sessions[session] = None
                new.account.subscriptions |= dict.fromkeys(session.subscriptions.values())
                self._broker.account_changed(new.account)
        session.standing = new
        self._pace(session, now)
        if session.paused:
            self._broker.mark(session)  # what it waits for may be no limit any more
        if (new.identity.allow, new.identity.name) == (old.identity.allow, old.identity.name):
            return
        for channel in session.channels.values():
            permit(session, "publish", channel.partition.key.topic)
        for subscription in session.subscriptions.values():
            member = subscription.member
            self.permit(session, subscription.filter, member.group.name if member is not None else "")

    def leave(self, session: Session) -> None:
        """The connection is gone, or its identity's no longer."""
        standing = session.standing
        account = standing.account
        session.standing = STRANGER
        if account is None:
            return
        account.sessions.pop(session, None)
        account.waiting.pop(session, None)
        account.unacked -= standing.counted
        for subscription in session.subscriptions.values():
            account.subscriptions.pop(subscription, None)
        self._broker.account_changed(account)
        self._broker.pacing.relieve(account)


def _sum_up(address: str, entry: list[int] | None) -> None:
    if entry is not None and entry[1] > FAILURES:
        log.warning("more authentications failed", address=address, count=entry[1] - FAILURES)
