"""Storages that keep records on a server: what such a case promises, and the server for it.

A server's durability is its own affair, so a case names it: ``server-ram`` (no file), ``server-everysec`` and
``server-always`` (an append-only file, ``appendfsync`` so). Each measuring process starts its own server; that it does
what the case says is asked of it, not assumed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from portask.contracts import Durability
from portask.registry import Entry
from portask_lab.workloads import NotForThis, WrongResult

_SYNCS = ("ram", "everysec", "always")
SERVER = tuple(f"server-{sync}" for sync in _SYNCS)
"""Durabilities of cases about one server, least first."""
CLUSTER = tuple(f"cluster-{sync}" for sync in _SYNCS)
"""Likewise about a cluster."""


def _kept(durability: str) -> tuple[str, str]:
    """``server`` or ``cluster`` and how it syncs; both empty for what a storage promises by itself."""
    kind, _, sync = durability.partition("-") if durability in {*SERVER, *CLUSTER} else ("", "", "")
    return kind, sync


def server_for(entry: Entry, durability: str) -> AbstractContextManager[dict[str, Any]]:
    """Options that lead to a server of that durability, for as long as the context lasts; none for other storages.

    Raises:
        NotForThis: the case is about a server or a cluster and the storage is not, or the other way round.
    """
    kind, sync = _kept(durability)
    if kind not in entry.capabilities if kind else entry.sandbox:
        own = "what its server does" if entry.sandbox else "something of its own"
        raise NotForThis(f"{entry.label} promises {own}, this case is about {durability}")
    return entry.sandboxed(**({"sync": "" if sync == "ram" else sync} if kind else {}))


def promise_of(durability: str) -> str:
    """The `Durability` that a storage declares in a case."""
    return Durability.SERVER.value if _kept(durability)[0] else durability


def check_promise(durability: str, promise: str) -> None:
    """Sees that a server keeps what the case says; ``promise`` is what it told.

    Raises:
        WrongResult: it does not.
    """
    kind, sync = _kept(durability)
    due = "appendonly no" if sync == "ram" else f"appendfsync {sync}"
    if kind and due not in promise:
        raise WrongResult(f"the server should say {due!r}, and says {promise!r}")
