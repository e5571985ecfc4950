"""What a server keeps, read from it: append-only file, snapshots, replicas, eviction. Nothing is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portask_variants.storage.redis_streams.link import Link

_CONFIG = ("appendonly", "appendfsync", "save", "maxmemory-policy")


async def read(link: Link, replicas: int) -> str:
    """What an acknowledged record survives, in a sentence for people; ``replicas`` have each write before its ack."""
    told: dict[str, list[str]] = {}
    config: dict[str, dict[str, Any]] = {
        name: await link.everywhere("CONFIG", "GET", name) for name in _CONFIG
    }
    for node, server in (await link.everywhere("INFO", "server")).items():
        replication = (await link.everywhere("INFO", "replication")).get(node)
        values = {name: _value(found.get(node)) for name, found in config.items()}
        told.setdefault(_sentence(_fields(server), _fields(replication), values, replicas), []).append(node)
    if len(told) == 1:
        ((text, nodes),) = told.items()
        return text if len(nodes) == 1 else f"{len(nodes)} primaries, each {text}"
    return "; ".join(f"{', '.join(nodes)}: {text}" for text, nodes in told.items()) or "unknown"


def _sentence(
    server: Mapping[str, str], replication: Mapping[str, str], values: Mapping[str, str | None], replicas: int
) -> str:
    parts = [_version(server), _kept(values)]
    copies = replication.get("connected_slaves")
    if copies is None:
        parts.append("replicas unknown")
    else:
        parts.append(f"{copies} replica{'' if copies == '1' else 's'}")
    if replicas:
        parts.append(f"acknowledged once {replicas} {'has' if replicas == 1 else 'have'} it")
    policy = values["maxmemory-policy"]
    if policy not in {None, "noeviction"}:
        parts.append(f"maxmemory-policy {policy}: IT MAY DROP RECORDS when it is full")
    return ", ".join(parts)


def _version(server: Mapping[str, str]) -> str:
    for name in ("valkey", "dragonfly", "redis"):
        version = server.get(f"{name}_version")
        if version:
            return f"{name} {version.removeprefix('df-')}"
    return "server"


def _kept(values: Mapping[str, str | None]) -> str:
    appending, sync, snapshots = values["appendonly"], values["appendfsync"], values["save"]
    if appending == "yes":
        return f"appendonly yes, appendfsync {sync or 'unknown'}"
    if snapshots is None and appending is None:
        return "durability unknown (it does not tell appendonly and save)"
    if snapshots:
        return f"appendonly {appending or 'unknown'}, snapshots only (save {snapshots})"
    return f"appendonly {appending or 'unknown'}, no snapshots: lost when the server ends"


def _value(reply: Any) -> str | None:
    """Of CONFIG GET; ``None`` where it is refused or unknown."""
    if not isinstance(reply, list) or len(reply) < 2:
        return None
    value = reply[1]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _fields(reply: Any) -> dict[str, str]:
    """Of INFO."""
    if not isinstance(reply, bytes | str):
        return {}
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
