"""Who there is, from the settings: tokens by their hashes, certificates by the names in them."""

from __future__ import annotations

import hmac
import secrets

from portask.config import tokens
from portask.config.access import ANONYMOUS, AuthSettings, IdentityLimits, Rule, canonical
from portask.core.identities import Credentials, Identity, Limits
from portask.errors import AuthenticationFailed


class Identities:
    """Implements `portask.core.identities.Authenticator`. Costs a few µs, whatever is shown.

    A token that is shown decides: a wrong one is refused even beside a good certificate. Who shows none is who the
    certificate says; failing that, anonymous, where that is allowed.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._tokens: dict[str, tuple[bytes, ...]] = {}
        self._certificates: dict[str, str] = {}
        self._identities: dict[str, Identity] = {}
        self._unlike_any = (secrets.token_bytes(32),)
        for name, own in settings.identities.items():
            self._identities[name] = _identity(name, own.allow, own.limits)
            if own.token_hash:
                self._tokens[name] = tuple(map(tokens.parse_hash, own.token_hash))
            self._certificates |= {canonical(each): name for each in own.certificate}
        self._anonymous: Identity | None = None
        if not settings.required:
            self._anonymous = _identity(ANONYMOUS, settings.anonymous, settings.limits)

    def authenticate(self, credentials: Credentials) -> Identity:
        """See `portask.core.identities.Authenticator.authenticate`."""
        if credentials.token:
            return self._by_token(credentials)
        names = {
            self._certificates[name]
            for name in map(canonical, credentials.certificate)
            if name in self._certificates
        }
        if len(names) == 1:
            return self._identities[names.pop()]
        if names:
            raise AuthenticationFailed(f"the certificate is that of several: {', '.join(sorted(names))}")
        if self._anonymous is not None:
            return self._anonymous
        if credentials.certificate:
            raise AuthenticationFailed(
                f"a certificate of nobody here: {', '.join(credentials.certificate)[:500]}"
            )
        raise AuthenticationFailed("neither a token nor a certificate was shown")

    def _by_token(self, credentials: Credentials) -> Identity:
        known = self._tokens.get(credentials.claimed, self._unlike_any)
        same = [hmac.compare_digest(credentials.token, each) for each in known]  # all, whichever it is
        if any(same):
            return self._identities[credentials.claimed]
        if not credentials.claimed:
            raise AuthenticationFailed("what was shown has not the form of a token")
        if credentials.claimed not in self._identities:
            raise AuthenticationFailed("a token of somebody who is not known here")
        raise AuthenticationFailed("a wrong token: another's, or one that was replaced")


def _identity(name: str, rules: tuple[Rule, ...], limits: IdentityLimits) -> Identity:
    allow: dict[str, list[str]] = {}
    for rule in rules:
        for action in rule.actions:
            allow.setdefault(action, []).append(rule.filter)
    return Identity(
        name,
        {action: tuple(filters) for action, filters in allow.items()},
        Limits(
            connections=limits.max_connections,
            subscriptions=limits.max_subscriptions,
            unacked=limits.max_unacked_bytes,
            messages=limits.max_published_per_s,
            bytes=limits.max_published_bytes_per_s,
        ),
    )


def authenticator(settings: AuthSettings) -> Identities | None:
    """For `portask.core.broker.Broker`; ``None`` where nobody is asked."""
    return Identities(settings) if settings.on else None
