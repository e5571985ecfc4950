"""Runs a command as if some libraries were not installed."""

import os
import subprocess
from pathlib import Path

_CUSTOMIZE = """
import os, sys

HIDDEN = frozenset(os.environ["HIDDEN"].split())


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run_without(
    libraries: str, command: list[str], folder: Path, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Python start-up hides ``libraries`` (names, separated by spaces) from the command and what it starts."""
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
    environment = {**os.environ, "HIDDEN": libraries, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
    )
