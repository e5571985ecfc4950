"""Whether what the settings choose can be several processes, and which ring is between them."""

from __future__ import annotations

import os

import msgspec

from portask import registry
from portask.config import Settings
from portask.config.options import options
from portask.config.settings import Choice
from portask.contracts import Divisible, Parts
from portask.errors import ConfigError
from portask.multicore.owners import owner_of

CAPABILITY = "multicore"


def workers(settings: Settings) -> int:
    """How many workers the settings ask for."""
    return settings.server.workers or len(os.sched_getaffinity(0))


def choose(settings: Settings, count: int) -> Settings:
    """The settings with the ring that ``count`` workers have between them.

    The chosen one, if it reaches other processes. Where none was chosen, the first that does and runs here.

    Raises:
        ConfigError: the server, the storage or the ring cannot be had in several processes.
    """
    for family in ("server", "storage"):
        name = settings.choice(family).variant
        if CAPABILITY not in registry.get(family, name).capabilities:
            able = [each.name for each in registry.entries(family) if CAPABILITY in each.capabilities]
            raise ConfigError(
                f"server.workers: {count} workers cannot share the {family} {name}: choose {_or(able)}, or workers = 1"
            )
    reaching = [each for each in registry.entries("ring") if "processes" in each.capabilities]
    if settings.ring.variant in {each.name for each in reaching}:
        return settings
    names = _or([each.name for each in reaching])
    if settings.ring != Settings().ring:
        raise ConfigError(
            f"ring.variant: {settings.ring.variant} does not reach from one process to another, and {count} workers "
            f"need that: choose {names}, or server.workers = 1"
        )
    able = [each.name for each in sorted(reaching, key=_plainness) if each.unavailable() is None]
    if not able:
        reasons = "; ".join(f"{each.name} {each.unavailable()}" for each in reaching)
        raise ConfigError(f"server.workers: no ring here reaches from one process to another: {reasons}")
    return msgspec.structs.replace(settings, ring=Choice(able[0]))


def _plainness(entry: registry.Entry) -> bool:
    return "native" in entry.capabilities


def _or(names: list[str]) -> str:
    return " or ".join(names)


def divide(settings: Settings, places: int) -> Parts | None:
    """Each worker's part of what the storage keeps in files; ``None`` for one that keeps none of its own.

    Raises:
        StorageError: another process has it, or something else is there.
        OSError: it cannot be read or written.
    """
    entry = registry.get("storage", settings.storage.variant)
    target = entry.load()
    if not isinstance(target, Divisible):
        return None
    path = settings.storage.options.get("path", options(entry)[0]["path"].default)
    return target.divide(str(path), places, lambda key: owner_of(key.topic, key.partition, places))


def part(settings: Settings, place: int, places: int, parts: Parts | None) -> Settings:
    """The settings of one of several workers: what is a limit of all together is divided."""
    memory = msgspec.structs.replace(
        settings.memory, max_bytes=max(1 << 20, settings.memory.max_bytes // places)
    )
    given = dict(settings.storage.options)
    if parts is not None:
        given["path"] = parts.paths[place]
    if given.get("max_bytes"):
        given["max_bytes"] = max(1, given["max_bytes"] // places)
    storage = Choice(settings.storage.variant, given)
    return msgspec.structs.replace(settings, memory=memory, storage=storage, receipt={})
