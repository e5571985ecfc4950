"""Options that several commands share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from portask.config.settings import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Callable

    from portask.sync import Client

url_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--url",
    envvar="PORTASK_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Where the broker is.",
)
json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for a machine."
)


def connect(url: str) -> Client:
    """A client that does not reconnect: who types a command wants to hear at once that the broker is gone.

    Raises:
        ConfigError: not such a URL.
        ConnectFailed: nobody answers there.
    """
    logging.getLogger("portask").addHandler(logging.NullHandler())  # the command says it, once
    from portask import sync  # noqa: PLC0415 - costs more than all the rest; help and wrong usage do without

    return sync.connect(url, reconnect=False)
