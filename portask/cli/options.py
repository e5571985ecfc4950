"""Options that several commands share."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from portask.config.settings import DEFAULT_URL
from portask.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from portask.client.options import Access
    from portask.sync import Client

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_TOKEN_VARIABLE = "PORTASK_TOKEN"  # noqa: S105 - where it is, not what
_META = "portask.access."
_TLS = {"ca": "ca", "cert": "certificate", "cert_key": "key"}
"""Options for TLS, and what the client calls them."""


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name is not None:
        source = ctx.get_parameter_source(param.name)
        ctx.meta[_META + param.name] = (value, source is click.core.ParameterSource.ENVIRONMENT)


def _kept(*names: str, **more: Any) -> Decorator:
    """An option that no command has to hand on: `access` finds it."""
    return click.option(*names, expose_value=False, callback=_keep, **more)


_BROKER: tuple[Decorator, ...] = (
    click.option(
        "--url",
        envvar="PORTASK_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        help="Where the broker is; portasks://… for TLS.",
    ),
    _kept(
        "--token-file",
        metavar="FILE",
        help=f"Holds the token, for a broker that asks; else {_TOKEN_VARIABLE}.",
    ),
    _kept(
        "--ca",
        metavar="FILE",
        envvar="PORTASK_CA",
        show_envvar=True,
        help="PEM file of who signed the broker's certificate.",
    ),
    _kept(
        "--cert",
        metavar="FILE",
        envvar="PORTASK_CERT",
        show_envvar=True,
        help="PEM file of a certificate to show.",
    ),
    _kept(
        "--cert-key", metavar="FILE", envvar="PORTASK_CERT_KEY", show_envvar=True, help="PEM file of its key."
    ),
    _kept("--insecure", metavar="WORDS", help='"token in plain text" lets the token travel readable.'),
)


def broker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the broker is (the parameter ``url``), and how to get in (`access`)."""
    for option in reversed(_BROKER):
        command = option(command)
    return command


json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine.")


def access(url: str) -> Access:
    """What the running command was told about getting in, for `portask.connect`.

    Raises:
        ConfigError: the token's file holds none.
        OSError: it cannot be read.
    """
    meta = click.get_current_context().meta
    found: Access = {}
    for name, keyword in _TLS.items():
        value, ambient = meta.get(_META + name, ("", True))
        # a variable is for all commands, also for those that talk to a broker without TLS
        if value and not (ambient and url.startswith("portask:")):
            found[keyword] = value  # type: ignore[literal-required]  # one of three that are
    token = _token(meta.get(_META + "token_file", ("", False))[0])
    if token:
        found["token"] = token
    if words := meta.get(_META + "insecure", ("", False))[0]:
        found["insecure"] = words
    return found


def _token(path: str) -> str:
    if not path:
        return os.environ.get(_TOKEN_VARIABLE, "").strip()
    token = Path(path).read_text(encoding="utf-8", errors="replace").strip()
    if not token:
        raise ConfigError(f"{path} holds no token: `portask auth token NAME --out {path}` makes one")
    return token


def connect(url: str) -> Client:
    """A client that does not reconnect: who types a command wants to hear at once that the broker is gone.

    Raises:
        ConfigError: not such a URL, or what is needed to get in is not right.
        ConnectFailed: nobody answers there.
        AuthenticationFailed: the broker does not know who this is.
    """
    logging.getLogger("portask").addHandler(logging.NullHandler())  # the command says it, once
    from portask import sync  # noqa: PLC0415 - costs more than all the rest; help and wrong usage do without

    return sync.connect(url, reconnect=False, **access(url))
