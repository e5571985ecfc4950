"""Portask: a message broker made of measured parts.

::

    import portask

    async with portask.connect("portask://127.0.0.1:7711") as client:
        await client.publish("orders.eu", b"...", key=b"customer-7")
        async for message in client.subscribe("orders.>", "earliest"):
            ...

`portask.sync` has the same names without asyncio. Everything that is raised on purpose is in `portask.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from portask import errors
from portask.messages import Message, trace_headers

if TYPE_CHECKING:
    from portask import sync
    from portask.client import connect

    __version__: str

__all__ = ["Message", "__version__", "connect", "errors", "sync", "trace_headers"]


def __getattr__(name: str) -> Any:
    # Late, because whoever only wants a codec or the wire should not pay for asyncio.
    if name == "connect":
        value: Any = import_module("portask.client").connect
    elif name == "sync":
        value = import_module("portask.sync")
    elif name == "__version__":
        value = import_module("importlib.metadata").version("portask")
    else:
        raise AttributeError(f"module 'portask' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
