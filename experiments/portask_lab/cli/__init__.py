"""``portask lab``: the lab's commands, found without importing them.

Importing the statistics and the drawing library costs a second; ``--help`` and ``variants`` need neither. So the table
below holds names and help lines, and a command's module is imported when that command is called.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "variants": "List every variant, whether it can run here, and why not.",
    "run": "Measure the variants on this machine and these messages.",
    "report": "Write a run's report again from its results.",
    "select": "Put a run's winners into a config file, with the evidence.",
    "check": "Say whether a config file's evidence is of this machine.",
    "conform": "Check a variant against its family's contract.",
    "profile": "Draw a flame graph of a variant at work.",
    "crash": "Kill a broker again and again, and count what is lost.",
    "stall": "Let a subscriber stop reading for a while, and see what it costs.",
    "siege": "Attack a broker in many ways, and see what it costs.",
    "selftest": "Plant slowdowns and see whether the lab finds them here.",
}


class Commands(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"portask_lab.cli.{cmd_name}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from what is known without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def lab() -> None:
    """Measure, rank and choose variants on this machine.

    \b
      portask lab run --corpus mine.ndjson       measure on your messages; ends with a report
      portask lab select latest -o portask.toml  the winners, with the evidence
      portask serve --config portask.toml        a broker made of them
    """
