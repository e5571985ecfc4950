"""Settings of a broker: one TOML file, ``PORTASK_…`` variables over it, the command line over both.

`load` makes `Settings`, `resolve` says too where each value comes from, `changes` compares two for a running broker,
and `make` builds a variant that was chosen.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from portask.config.settings import DEFAULT_FOLDER, DEFAULT_HOST, DEFAULT_PORT, DEFAULT_URL, Choice, Settings

if TYPE_CHECKING:
    from portask.config.live import Change, changes
    from portask.config.loading import Loaded, load, resolve
    from portask.config.options import make

__all__ = [
    "DEFAULT_FOLDER",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEFAULT_URL",
    "Change",
    "Choice",
    "Loaded",
    "Settings",
    "changes",
    "load",
    "make",
    "resolve",
]

_LATE = {
    "Change": "live",
    "Loaded": "loading",
    "changes": "live",
    "load": "loading",
    "make": "options",
    "resolve": "loading",
}


def __getattr__(name: str) -> Any:
    # Late, because a client wants the default port and nothing that reads files.
    if name not in _LATE:
        raise AttributeError(f"module 'portask.config' has no attribute {name!r}")
    return getattr(import_module(f"portask.config.{_LATE[name]}"), name)
