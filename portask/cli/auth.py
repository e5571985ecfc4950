"""``portask auth``: tokens for those who may come in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from portask.cli.output import print_json
from portask.config import tokens
from portask.config.access import ANONYMOUS


@click.group()
def auth() -> None:
    """Make tokens for those who may come in."""


@auth.command()
@click.argument("name")
@click.option("--out", metavar="FILE", help="Write the token to a new file that only you can read.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine.")
def token(name: str, out: str | None, as_json: bool) -> None:
    """Make a token for the identity NAME.

    The token goes to stdout, or to FILE, and is shown nowhere else: the broker keeps its hash. The lines for the
    broker's settings go to stderr. The token is random: passwords of people are none, and are not taken.

    To replace a token, put both hashes into the list, give the new token to whoever uses it, and take the old hash
    out. SIGHUP makes a running broker read its settings; connections by a token that is no longer there end.

    \b
    portask auth token orders --out orders.token
    portask pub orders.eu hello --token-file orders.token
    """
    if not re.fullmatch(tokens.IDENTITY, name) or name == ANONYMOUS:
        raise click.BadParameter(
            f"{name!r} is no identity's name: use 1 to 64 of A-Z a-z 0-9 _ -", param_hint="NAME"
        )
    made = tokens.mint(name)
    lines = f'[auth.identities.{name}]\ntoken_hash = ["{tokens.hash_line(made)}"]'
    if out is not None:
        _write(out, made)
    if as_json:
        shown = {"token": made} if out is None else {"file": out}
        print_json({"identity": name, **shown, "token_hash": tokens.hash_line(made)})
        return
    if out is None:
        click.echo(made)
    click.echo(f'{lines}\nallow = [{{action = "subscribe", filter = "demo.>"}}]  # for example', err=True)


def _write(path: str, made: str) -> None:
    # a new file: an old one may be readable by others, or be what somebody still uses
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(made + "\n")
    Path(path).chmod(0o600)
