"""What can be set, with its default and its range. `portask.config.loading` fills it.

One struct a section of the file. Each field's ``Meta(description=…)`` is the end of the sentence "must be …":
it is the documentation of the key and the fix that an error message gives: the two cannot drift apart.

Units are part of the name: ``_s`` seconds, ``bytes`` bytes. 0 means "no limit" where that is possible.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from portask.config.access import ANYONE, PLAIN, AuthSettings, TlsSettings
from portask.contracts import FAMILIES

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7711
"""Not assigned by IANA, and above the range that needs privileges."""
DEFAULT_URL = f"portask://{DEFAULT_HOST}:{DEFAULT_PORT}"
"""Where the clients of the command line look for a broker."""
DEFAULT_FOLDER = "portask-data"
"""Where a broker keeps messages, below its working directory."""

_GIB = 1024**3
_FRAME_MAX = 2**32 - 1  # the header's length field has 32 bits

Name = Annotated[str, Meta(min_length=1, description="a variant's name")]
Options = dict[str, Any]
"""Keyword arguments of a variant, as the file gives them; checked against the variant's signature."""
Bytes = Annotated[int, Meta(ge=0, le=2**62, description="a number of bytes, 0 for no limit")]
Seconds = Annotated[float, Meta(ge=0, le=10**10, description="a number of seconds, 0 for no limit")]
Count = Annotated[int, Meta(ge=0, le=2**62, description="a number of messages, 0 for no limit")]


class Choice(Struct, frozen=True):
    """``[codec]`` and its like: which variant of a family, made with which options."""

    variant: Name
    options: Options = {}


class ServerSettings(Struct, frozen=True):
    """``[server]``: where the broker listens, and with which server."""

    variant: Name = "asyncio-streams"
    host: Annotated[str, Meta(min_length=1, description="an address of this machine, or its name")] = (
        DEFAULT_HOST
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="a TCP port, 0 to 65535; 0 for a free one")] = (
        DEFAULT_PORT
    )
    insecure: Annotated[
        Literal["", "no encryption", "anyone may connect"],
        Meta(
            description=f'"", "{PLAIN}" or "{ANYONE}": needed beyond loopback without [tls], without [auth]'
        ),
    ] = ""
    workers: Annotated[
        int,
        Meta(
            ge=0, le=256, description="a number of processes that share the work, 0 to 256; 0 for one a core"
        ),
    ] = 1
    options: Options = {}


class LimitSettings(Struct, frozen=True):
    """``[limits]``: what one connection may cost; ``[auth.limits]`` is for identities."""

    max_frame_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=_FRAME_MAX,
            description=f"a number of bytes, 65536 to {_FRAME_MAX}: the largest frame taken",
        ),
    ] = 8 * 1024**2
    max_raw_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=_FRAME_MAX,
            description=f"a number of bytes, 65536 to {_FRAME_MAX}: a batch uncompressed",
        ),
    ] = 64 * 1024**2
    hello_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="a number of seconds above 0, at most 3600: for a newcomer's first frame",
        ),
    ] = 5.0
    idle_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="a number of seconds, at most 86400: silent clients are dropped, 0 for never",
        ),
    ] = 90.0
    max_connections: Annotated[
        int, Meta(ge=1, le=10_000_000, description="a number of connections, 1 to 10000000: more are refused")
    ] = 100_000
    max_unacked_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=2**40,
            description="a number of bytes, 65536 to 2^40: publishes of one connection that wait for the storage",
        ),
    ] = 64 * 1024**2
    max_channels: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="a number of channels, 1 to 1000000, and as many subscriptions a connection",
        ),
    ] = 10_000
    max_assignments: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="a number of partitions, 1 to 10000000: the most that one connection's subscriptions may have",
        ),
    ] = 100_000
    max_partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="a number of partitions, 1 to 10000000: clients create no topic beyond it",
        ),
    ] = 100_000
    max_group_partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="a number of partitions, 1 to 10000000: all groups together have no more",
        ),
    ] = 100_000
    max_published_per_s: Annotated[
        int,
        Meta(ge=0, le=10**9, description="a number of messages a second of one connection, 0 for no limit"),
    ] = 0
    max_published_bytes_per_s: Annotated[
        int, Meta(ge=0, le=2**40, description="a number of bytes a second of one connection, 0 for no limit")
    ] = 0


class Retention(Struct, frozen=True):
    """``[topics.retention]``: how much of a partition is kept; the strictest limit decides."""

    bytes: Bytes = 0
    age_s: Seconds = 0.0
    count: Count = 0


Partitions = Annotated[int, Meta(ge=1, le=65536, description="a number of partitions, 1 to 65536")]


class TopicOverride(Struct, frozen=True):
    """``[topics."orders.eu"]``: what differs for one topic. What it does not give comes from ``[topics]``."""

    partitions: Partitions
    retention: Retention


class TopicSettings(Struct, frozen=True):
    """``[topics]``: how topics come to be, and how much of them is kept.

    ``named`` holds the per-topic tables with the general values filled in; in the file they stand directly
    below ``topics``.
    """

    auto_create: Annotated[bool, Meta(description="true or false")] = True
    default_partitions: Partitions = 1
    max_partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=65536,
            description="a number of partitions, 1 to 65536: the most that a client may ask for",
        ),
    ] = 1024
    retention: Retention = Retention()
    named: dict[str, TopicOverride] = {}

    def of(self, topic: str) -> TopicOverride:
        """What holds for ``topic``."""
        return self.named.get(topic) or TopicOverride(self.default_partitions, self.retention)


class MemorySettings(Struct, frozen=True):
    """``[memory]``: the watermark for data that is queued in RAM. Storages that keep files have limits of their own.

    At the watermark publishers wait where retention by age will make room, and are refused where nothing will.
    """

    max_bytes: Annotated[
        int,
        Meta(
            ge=1024**2,
            le=2**62,
            description="a number of bytes from 1048576: the most that is queued in RAM"
            "; publishers then wait or are refused",
        ),
    ] = _GIB


class LogSettings(Struct, frozen=True):
    """``[logging]``: structured logs on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Meta(description="one of debug, info, warning, error, critical"),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="one of auto, console, json; auto is console on a terminal"),
    ] = "auto"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that a broker is built from. Each field is a table of the file.

    ``receipt`` is what a measuring tool wrote about how the variants were chosen; kept as it is.
    """

    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    codec: Choice = Choice("cbor2")
    ring: Choice = Choice("deque")
    pool: Choice = Choice("none")
    compression: Choice = Choice("never")
    workers: Choice = Choice("inline")
    storage: Choice = Choice("segment-log", {"path": DEFAULT_FOLDER, "mode": "os"})
    limits: LimitSettings = LimitSettings()
    topics: TopicSettings = TopicSettings()
    memory: MemorySettings = MemorySettings()
    logging: LogSettings = LogSettings()
    receipt: dict[str, Any] = {}

    def choice(self, family: str) -> Choice:
        """The variant and options chosen for ``family``, one of `portask.contracts.FAMILIES`."""
        if family == "server":
            return Choice(self.server.variant, self.server.options)
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is no family; the families are {', '.join(FAMILIES)}")
        chosen: Choice = getattr(self, family)
        return chosen

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key, e.g. ``{"server.port": 7711, …}``; the receipt is left out."""
        found: dict[str, Any] = {}
        for section in self.__struct_fields__[:-1]:
            for name, value in msgspec.to_builtins(getattr(self, section), enc_hook=str).items():
                if name in {"options", "retention", "limits"}:
                    found |= {f"{section}.{name}.{quote(inner)}": setting for inner, setting in value.items()}
                elif name == "named":
                    for topic, own in value.items():
                        found |= _flat(f"{section}.{quote(topic)}", own)
                elif name == "identities":
                    for identity, own in value.items():
                        found |= _flat(f"{section}.{name}.{quote(identity)}", own)
                else:
                    found[f"{section}.{name}"] = value
        return found


def _flat(table: str, own: dict[str, Any]) -> dict[str, Any]:
    """What stands in one table of many, with the tables in it."""
    found: dict[str, Any] = {}
    for name, value in own.items():
        if isinstance(value, dict):
            found |= {f"{table}.{name}.{inner}": setting for inner, setting in value.items()}
        else:
            found[f"{table}.{name}"] = value
    return found


def quote(name: str) -> str:
    """``name`` as a TOML key: bare where that is allowed."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else text(name)


def text(value: str) -> str:
    """``value`` as a TOML string: JSON's escapes, and those for what JSON leaves and no terminal should see."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
"""DEL and the controls above ASCII, and what ends a line beside them: a complaint is one line."""
