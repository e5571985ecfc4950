"""The command line. `main` is the program; each command lies in a file of its own and is imported when called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs ``portask`` with ``arguments`` (those of the process unless given) and exits.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more.
    """
    try:
        from portask.cli.app import run  # noqa: PLC0415 - an interrupt while importing shows no traceback either

        code = run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
