"""Where the log can run, and with which options."""

from __future__ import annotations

import os
import sys

from portask.errors import ConfigError

_LEAST = {
    "segment_bytes": 4096,
    "coalesce_bytes": 0,
    "index_interval": 64,
    "max_bytes": 0,
    "cache_bytes": 0,
    "open_files": 1,
}


def check(variant: str, modes: tuple[str, ...], mode: str, **sizes: int) -> None:
    """Checks the options of a log.

    Args:
        variant: Its name, for the text.
        modes: That it has.
        mode: That is asked for.
        sizes: Options that are numbers.

    Raises:
        ConfigError: one of them makes no sense.
    """
    if mode not in modes:
        raise ConfigError(f"{variant} has the modes {', '.join(modes[:-1])} and {modes[-1]}, not {mode!r}")
    for name, value in sizes.items():
        if value < _LEAST[name]:
            raise ConfigError(f"{variant}: {name} is {value}, and {_LEAST[name]} is the least")


def why_not() -> str | None:
    """Why the log cannot be used on this machine; ``None`` if it can."""
    if not hasattr(os, "pwritev") or os.name != "posix":
        return "needs a POSIX system with pwritev (Linux, macOS 11)"
    if sys.byteorder != "little":
        return "needs a little-endian machine"
    return None
