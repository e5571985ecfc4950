"""``[auth]`` and ``[tls]``: who may come in, what they may do, and how the way here is protected."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from portask.config.tokens import HASH
from portask.errors import ConfigError

if TYPE_CHECKING:
    from portask.config.settings import Settings

ACTIONS = ("publish", "create", "subscribe", "describe", "group", "drop_group")
ANONYMOUS = "anonymous"
"""What those are called who show neither token nor certificate."""
ANYONE = "anyone may connect"
PLAIN = "no encryption"

Action = Literal["publish", "create", "subscribe", "describe", "group", "drop_group", "*"]
# The rule of portask.core.topics, which settings may not import; a test holds the two together.
_TOKEN = r"[A-Za-z0-9_-]+"  # noqa: S105 - a part of a name, no secret
FILTER = rf"(?:(?:{_TOKEN}|\*)\.)*(?:{_TOKEN}|\*|>)"
CERTIFICATE = r"CN:.+|DNS:\S+|URI:\S+|EMAIL:\S+"

_COUNT = 2**62


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of an ``allow`` list: actions, and the topics or groups that they are allowed on."""

    action: Action | list[Action]
    filter: Annotated[str, Meta(pattern=rf"^{FILTER}\Z", max_length=255)]

    @property
    def actions(self) -> tuple[str, ...]:
        """Each of them by name."""
        given = [self.action] if isinstance(self.action, str) else self.action
        return ACTIONS if "*" in given else tuple(given)


_RULES = (
    'a list of rules like {action = ["publish", "create"], filter = "orders.>"}; the actions are '
    f"{', '.join(ACTIONS)}, and * for all of them; "
    "the filter is a topic's or a group's name, * for a part, > for the rest"
)
Rules = Annotated[tuple[Rule, ...], Meta(description=_RULES)]


class IdentityLimits(Struct, frozen=True):
    """``[auth.limits]``: what one identity may take with all its connections together."""

    max_connections: Annotated[
        int, Meta(ge=0, le=_COUNT, description="a number of connections, 0 for no limit")
    ] = 0
    max_subscriptions: Annotated[
        int, Meta(ge=0, le=_COUNT, description="a number of subscriptions, 0 for no limit")
    ] = 0
    max_unacked_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=_COUNT,
            description="a number of bytes that wait for the storage at a time, 0 for no limit",
        ),
    ] = 0
    max_published_per_s: Annotated[
        int, Meta(ge=0, le=10**9, description="a number of messages a second, 0 for no limit")
    ] = 0
    max_published_bytes_per_s: Annotated[
        int, Meta(ge=0, le=2**40, description="a number of bytes a second, 0 for no limit")
    ] = 0


class IdentitySettings(Struct, frozen=True):
    """``[auth.identities.NAME]``: how one is known, what it may do, and limits that differ from ``[auth.limits]``."""

    token_hash: Annotated[
        tuple[Annotated[str, Meta(pattern=rf"^{HASH}\Z")], ...],
        Meta(
            description="a list of what `portask auth token NAME` printed: two while one replaces the other"
        ),
    ] = ()
    certificate: Annotated[
        tuple[Annotated[str, Meta(pattern=rf"^(?:{CERTIFICATE})\Z")], ...],
        Meta(
            description="a list of names in certificates: CN:…, DNS:…, URI:… or EMAIL:…; one of them is enough"
        ),
    ] = ()
    allow: Rules = ()
    limits: IdentityLimits = IdentityLimits()


class AuthSettings(Struct, frozen=True):
    """``[auth]``: whether clients have to say who they are, and who there is.

    ``required`` is true as soon as the file has the table. ``anonymous`` is what those may do who show nothing where it
    is false.
    """

    required: Annotated[bool, Meta(description="true or false: whether who shows nothing is refused")] = False
    anonymous: Rules = ()
    limits: IdentityLimits = IdentityLimits()
    identities: dict[str, IdentitySettings] = {}

    @property
    def on(self) -> bool:
        """Whether there are any rules; if not, everybody may do everything."""
        return self.required or bool(self.identities or self.anonymous)


Path = Annotated[str, Meta(description="the path of a PEM file")]


class TlsSettings(Struct, frozen=True):
    """``[tls]``: encryption, and certificates of clients. The files are read again on SIGHUP."""

    certificate: Path = ""
    key: Path = ""
    client_ca: Path = ""
    require_client_certificate: Annotated[
        bool, Meta(description="true or false: whether clients without a certificate are refused")
    ] = False
    minimum_version: Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')] = "1.2"

    @property
    def on(self) -> bool:
        """Whether the broker speaks TLS."""
        return bool(self.certificate)


def canonical(name: str) -> str:
    """A certificate's name as it is compared: hosts and addresses without regard to case."""
    return name.lower() if name.startswith(("DNS:", "EMAIL:")) else name


def is_loopback(host: str) -> bool:
    """Whether nobody from elsewhere reaches the address. Names other than ``localhost`` count as reachable."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(settings: Settings) -> None:
    """Raises `ConfigError` for the first of `contradictions`, where no file can be blamed."""
    for key, complaint in contradictions(settings):
        raise ConfigError(f"{key}: {complaint}")


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """``(key, complaint)`` for what must not be said together, and for a door that is open without being said so."""
    auth, tls = settings.auth, settings.tls
    if auth.required and auth.anonymous:
        yield (
            "auth.anonymous",
            "nobody is anonymous where auth.required is true: remove it, or say auth.required = false",
        )
    if auth.identities and not auth.required and not auth.anonymous:
        yield (
            "auth.required",
            "say in auth.anonymous what those may do who show no token, or leave auth.required out",
        )
    yield from _ambiguous(auth)
    for name in ("key", "client_ca", "require_client_certificate"):
        if getattr(tls, name) and not tls.certificate:
            yield f"tls.{name}", "is of no use without tls.certificate: set it to the broker's own"
    if tls.require_client_certificate and not tls.client_ca:
        yield (
            "tls.require_client_certificate",
            "needs tls.client_ca: the file of who signs the clients' certificates",
        )
    certified = [name for name, identity in auth.identities.items() if identity.certificate]
    if certified and not tls.client_ca:
        yield (
            f"auth.identities.{certified[0]}.certificate",
            "needs tls.client_ca: the file of who signs the clients' certificates",
        )
    yield from _exposed(settings)


def _ambiguous(auth: AuthSettings) -> Iterator[tuple[str, str]]:
    owners: dict[str, str] = {}
    for name, identity in auth.identities.items():
        for kind, shown in (("token_hash", identity.token_hash), ("certificate", identity.certificate)):
            for each in shown:
                owner = owners.setdefault(canonical(each), name)
                if owner != name:
                    yield (
                        f"auth.identities.{name}.{kind}",
                        f"one of them is also that of {owner}: one identity each",
                    )


def _exposed(settings: Settings) -> Iterator[tuple[str, str]]:
    server, tls = settings.server, settings.tls
    if is_loopback(server.host) or server.insecure == ANYONE:
        return
    if not (settings.auth.on or tls.require_client_certificate):
        complaint = (
            "everybody who reaches this address could do everything: add an [auth] table (`portask auth token NAME` "
            f'begins one), listen on 127.0.0.1, or say server.insecure = "{ANYONE}"'
        )
        yield "server.host", complaint
    elif not tls.on and server.insecure != PLAIN:
        complaint = (
            "tokens and messages would travel readable: set tls.certificate and tls.key, listen on 127.0.0.1, or say "
            f'server.insecure = "{PLAIN}"'
        )
        yield "server.host", complaint
