"""Running the program as a user does: in a process of its own."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROGRAM = (sys.executable, "-m", "portask.cli")


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of Portask, and with ``more``."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PORTASK_", "NO_COLOR"))
    }
    return kept | more


def run(*arguments: str, stdin: bytes = b"", cwd: Path | None = None, **more: str) -> Result:
    """Runs ``portask`` with ``arguments`` to its end."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(**more),
        cwd=cwd,
        timeout=30,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*arguments: str, **more: str) -> str:
    """The output of a command whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", **more),
    ):
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says EIO when the other end is gone
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(ours)
    return b"".join(pieces).decode()


class Running:
    """``portask serve``, ready, with a working directory of its own unless one is given."""

    def __init__(self, *arguments: str, cwd: Path | None = None, **more: str) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="portask-test-") if cwd is None else None
        self.cwd = Path(self._own.name) if self._own else cwd
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**more),
            cwd=self.cwd,
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline().decode()
        found = re.search(r"ready on \S+:(\d+);", self.ready_line)
        if found is None:
            pytest.fail(f"the broker did not start: {self.ready_line!r}, {self.end().err}")
        self.port = int(found[1])
        self.url = f"portask://127.0.0.1:{self.port}"

    def wait_for_log(self, part: str) -> str:
        """The next line of stderr that contains ``part``."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if part in line.decode():
                return line.decode()
        pytest.fail(f"the broker ended without logging {part!r}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> Result:
        """Ends it with a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        if self._own is not None:
            self._own.cleanup()
        return Result(self.process.returncode, out.decode(), err.decode())


@pytest.fixture
def serving() -> Iterator[Callable[..., Running]]:
    """Starts brokers that end with the test."""
    started: list[Running] = []

    def start(*arguments: str, cwd: Path | None = None, **more: str) -> Running:
        started.append(Running("--port", "0", *arguments, cwd=cwd, **more))
        return started[-1]

    yield start
    for each in started:
        each.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def broker() -> Iterator[Running]:
    """One broker for a module of tests."""
    running = Running("--port", "0", "--log-level", "warning")
    yield running
    running.end(signal.SIGKILL)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    """Writes a settings file; gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "portask.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
