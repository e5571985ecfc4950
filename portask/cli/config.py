"""``portask config check``: the settings that would be used, and where each comes from."""

from __future__ import annotations

import os

import click
import msgspec

from portask.cli.output import print_json
from portask.config import Loaded, resolve
from portask.config.fingerprint import mismatch
from portask.config.schema import redact, show
from portask.server.tls import tls


@click.group()
def config() -> None:
    """Check settings, and see where each comes from."""


@config.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path())
@click.option("--config", "option_path", metavar="FILE", type=click.Path(), help="The same as FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine.")
def check(path: str | None, option_path: str | None, as_json: bool) -> None:
    """Print the settings of FILE as TOML, environment and defaults included.

    Behind each value stands where it comes from. Without FILE the one that PORTASK_CONFIG names is read, or none.
    Wrong settings are listed on stderr, one a line, and the exit code is 1; so are certificates that cannot be used.
    """
    if path and option_path:
        raise click.UsageError("FILE and --config name two files: give one")
    loaded = resolve(path or option_path, os.environ)
    tls(loaded.settings)  # reads the certificates, as `serve` would
    differences = mismatch(loaded.settings.receipt)
    if as_json:
        print_json(
            {
                "settings": redact(msgspec.to_builtins(loaded.settings, enc_hook=str)),
                "sources": loaded.sources,
                "notes": list(loaded.notes),
                "receipt_mismatch": differences,
            }
        )
        return
    for line in _toml(loaded):
        click.echo(line)
    for note in loaded.notes:
        click.echo(f"portask: note: {note}", err=True)
    for difference in differences:
        click.echo(f"portask: note: the receipt is of another machine: {difference}", err=True)


def _toml(loaded: Loaded) -> list[str]:
    lines: list[str] = []
    table = ""
    for key, value in loaded.settings.flat().items():
        above, name = _split(key)
        if above != table:
            lines += [*([""] if table else []), click.style(f"[{above}]", bold=True)]
            table = above
        source = loaded.sources[key]
        comment = click.style(
            f"  # {source}", dim=source == "default", fg=None if source == "default" else "green"
        )
        lines.append(f"{name} = {show(key, value, whole=True)}{comment}")
    return lines


def _split(key: str) -> tuple[str, str]:
    """``topics."a.b".partitions`` is the table ``topics."a.b"`` and the name ``partitions``."""
    if key.endswith('"'):
        start = key.rindex('."')
        return key[:start], key[start + 1 :]
    above, _, name = key.rpartition(".")
    return above, name
