"""Settings of a broker: one TOML file, ``PORTASK_…`` variables over it, the command line over both."""

from portask.config.live import Change, changes, live
from portask.config.loading import Loaded, load, resolve
from portask.config.options import make, options
from portask.config.settings import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_URL, Choice, Settings

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEFAULT_URL",
    "Change",
    "Choice",
    "Loaded",
    "Settings",
    "changes",
    "live",
    "load",
    "make",
    "options",
    "resolve",
]
