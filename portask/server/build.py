"""From settings to a broker: makes the chosen variants and puts them together."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from portask import registry
from portask.config.options import make
from portask.config.settings import Retention as RetentionSettings
from portask.config.settings import Settings
from portask.contracts import FAMILIES, Server, Storage
from portask.core.broker import Broker, Options
from portask.core.dead_letters import Rewrite
from portask.core.identities import Authenticator
from portask.core.retention import Retention
from portask.errors import ConfigError
from portask.server.authentication import authenticator
from portask.server.dead_letters import rewrite
from portask.server.tls import Tls, tls

_US = 1_000_000
PARTS = ("pool", "workers", "compression", "ring")
"""Families whose chosen variant is handed to every other variant that has a parameter of that name."""


Made = TypeVar("Made", bound=Broker)


def build(settings: Settings, encryption: Tls | None = None) -> tuple[Broker, Server]:
    """A broker and the server to run it, made of the variants that ``settings`` choose.

    ``encryption`` is what `portask.server.tls.tls` makes of the settings, for those who want to have a hand on it.

    Raises:
        PortaskError: see `build_as`.
    """
    return build_as(Broker, settings, encryption)


def build_as(
    make_broker: Callable[[Storage, Options, Rewrite, Authenticator | None], Made],
    settings: Settings,
    encryption: Tls | None = None,
) -> tuple[Made, Server]:
    """`build` with a broker of another kind.

    A part is handed on by name: a storage with a parameter ``compression`` gets the chosen compression, a
    server with a parameter ``pool`` the chosen pool. Parts that nobody asks for are not made.

    Raises:
        UnknownVariant: no such name.
        VariantUnavailable: a library is missing.
        ConfigError: a variant refuses its options, or has no TLS where the settings want it.
    """
    encryption = encryption or tls(settings)
    chosen = registry.get("server", settings.server.variant)
    if encryption is not None and "tls" not in inspect.signature(chosen.load()).parameters:
        raise ConfigError(
            f"server.variant: {chosen.name} has no TLS: choose another, or remove tls.certificate"
        )
    given = {"max_bytes": settings.memory.max_bytes}
    storage: Storage = _make(settings, "storage", given)
    server: Server = _make(settings, "server", given | {"tls": encryption})
    return make_broker(storage, options(settings), rewrite, authenticator(settings.auth)), server


def settle() -> None:
    """Takes what is there now out of the garbage collector's sight: it stays, and a full collection stops all clients.

    To be called when everything is built and nothing is served yet.
    """
    gc.collect()
    gc.freeze()


def options(settings: Settings) -> Options:
    """The core's options, in its units."""
    from importlib.metadata import version  # noqa: PLC0415 - not for those who only want the names here

    limits, topics = settings.limits, settings.topics
    retention = {"": _retention(topics.retention)}
    retention |= {name: _retention(override.retention) for name, override in topics.named.items()}
    return Options(
        name=f"portask {version('portask')}",
        max_frame=limits.max_frame_bytes,
        hello_timeout=int(limits.hello_timeout_s * _US),
        keepalive=int(limits.idle_timeout_s * _US),
        max_connections=limits.max_connections,
        max_raw=limits.max_raw_bytes,
        max_unacked_bytes=limits.max_unacked_bytes,
        publish_messages=limits.max_published_per_s,
        publish_bytes=limits.max_published_bytes_per_s,
        max_channels=limits.max_channels,
        max_assignments=limits.max_assignments,
        max_partitions=limits.max_partitions,
        max_group_partitions=limits.max_group_partitions,
        auto_create=topics.auto_create,
        max_topic_partitions=topics.max_partitions,
        default_partitions=topics.default_partitions,
        partitions={name: override.partitions for name, override in topics.named.items()},
        retention={name: policy for name, policy in retention.items() if policy is not None},
        clients=(settings.codec.variant, settings.compression.variant),
        settings={family: settings.choice(family).variant for family in FAMILIES},
    )


def _retention(settings: RetentionSettings) -> Retention | None:
    if not (settings.bytes or settings.age_s or settings.count):
        return None
    return Retention(settings.bytes or None, int(settings.age_s * _US) or None, settings.count or None)


def _make(settings: Settings, family: str, given: dict[str, Any]) -> Any:
    """One chosen variant, with the parts it asks for. An option of the file wins over what we would hand in."""
    choice = settings.choice(family)
    entry = registry.get(family, choice.variant)
    target = entry.load()
    wanted = inspect.signature(target).parameters
    if "durable" in entry.capabilities:
        given = {}  # limits of memory are none of the device's
    parts = {name: _make(settings, name, given) for name in PARTS if name in wanted and name != family}
    parts |= {name: value for name, value in given.items() if name in wanted}
    return make(family, choice, **parts)
