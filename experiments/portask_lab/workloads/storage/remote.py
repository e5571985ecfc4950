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

CASES = ("server-ram", "server-everysec", "server-always")
"""Durabilities of cases, least first."""


def server_for(entry: Entry, durability: str) -> AbstractContextManager[dict[str, Any]]:
    """Options that lead to a server of that durability, for as long as the context lasts; none for other storages.

    Raises:
        NotForThis: the case is about a server and the storage has none, or the other way round.
    """
    if bool(entry.sandbox) != (durability in CASES):
        own = "what its server does" if entry.sandbox else "something of its own"
        raise NotForThis(f"{entry.label} promises {own}, this case is about {durability}")
    sync = durability.removeprefix("server-")
    return entry.sandboxed(**({"sync": "" if sync == "ram" else sync} if entry.sandbox else {}))


def promise_of(durability: str) -> str:
    """The `Durability` that a storage declares in a case."""
    return Durability.SERVER.value if durability in CASES else durability


def check_promise(durability: str, promise: str) -> None:
    """Sees that a server keeps what the case says; ``promise`` is what it told.

    Raises:
        WrongResult: it does not.
    """
    if durability not in CASES:
        return
    sync = durability.removeprefix("server-")
    due = "appendonly no" if sync == "ram" else f"appendfsync {sync}"
    if due not in promise:
        raise WrongResult(f"the server should say {due!r}, and says {promise!r}")
