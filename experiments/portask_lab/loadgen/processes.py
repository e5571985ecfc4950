"""Servers under test, each a child process that is always ended: brokers, relays, peers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from portask.errors import ConnectFailed

START_SECONDS = 15.0
"""How long a server may take until it listens."""
STOP_SECONDS = 3.0
"""How long it may take to end before it is killed."""
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h


class Machine:
    """The CPU time of every task on the machine, or of those that its container shows.

    From each task's ``schedstat``, in ns, not from ``/proc/stat``: that is sampled by the timer tick, and work that
    keeps step with the tick, as a batch a millisecond does, is seen at every tick or at none.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        for pid in Path("/proc").iterdir():
            if pid.name.isdigit():
                for task in _tasks(int(pid.name)):
                    with contextlib.suppress(OSError):  # it just ended
                        self.tasks[task.name] = int((task / "schedstat").read_text().split()[0])

    def since(self, before: Machine) -> float:
        """CPU seconds since another reading; what ended in between is missing."""
        return sum(now - before.tasks.get(task, 0) for task, now in self.tasks.items()) / 1e9


class Child:
    """A server process: started, known to listen, measured from outside, ended.

    Args:
        command: What to run.
        port: Where it listens, if the caller chose; else the process says ``ready <port>`` on its standard output.
        answers: Whether the server on that port is up; asked until it is. By default: it accepts a connection.
        errors: A file for its standard error, for those who want to read along; a temporary one by default.

    Raises:
        ConnectFailed: it ended, or did not listen in time; with what it said last.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int = 0,
        answers: Callable[[int], bool] | None = None,
        errors: Path | None = None,
    ) -> None:
        # appending, so that who reads it does not move the place where the child writes; closed by `stop`
        self._errors: IO[bytes] = tempfile.TemporaryFile("a+b") if errors is None else errors.open("a+b")  # noqa: SIM115
        self.folder = tempfile.TemporaryDirectory(prefix="portask-lab-")
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=self.folder.name,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no locks
        )
        self.pid = self._process.pid
        try:
            self.port = port or self._told()
            if port:
                self._wait(answers or _accepts)
        except BaseException:
            self.stop()
            raise

    def _told(self) -> int:
        """Reads ``ready <port>``."""
        out = self._process.stdout
        assert out is not None  # noqa: S101 - for the type checker
        deadline = time.monotonic() + START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            some = os.read(out.fileno(), 4096) if readable else b""
            if not some:
                raise ConnectFailed(self._complaint())
            line += some
        word, _, port = line.decode().partition(" ")
        if word != "ready":
            raise ConnectFailed(f"said {line!r} instead of its port")
        return int(port)

    def _wait(self, answers: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ConnectFailed(self._complaint())
            time.sleep(0.005)

    def _complaint(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        code = self._process.poll()
        how = (
            f"did not listen within {START_SECONDS:g} s"
            if code is None
            else f"ended with status {code} before it listened"
        )
        return f"{Path(self._process.args[0]).name} {how}: {self.said() or 'it said nothing'}"  # type: ignore[index, arg-type]

    def said(self) -> str:
        """The tail of its standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        return self._errors.read().decode(errors="replace").strip()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def processes(self) -> list[int]:
        """Its process id and those of its descendants."""
        found = [self.pid]
        for pid in found:
            for task in _tasks(pid):
                with contextlib.suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
        return found

    def cpu(self) -> float:
        """CPU seconds so far of all its threads and its descendants': ``schedstat``, ns steps. Takes some 50 µs."""
        total = 0
        for pid in self.processes():
            for task in _tasks(pid):
                with contextlib.suppress(OSError):  # a thread that just ended
                    total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def busy(self) -> dict[int, int]:
        """Process → ns that its main thread was on a core or waited for one; who cannot do more always is."""
        found = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):  # it just ended
                found[pid] = _busy(Path(f"/proc/{pid}/task/{pid}"))
        return found

    def private(self) -> int:
        """Private memory of it and its descendants, bytes: Private_Clean + Private_Dirty of ``smaps_rollup``."""
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        """Asks it to end, then makes it. Idempotent."""
        process = self._process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()
        self.folder.cleanup()

    def kill(self) -> None:
        """Ends it at once, as a crash would. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it just ended
        return []


def _busy(task: Path) -> int:
    """CPU time, and time in the queue for a core, ns."""
    ran, waited, _ = (task / "schedstat").read_text().split()
    return int(ran) + int(waited)


def thread_busy() -> int:
    """The ns that the calling thread was on a core or waited for one, since it began."""
    return _busy(Path("/proc/thread-self"))


def _accepts(port: int) -> bool:
    import socket  # noqa: PLC0415 - optional, or only here

    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def die_with_parent() -> None:
    """For ``preexec_fn`` on Linux: the child is killed when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot choose their own."""
    import socket  # noqa: PLC0415 - optional, or only here

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
