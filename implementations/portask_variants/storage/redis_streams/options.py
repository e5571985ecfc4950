"""How a server is reached: addresses, login, TLS. Checked once, before anything is sent; passwords show nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from portask.errors import ConfigError

DEFAULT_URL = "redis://127.0.0.1:6379"


class Place(msgspec.Struct, frozen=True):
    """One server's address. ``path`` is a Unix socket's and takes the place of host and port."""

    host: str = ""
    port: int = 0
    path: str = ""
    database: int = 0
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


class Login(msgspec.Struct, frozen=True):
    """What a connection says and checks before anything else. Printing it shows no password.

    Attributes:
        username: ACL user; empty for the default one.
        password: Empty for none.
        ca: File with the certificates that sign the server's; empty for the system's.
        certificate: File with our own, where the server asks for one.
        key: File with its key.
        verify: Whether the server's certificate and name are checked.
    """

    username: str = ""
    password: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True

    def __repr__(self) -> str:
        return f"Login({self.username or 'default'!r}, password {'set' if self.password else 'not set'})"

    def arguments(self, *, tls: bool) -> dict[str, Any]:
        """Keyword arguments of redis-py's clients."""
        given: dict[str, Any] = {"username": self.username or None, "password": self.password or None}
        if tls:
            given |= {
                "ssl": True,
                "ssl_ca_certs": self.ca or None,
                "ssl_certfile": self.certificate or None,
                "ssl_keyfile": self.key or None,
                "ssl_cert_reqs": "required" if self.verify else "none",
                "ssl_check_hostname": self.verify,
            }
        return given


def parse_url(text: str) -> Place:
    """The server in ``redis://host[:port][/database]``, ``rediss://…`` (TLS) or ``unix:///path``.

    Raises:
        ConfigError: not such a URL, or it carries a password; never repeats the password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _unlike("it is not understood") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "redis: the url carries a login, and would be shown: give username, and password_env or password_file"
        )
    if parts.query or parts.fragment:
        raise _unlike(f"it says {'?' + parts.query if parts.query else '#' + parts.fragment}")
    if parts.scheme == "unix":
        return Place(path=unquote(parts.path))
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise _unlike(f"it is {text!r}")
    database = parts.path.strip("/")
    if database and not database.isdigit():
        raise _unlike(f"{database!r} is no number of a database")
    return Place(parts.hostname, port or 6379, "", int(database or 0), parts.scheme == "rediss")


def _unlike(what: str) -> ConfigError:
    return ConfigError(
        f"redis: the url must be like {DEFAULT_URL}, rediss://host:6380/0 or unix:///path; {what}"
    )


def parse_addresses(addresses: Sequence[str], *, tls: bool) -> list[Place]:
    """The nodes in ``["host:port", …]``.

    Raises:
        ConfigError: there is none, or one is no address.
    """
    found = []
    for text in addresses:
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or "/" in text or "@" in text:
            raise ConfigError(f'redis-cluster: {text!r} is no address: give some nodes as ["host:port", …]')
        found.append(Place(host.strip("[]"), int(port), tls=tls))
    if not found:
        raise ConfigError('redis-cluster: addresses is empty: give some nodes as ["host:port", …]')
    return found


def read_password(password: str, variable: str, file: str) -> str:
    """The password, from the one place that is named; empty if none is.

    Raises:
        ConfigError: several are named, or there is nothing there.
    """
    given = [
        name
        for name, value in (("password", password), ("password_env", variable), ("password_file", file))
        if value
    ]
    if len(given) > 1:
        raise ConfigError(f"redis: {' and '.join(given)} are given: leave one")
    if variable:
        if not os.environ.get(variable):
            raise ConfigError(f"redis: password_env names {variable}, which is not set in this environment")
        return os.environ[variable]
    if file:
        try:
            found = Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"redis: password_file {file} cannot be read: {reason}") from None
        if not found:
            raise ConfigError(f"redis: password_file {file} is empty")
        return found
    return password
