"""TLS between broker and store, on a Redis that was built with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portask import registry
from portask.errors import StorageError
from portask_lab.conformance.storage_support import Driver, batch_of
from portask_lab.loadgen.processes import free_port
from tests.access.conftest import Authority
from tests.redis_streams.conftest import start

Make = Callable[..., Any]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def make(authority: Authority) -> Iterator[Make]:
    """Makes storages on a server that speaks TLS, and only to those whose certificate it knows."""
    own, other, port = authority.issue("127.0.0.1"), authority.issue("broker@example.org"), free_port()
    files = (
        "--tls-cert-file",
        own.certificate,
        "--tls-key-file",
        own.key,
        "--tls-ca-cert-file",
        authority.ca,
    )
    child = start("redis", "--tls-port", str(port), *files, "--tls-auth-clients", "yes")

    def made(**options: Any) -> Any:
        given = {"url": f"rediss://127.0.0.1:{port}", "ca": authority.ca, "timeout_s": 1.0, **other.options}
        return registry.get("storage", "redis").make(**{**given, **options})

    yield made
    child.kill()


def test_records_go_over_tls(make: Make) -> None:
    storage = make()
    try:
        driver = Driver(storage)
        assert driver.append(batch_of(b"secret")) == 0
        assert driver.append(batch_of(bytes(100_000))) == 1, "by a transaction, too"
        assert len(driver.messages()) == 2
    finally:
        storage.close()


def test_a_server_that_a_stranger_vouches_for_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"127.0.0.1:\d+ .*certificate"):
        make(ca=Authority(tmp_path / "stranger").ca)
    make(ca=Authority(tmp_path / "stranger").ca, verify=False).close()


def test_who_shows_no_certificate_is_not_let_in(make: Make) -> None:
    with pytest.raises(StorageError, match=r"127.0.0.1:\d+"):
        make(certificate="", key="")
