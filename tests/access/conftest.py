"""Authorities, certificates and tokens, made for each test; brokers that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from portask import registry
from portask.config import tokens
from tests.cli.conftest import serving
from tests.conftest import StartBroker
from tests.together import starting

__all__ = ["serving"]  # a fixture from next door

TLS_SERVERS = [entry.name for entry in registry.entries("server") if "tls" in entry.capabilities]
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: str
    key: str

    @property
    def options(self) -> dict[str, Any]:
        """For `portask.connect`."""
        return {"certificate": self.certificate, "key": self.key}


class Authority:
    """Signs certificates into a folder. ``ca`` is the path of its own, ``text`` what is in there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self._made = 0
        self.ca = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)
        self.text = self._ca.cert_pem.bytes().decode()

    def issue(self, *names: str, common_name: str | None = None, expired: bool = False) -> Pair:
        """A certificate for these names."""
        self._made += 1
        until = YESTERDAY if expired else None
        since = YESTERDAY - timedelta(days=1) if expired else None
        made = self._ca.issue_cert(*names, common_name=common_name, not_before=since, not_after=until)
        pair = Pair(*(str(self._folder / f"{self._made}.{kind}") for kind in ("pem", "key")))
        made.cert_chain_pems[0].write_to_path(pair.certificate)
        made.private_key_pem.write_to_path(pair.key)
        Path(pair.key).chmod(0o600)
        return pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The one that is trusted."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """One that is not."""
    return Authority(tmp_path / "stranger")


@pytest.fixture(params=TLS_SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Every server with TLS."""
    name: str = request.param
    if reason := registry.get("server", name).unavailable():
        pytest.skip(reason)
    return name


@pytest.fixture(params=[entry.name for entry in registry.entries("server")])
def any_server(request: pytest.FixtureRequest) -> str:
    """Every server: what is asked at HELLO and later is not the transport's affair."""
    name: str = request.param
    if reason := registry.get("server", name).unavailable():
        pytest.skip(reason)
    return name


@pytest.fixture(params=[1, 3], ids=["alone", "workers"])
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers of one process, and of three workers; see `tests.conftest.start_broker`."""
    with starting(request.param) as start:
        yield start


class People:
    """Tokens by name, and the tables of the settings that know them."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.tables: dict[str, str] = {}

    def add(self, name: str, rules: str = '{action = "*", filter = ">"}', more: str = "") -> str:
        """A new identity, or a new token for an old one; returns the token."""
        token = self.tokens[name] = tokens.mint(name)
        self.tables[name] = (
            f'[auth.identities.{name}]\ntoken_hash = ["{tokens.hash_line(token)}"]\nallow = [{rules}]\n{more}\n'
        )
        return token

    @property
    def toml(self) -> str:
        """All of them."""
        return "".join(self.tables.values())


@pytest.fixture
def people() -> People:
    """Nobody yet."""
    return People()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a settings file with a [tls] table, and whatever else."""

    def to_file(pair: Pair | None = None, *parts: str, client_ca: str = "", **tls: Any) -> Path:
        text = ""
        if pair is not None:
            values = {**pair._asdict(), "client_ca": client_ca, **tls}
            lines = [
                f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
                for name, value in values.items()
            ]
            text = "\n".join(["[tls]", *lines, ""])
        path = tmp_path / "portask.toml"
        path.write_text(text + "\n".join(parts))
        return path

    return to_file


@contextmanager
def not_said(*secrets: str) -> Iterator[list[str]]:
    """A list to put texts into; none of them may hold a secret."""
    said: list[str] = []
    yield said
    assert said
    for text in said:
        for secret in secrets:
            assert secret[-40:] not in text
