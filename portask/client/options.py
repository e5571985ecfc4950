"""What a client can be told when it connects: checked once, before anything is sent."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urlsplit

import msgspec

from portask.config.access import is_loopback
from portask.config.settings import DEFAULT_PORT, DEFAULT_URL
from portask.config.tokens import hide
from portask.errors import ConfigError
from portask.wire.frames import DEFAULT_LIMIT, HELLO_LIMIT
from portask.wire.sequences import KEPT_BATCHES

INSECURE = "token in plain text"
"""What `Options.insecure` says where a token may travel readable."""
_TLS = ("tls", "ca", "certificate", "key", "server_name")
GOODBYE = 5.0
"""Most seconds to wait for what only tidies up: the answers to DRAIN and UNSUBSCRIBE, a transport that closes."""


class Access(TypedDict, total=False):
    """Of the keyword arguments of `portask.connect` those that are about getting in, without objects."""

    token: str | None
    ca: str
    certificate: str
    key: str
    server_name: str
    insecure: str


class OptionsDict(Access, total=False):
    """The keyword arguments of `portask.connect`; `Options` documents them."""

    codec: str
    compression: str
    compression_options: Mapping[str, Any]
    dictionaries: Mapping[int, bytes]
    linger_ms: float
    batch_bytes: int
    max_in_flight: int
    buffer_bytes: int
    request_timeout: float
    connect_timeout: float
    reconnect: bool
    reconnect_delay: float
    reconnect_max_delay: float
    reconnect_attempts: int
    reconnect_deadline: float
    keepalive: float
    max_frame: int
    tls: ssl.SSLContext | None
    name: str
    idempotent: bool
    producer_id: int
    producer_epoch: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a client behaves. Times in seconds unless the name says otherwise, sizes in bytes.

    Attributes:
        codec: Registered codec that writes records. If none is named, the one that the broker recommends (the
            winner of its measurements), else the reference. What any registered codec wrote can be read.
        compression: Registered compression strategy for the batches that are sent; likewise.
        compression_options: Its options.
        dictionaries: Trained zstd dictionaries by id, for reading batches that name one.
        linger_ms: How long a published message may wait for others to share its batch. 0 batches what is
            published in the same iteration of the event loop, and never waits.
        batch_bytes: A batch is sent once it holds about so much, however long the linger.
        max_in_flight: Unacknowledged batches of one partition. While so many are under way, messages wait and
            gather in larger batches.
        buffer_bytes: Most that may wait to be sent or acknowledged, in all. Beyond it `publish` and
            `publish_many` wait, and `publish_nowait` raises `BufferExhausted`.
        request_timeout: Deadline of every request, a publish included, reconnecting included.
        connect_timeout: Deadline of one attempt at one address, the handshake included.
        reconnect: Whether a lost connection is made again, with what is unacknowledged sent again.
        reconnect_delay: Before the second attempt; doubles with each, with jitter.
        reconnect_max_delay: Where the doubling ends.
        reconnect_attempts: Rounds over all addresses before giving up; 0 for no limit.
        reconnect_deadline: Time from the loss of the connection to giving up; 0 for no limit.
        keepalive: Silence after which the broker is asked for a sign of life; after as much again the
            connection counts as lost. 0 relies on the transport.
        max_frame: Largest frame body taken from the broker.
        token: For brokers that ask who is there: what `portask auth token` printed. It goes over ``portasks://``, over
            loopback, and elsewhere only if ``insecure`` says so.
        tls: A context of your own for ``portasks://`` URLs, instead of the next three.
        ca: PEM file of who signed the broker's certificate; the system's authorities if not given. The files are read
            again for every connection.
        certificate: PEM file of this client's certificate, for brokers that ask for one.
        key: PEM file of its key, unless that is in the same file.
        server_name: The name that the broker's certificate must have; that in the URL if not given.
        insecure: ``"token in plain text"`` lets the token travel readable.
        name: Of this client, for the broker's logs.
        idempotent: Whether batches carry numbers by which the broker knows what it already has: what is sent
            again after a lost connection is then stored once. Costs a copy and a checksum of each batch here; and
            storages cannot gather small batches of it, so publish in batches (linger, `publish_nowait`,
            `publish_many`). Not the default for that reason: of 64-byte messages that are published and awaited one
            by one, a broker would keep a third as many in the same memory.
        producer_id: 1 to 2^64 - 1, for idempotent clients; 0 chooses a random one (of a million clients two have
            the same with a probability of 1 in 37 million, and the second is refused where both publish). A client
            that gives the id of an earlier one takes over from it: see ``producer_epoch``.
        producer_epoch: Higher than that of the client from which this one takes over; what the earlier one still
            publishes where this one did is then refused (`Fenced`).
    """

    codec: str = ""
    compression: str = ""
    compression_options: Mapping[str, Any] = {}
    dictionaries: Mapping[int, bytes] = {}
    linger_ms: float = 0
    batch_bytes: int = 128 * 1024
    max_in_flight: int = 16
    buffer_bytes: int = 32 * 1024 * 1024
    request_timeout: float = 30
    connect_timeout: float = 5
    reconnect: bool = True
    reconnect_delay: float = 0.05
    reconnect_max_delay: float = 5
    reconnect_attempts: int = 0
    reconnect_deadline: float = 120
    keepalive: float = 15
    max_frame: int = DEFAULT_LIMIT
    token: str | None = None
    tls: ssl.SSLContext | None = None
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    insecure: str = ""
    name: str = ""
    idempotent: bool = False
    producer_id: int = 0
    producer_epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("request_timeout", "connect_timeout", "reconnect_delay", "reconnect_max_delay"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: it must be a number of seconds above 0"
                )
        for name in ("linger_ms", "keepalive", "reconnect_attempts", "reconnect_deadline"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be 0 or more")
        for name in ("batch_bytes", "max_in_flight", "buffer_bytes"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be 1 or more")
        if self.buffer_bytes < self.batch_bytes:
            raise ConfigError(
                f"buffer_bytes is {self.buffer_bytes:,}, less than one batch of {self.batch_bytes:,} bytes: raise it"
            )
        if self.max_frame < HELLO_LIMIT:
            raise ConfigError(f"max_frame is {self.max_frame:,}: it must be {HELLO_LIMIT:,} or more")
        if self.insecure not in {"", INSECURE}:
            raise ConfigError(f"insecure is {self.insecure!r}: it must be {INSECURE!r} or left out")
        if self.tls is not None and (self.ca or self.certificate or self.key):
            raise ConfigError("tls is a whole context: give it, or ca, certificate and key")
        if self.key and not self.certificate:
            raise ConfigError("key is of no use without certificate: give both")
        self._check_producer()

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["token"] = self.token and "…"
        return f"Options({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def check_addresses(self, addresses: Sequence[Address]) -> None:
        """Raises `ConfigError` if something that is to be kept from others would travel readable."""
        plain = [address for address in addresses if not address.tls]
        if len(plain) == len(addresses):
            for name in _TLS:
                if getattr(self, name):
                    raise ConfigError(f"{name} is for TLS: begin the URL with portasks://")
        exposed = [address for address in plain if not is_loopback(address.host)]
        if self.token is not None and exposed and self.insecure != INSECURE:
            raise ConfigError(
                f"the token would travel readable to {exposed[0]}: use portasks://, or say {INSECURE!r} "
                "(insecure=…, --insecure)"
            )

    def _check_producer(self) -> None:
        if not self.idempotent:
            if self.producer_id or self.producer_epoch:
                raise ConfigError(
                    "producer_id and producer_epoch are for idempotent clients: say idempotent=True"
                )
            return
        if not 0 <= self.producer_id < 1 << 64:
            raise ConfigError(
                f"producer_id is {self.producer_id!r}: it must be 1 to 2^64 - 1, or 0 for a random one"
            )
        if not 0 <= self.producer_epoch < 1 << 16:
            raise ConfigError(f"producer_epoch is {self.producer_epoch!r}: it must be 0 to 65,535")
        if self.max_in_flight > KEPT_BATCHES:
            raise ConfigError(
                f"max_in_flight is {self.max_in_flight}: brokers recognize the last {KEPT_BATCHES} batches of an "
                "idempotent client, so it must not be more"
            )


class Address(NamedTuple):
    """Where a broker is."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_urls(urls: str | Sequence[str]) -> list[Address]:
    """The addresses in ``portask://host[:port][,host[:port]…]``, ``portasks://…`` for TLS, or in a list of such.

    Raises:
        ConfigError: not such a URL; the text says which part.
    """
    texts = [urls] if isinstance(urls, str) else list(urls)
    if not texts:
        raise ConfigError(f"no URL was given: use one like {DEFAULT_URL}")
    return [_parse(each) for text in texts for each in _split(text)]


def _split(text: str) -> list[str]:
    """A URL for each of the hosts in one."""
    scheme, separator, rest = text.partition("://")
    hosts, slash, path = rest.partition("/")
    return [f"{scheme}{separator}{host.strip()}{slash}{path}" for host in hosts.split(",")]


def _parse(text: str) -> Address:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"the URL {hide(text)!r} is not understood ({hide(str(error))}): use one like {DEFAULT_URL}"
        ) from None
    if parts.scheme not in {"portask", "portasks"} or not parts.hostname:
        raise ConfigError(
            f"the URL {hide(text)!r} does not begin with portask://host or portasks://host: "
            f"use one like {DEFAULT_URL}"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a URL carries no credentials here: pass token=… instead")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"the URL {hide(text)!r} says more than host and port: use one like {DEFAULT_URL}")
    return Address(parts.hostname, DEFAULT_PORT if port is None else port, parts.scheme == "portasks")
