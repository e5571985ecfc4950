"""Identities for tests, made as the settings make them."""

from __future__ import annotations

from typing import Any

import msgspec

from portask.config import tokens
from portask.config.access import AuthSettings
from portask.server.authentication import Identities, authenticator

TOKENS = {name: tokens.mint(name) for name in ("writer", "reader", "boss", "nobody")}
WRITER = {"allow": [{"action": ["publish", "create"], "filter": "a.>"}]}
READER = {
    "allow": [{"action": ["subscribe", "describe"], "filter": "a.*"}, {"action": "group", "filter": "g.>"}]
}
BOSS = {"allow": [{"action": "*", "filter": ">"}]}


def settings(anonymous: list[dict[str, Any]] | None = None, **identities: dict[str, Any]) -> AuthSettings:
    """[auth] with these identities; those whose token is above have its hash."""
    for name, own in identities.items():
        if name in TOKENS:
            own.setdefault("token_hash", [tokens.hash_line(TOKENS[name])])
    plain = {"required": anonymous is None, "anonymous": anonymous or [], "identities": identities}
    return msgspec.convert(plain, AuthSettings)


def knows(anonymous: list[dict[str, Any]] | None = None, **identities: dict[str, Any]) -> Identities:
    """An authenticator that knows them."""
    made = authenticator(settings(anonymous, **{name: dict(own) for name, own in identities.items()}))
    assert made is not None
    return made
