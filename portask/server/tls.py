"""TLS for servers: one context for every loop, that follows the files.

Event loops keep the context that they were given for as long as they listen. `Tls.context` hands each handshake to the
context that was read last. So a renewed certificate, another CA or a higher minimum version holds from the next
connection on, all at once, while those that are open go on; and a session that was begun under the old files cannot be
resumed under the new ones. Files that cannot be used change nothing.
"""

from __future__ import annotations

import ctypes
import gc
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import structlog

from portask.config.access import TlsSettings
from portask.config.pem import load_ca, load_pair, reason_of
from portask.config.settings import Settings

log = structlog.get_logger("portask.server")

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_HANDSHAKES = 256
"""Connections above the limit that get as far as being told so."""
_COLLECT = 256
"""Failures after which memory is given back: asyncio leaves some in cycles, and glibc keeps what lies between."""
_CALM, _STORM = 3.0, 10.0
"""Seconds between two times at least, when failures have ended and while they go on: everybody waits for it, some 5 to
10 ms for each 1,000 connections."""
_KINDS = {"DNS": "DNS:", "URI": "URI:", "email": "EMAIL:"}


class Tls:
    """What a server with the capability "tls" gets as its parameter ``tls``.

    Attributes:
        context: For listening, all life long.
        handshake_timeout: Seconds that a client has for its handshake.
        connected: Set by the server: how many connections the broker has.
    """

    def __init__(self, settings: TlsSettings, handshake_timeout: float, connections: int) -> None:
        """Reads the files. ``connections`` is the broker's limit: handshakes beyond it are not even begun.

        Raises:
            ConfigError: a file cannot be used; names the key.
        """
        self.handshake_timeout = handshake_timeout
        self.connected: Callable[[], int] = lambda: 0
        self.context = _Latest(ssl.PROTOCOL_TLS_SERVER)
        self.context.door = self
        self._begun: dict[int, float] = {}  # handshakes under way, and when they are over at the latest
        self._numbers = count()
        self._failed = self._seen = 0
        self._collected = -_STORM
        self.reload(settings, connections)

    def reload(self, settings: TlsSettings, connections: int) -> None:
        """Reads the files again. From any thread.

        Raises:
            ConfigError: a file cannot be used; everything stays as it was.
        """
        self.context.latest = load(settings)
        self._limit = connections + _HANDSHAKES

    def begin(self) -> int:
        """A handshake begins; its number, or -1 if there are too many connections."""
        now = time.monotonic()
        begun = self._begun
        if self.connected() + len(begun) >= self._limit:
            self._expire(now)
            if self.connected() + len(begun) >= self._limit:
                return -1
        number = next(self._numbers)
        begun[number] = now + self.handshake_timeout
        return number

    def sweep(self) -> None:
        """To be called once a second: logs what came to no end, and what was only counted."""
        now = time.monotonic()
        self._expire(now)
        _failures.sum_up(now)
        calm, self._seen = self._failed == self._seen, self._failed
        if self._failed >= _COLLECT and now - self._collected >= (_CALM if calm else _STORM):
            self._failed = self._seen = 0
            self._collected = now
            gc.collect()
            _give_back()

    def _expire(self, now: float) -> None:
        """Gives up those whose time is over: clients that hang up in the midst are not heard of before."""
        over = list(takewhile(lambda number: self._begun[number] <= now, self._begun))
        for number in over:
            del self._begun[number]
            self._failed += 1
            _failures.log(f"not finished within {self.handshake_timeout:g} s, or the client hung up")

    def end(self, number: int, failure: str = "") -> None:
        """It came to its end, whichever."""
        self._begun.pop(number, None)
        if failure:
            self._failed += 1
            _failures.log(failure)


class _Latest(ssl.SSLContext):
    """Makes every connection with the context that is the latest at the time."""

    latest: ssl.SSLContext
    door: Tls

    def wrap_bio(self, *arguments: Any, **more: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`."""
        made = self.latest.wrap_bio(*arguments, **more)
        if isinstance(made, _Handshake):
            made.door, made.number = self.door, self.door.begin()
        return made


class _Handshake(ssl.SSLObject):
    """A connection that is not even begun if there are too many, and whose failure is logged."""

    door: Tls
    number: int

    def do_handshake(self) -> None:
        """See `ssl.SSLObject.do_handshake`."""
        if self.number < 0:
            raise ssl.SSLError("too many connections (limits.max_connections)")
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.door.end(self.number, reason_of(error))
            raise
        self.door.end(self.number)


class _Failures:
    """Logs failed handshakes, `MOST` in `WINDOW` one by one: everybody who reaches the port can cause them."""

    MOST = 10
    WINDOW = 10.0

    def __init__(self) -> None:
        self._ends = 0.0
        self._count = 0

    def log(self, reason: str) -> None:
        """One failed."""
        now = time.monotonic()
        self.sum_up(now)
        if not self._count:
            self._ends = now + self.WINDOW
        self._count += 1
        if self._count <= self.MOST:
            log.warning("TLS handshake failed", reason=reason)

    def sum_up(self, now: float) -> None:
        """Logs how many more there were, once the time is over."""
        if now >= self._ends:
            if self._count > self.MOST:
                log.warning("more TLS handshakes failed", count=self._count - self.MOST)
            self._count = 0


_failures = _Failures()


def _give_back() -> None:
    """Has glibc return free memory to the system: some ms for 100 MB. Does nothing elsewhere."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def load(settings: TlsSettings) -> ssl.SSLContext:
    """A context made of the files.

    Raises:
        ConfigError: one of them cannot be used; names the key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # trusts nobody by itself
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could keep us busy with it
    context.sslobject_class = _Handshake
    load_pair(context, settings.certificate, settings.key, ("tls.certificate", "tls.key"))
    if settings.client_ca:
        load_ca(context, settings.client_ca, "tls.client_ca")
        required = settings.require_client_certificate
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    secret = Path(settings.key or settings.certificate)
    if secret.stat().st_mode & 0o004:
        log.warning("everybody on this machine can read the private key", file=str(secret), hint="chmod 600")
    return context


def names_in(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names in a client's certificate, as `ssl.SSLSocket.getpeercert` gives it; see `portask.contracts.Engine`."""
    if not certificate:
        return ()
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [f"CN:{value}" for kind, value in subject if kind == "commonName"]
    names += [
        f"{_KINDS[kind]}{value}" for kind, value in certificate.get("subjectAltName", ()) if kind in _KINDS
    ]
    return tuple(names)


def tls(settings: Settings) -> Tls | None:
    """For a server; ``None`` where the settings have no certificate.

    Raises:
        ConfigError: see `Tls`.
    """
    if not settings.tls.on:
        return None
    return Tls(settings.tls, settings.limits.hello_timeout_s, settings.limits.max_connections)
