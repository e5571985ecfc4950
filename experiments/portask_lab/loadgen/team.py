"""Client processes that are told what to do by a line of JSON each, and answer with one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from portask.errors import ConnectFailed

_Answer = TypeVar("_Answer")


class Team:
    """A context manager: its end ends them, by the end of their input.

    Args:
        module: What each runs.
        arguments: The command line of each.
    """

    def __init__(self, module: str, arguments: Sequence[Sequence[str]]) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        for own in arguments:
            command = [sys.executable, "-m", module, *own]
            self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def __len__(self) -> int:
        return len(self._processes)

    def tell(self, orders: Sequence[Any]) -> None:
        """One order to each."""
        for process, order in zip(self._processes, orders, strict=True):
            assert process.stdin is not None  # noqa: S101 - for the type checker
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()

    def hear(self, kind: type[_Answer]) -> list[_Answer]:
        """The answer of each.

        Raises:
            ConnectFailed: a process ended instead.
        """
        answers = []
        for process in self._processes:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            line = process.stdout.readline()
            if not line:
                raise ConnectFailed(f"a client process ended with status {process.wait()}")
            answers.append(msgspec.json.decode(line, type=kind))
        return answers

    def ask(self, orders: Sequence[Any], kind: type[_Answer]) -> list[_Answer]:
        """Both."""
        self.tell(orders)
        return self.hear(kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        for process in self._processes:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answer(found: Any) -> None:
    """Said by a process of a team."""
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    sys.stdout.flush()
