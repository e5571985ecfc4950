"""The program: its commands, found without importing them, and what a failure looks like.

Importing is most of what a short command costs. So the table below holds names and help lines, and a command's module
is imported when that command is called. Other distributions add commands through the entry-point group
``portask.commands`` (a `click.Command` each); theirs are imported when called too, and one that cannot be imported
harms nobody else.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from portask.cli.failures import explain
from portask.errors import PortaskError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "portask.commands"
COMMANDS = {
    "serve": ("portask.cli.serve:serve", "Run a broker."),
    "pub": ("portask.cli.pub:pub", "Publish messages to a topic."),
    "sub": ("portask.cli.sub:sub", "Print messages as they arrive."),
    "request": ("portask.cli.request:request", "Publish a message and print the reply."),
    "reply": ("portask.cli.request:reply", "Answer requests with what a command prints."),
    "topics": ("portask.cli.topics:topics", "List the topics of a broker."),
    "groups": ("portask.cli.groups:groups", "List consumer groups, or drop one."),
    "ping": ("portask.cli.ping:ping", "Measure round trips to a broker."),
    "bench": ("portask.cli.bench.commands:bench", "Measure a broker under load."),
    "log": ("portask.cli.log:log", "Look at the log in a folder, and repair it."),
    "auth": ("portask.cli.auth:auth", "Make tokens for those who may come in."),
    "config": ("portask.cli.config:config", "Check settings, and see where each comes from."),
}
_ADDED = {"lab": "Measure, rank and choose variants on this machine."}
"""Help lines of commands in this distribution's own entry points; others are named by their distribution."""


class _ReaderLeft(Exception):
    """Nobody reads stdout any more. Click would make exit code 1 of a `BrokenPipeError`."""


class Commands(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands of the core in their order, then those that were added."""
        return [*COMMANDS, *sorted(_points())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported.

        Raises:
            PortaskError: an added command that cannot be imported, and what would help.
        """
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            found: click.Command = getattr(import_module(module), attribute)
            return found
        point = _points().get(cmd_name)
        if point is None:
            return None
        try:
            added = point.load()
        except ModuleNotFoundError as error:
            raise _missing(point, error) from error
        except Exception as error:
            what = (
                f"portask {point.name} cannot be loaded from {point.value}: {type(error).__name__}: {error}"
            )
            raise PortaskError(f"{what}; reinstall {_distribution(point)}") from error
        if not isinstance(added, click.Command):
            raise PortaskError(
                f"portask {point.name} is no command: {point.value} is a {type(added).__name__}"
            )
        return added

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an added one may find only now that a library is missing."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderLeft from error
        except ModuleNotFoundError as error:
            point = (
                None if ctx.invoked_subcommand in COMMANDS else _points().get(ctx.invoked_subcommand or "")
            )
            if point is None:
                raise
            raise _missing(point, error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from what is known without importing them."""
        rows = [(name, line) for name, (_, line) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows + [(name, _line(point)) for name, point in sorted(_points().items())])


def _points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - a third of the start-up time, seldom needed

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(".")[0]


def _line(point: EntryPoint) -> str:
    own = _distribution(point) == "portask"
    return _ADDED.get(point.name, "") if own and point.name in _ADDED else f"Added by {_distribution(point)}."


def _missing(point: EntryPoint, error: ModuleNotFoundError) -> PortaskError:
    """What to say about a library that an added command misses."""
    module = (error.name or "").partition(".")[0]
    if not module or module == point.module.partition(".")[0]:  # its own module: no library would help
        return PortaskError(
            f"portask {point.name} cannot be loaded: {error}; reinstall {_distribution(point)}"
        )
    extras = point.dist.metadata.get_all("Provides-Extra") if point.dist else None
    wanted = f"'{_distribution(point)}[{point.name}]'" if point.name in (extras or ()) else module
    return PortaskError(f"portask {point.name} needs {module}: pip install {wanted}")


@click.command(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="portask", prog_name="portask")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A message broker made of measured parts.

    Start one with `portask serve`, then try `portask pub demo hello` and
    `portask sub demo --from earliest --count 1` in other shells.

    \b
    Environment:
      PORTASK_URL              the broker that commands talk to
      PORTASK_TOKEN            who they are, for a broker that asks
      PORTASK_CA, PORTASK_CERT, PORTASK_CERT_KEY
                               PEM files for portasks:// URLs
      PORTASK_CONFIG           the settings file of `serve` and `config check`
      PORTASK_<SECTION>_<KEY>  a setting, e.g. PORTASK_SERVER_PORT
      PORTASK_TRACEBACK=1      show the traceback of a failure
      NO_COLOR=1               no colours
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def run(arguments: list[str]) -> int:
    """Runs a command line; returns the exit code. What goes wrong is explained on stderr, without a traceback."""
    try:
        result = cli.main(arguments, prog_name="portask", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (_ReaderLeft, BrokenPipeError):
        # Python would complain when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:  # noqa: BLE001 - users get a line, never a traceback that they did not ask for
        if os.environ.get("PORTASK_TRACEBACK", "0") not in {"", "0"}:
            traceback.print_exc()
        for line in explain(error):
            click.echo(f"portask: {line}", err=True)
        return 1
    return result if isinstance(result, int) else 0
