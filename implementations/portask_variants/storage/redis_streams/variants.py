"""The two variants, and their options."""

from __future__ import annotations

from collections.abc import Sequence

from portask.contracts import Compression
from portask_variants.storage.redis_streams.link import ClusterLink, Link, ServerLink
from portask_variants.storage.redis_streams.options import (
    DEFAULT_URL,
    Login,
    parse_addresses,
    parse_url,
    read_password,
)
from portask_variants.storage.redis_streams.storage import Streams


class RedisStorage(Streams):
    """On one Redis, Valkey or Dragonfly server.

    Args:
        url: ``redis://host[:port][/database]``, ``rediss://…`` for TLS, or ``unix:///path``.
        username: ACL user.
        password: Better in one of the next two.
        password_env: Environment variable that holds it.
        password_file: File that holds it.
        ca: File with the certificates that sign the server's; the system's by default.
        certificate: File with our own certificate, where the server asks for one.
        key: File with its key.
        verify: Whether the server's certificate and name are checked.
        prefix: Of all keys: several brokers that share nothing may use one server.
        timeout_s: From a request to its outcome, all attempts included; also for the start.
        attempt_s: One attempt.
        health_s: Seconds between looks at the server: whether it answers, and what it keeps.
        lease_s: How long what a broker holds for a group's members stays its own while nothing is heard of it.
        connections: Most that are used at a time, beside those that wait for news.
        linger_ms: How long an append may wait for company while nothing is under way.
        coalesce_bytes: Target size of batches that are joined from small ones.
        write_bytes: Batches of one partition in one write, about.
        buffer_bytes: Appends that may wait for the server; beyond it they fail with `StorageFull`.
        wait_replicas: Replicas that must have a record before it is acknowledged (WAIT).
        compression: Packs joined batches; ``None`` leaves them.

    Raises:
        ConfigError: an option makes no sense.
        StorageError: the server cannot be used; names it, and says why.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        username: str = "",
        password: str = "",
        password_env: str = "",
        password_file: str = "",
        ca: str = "",
        certificate: str = "",
        key: str = "",
        verify: bool = True,
        prefix: str = "portask",
        timeout_s: float = 10.0,
        attempt_s: float = 3.0,
        health_s: float = 15.0,
        lease_s: float = 6.0,
        connections: int = 8,
        linger_ms: float = 0.0,
        coalesce_bytes: int = 64 << 10,
        write_bytes: int = 512 << 10,
        buffer_bytes: int = 256 << 20,
        wait_replicas: int = 0,
        compression: Compression | None = None,
    ) -> None:
        place = parse_url(url)
        login = Login(
            username, read_password(password, password_env, password_file), ca, certificate, key, verify
        )

        def make() -> Link:
            return ServerLink(place, login, connections=connections, attempt=attempt_s)

        super().__init__(
            f"the redis server at {place}",
            make,
            prefix=prefix,
            timeout_s=timeout_s,
            attempt_s=attempt_s,
            health_s=health_s,
            lease_s=lease_s,
            linger_ms=linger_ms,
            coalesce_bytes=coalesce_bytes,
            write_bytes=write_bytes,
            buffer_bytes=buffer_bytes,
            wait_replicas=wait_replicas,
            compression=compression,
        )


class RedisClusterStorage(Streams):
    """On a cluster. Options are those of `RedisStorage`, but for these.

    Args:
        addresses: Some nodes, ``"host:port"``; the others are found.
        tls: Whether to connect with TLS.
    """

    def __init__(
        self,
        addresses: Sequence[str] = ("127.0.0.1:6379",),
        *,
        tls: bool = False,
        username: str = "",
        password: str = "",
        password_env: str = "",
        password_file: str = "",
        ca: str = "",
        certificate: str = "",
        key: str = "",
        verify: bool = True,
        prefix: str = "portask",
        timeout_s: float = 10.0,
        attempt_s: float = 3.0,
        health_s: float = 15.0,
        lease_s: float = 6.0,
        connections: int = 8,
        linger_ms: float = 0.0,
        coalesce_bytes: int = 64 << 10,
        write_bytes: int = 512 << 10,
        buffer_bytes: int = 256 << 20,
        wait_replicas: int = 0,
        compression: Compression | None = None,
    ) -> None:
        places = parse_addresses(addresses, tls=tls)
        login = Login(
            username, read_password(password, password_env, password_file), ca, certificate, key, verify
        )

        def make() -> Link:
            return ClusterLink(places, login, connections=connections, attempt=attempt_s)

        super().__init__(
            f"the redis cluster at {', '.join(map(str, places))}",
            make,
            prefix=prefix,
            timeout_s=timeout_s,
            attempt_s=attempt_s,
            health_s=health_s,
            lease_s=lease_s,
            linger_ms=linger_ms,
            coalesce_bytes=coalesce_bytes,
            write_bytes=write_bytes,
            buffer_bytes=buffer_bytes,
            wait_replicas=wait_replicas,
            compression=compression,
        )
