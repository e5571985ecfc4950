"""The broker that is killed: ``portask serve`` on one folder and one port, again and again.

One of several workers is killed whole, supervisor and workers at once, as by the kernel when memory runs out or by who
ends a container; or one worker of it is, and gets a successor from its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

from portask.errors import ConnectFailed, PortaskError
from portask_lab.loadgen.processes import die_with_parent, free_port

START_SECONDS = 30.0
"""How long a start may take, recovery included."""
_STOP_SECONDS = 10.0
TOPIC = "crash"


class Victim:
    """One broker after the other, on the same data.

    Attributes:
        port: Where all of them listen.
        starts: How many there were.
        workers: Processes that each of them has for its clients.
    """

    def __init__(self, folder: Path, storage: str, mode: str, partitions: int, workers: int) -> None:
        self.port = free_port()
        self.starts = 0
        self.workers = workers
        self._mode = mode
        self._config = folder / "portask.toml"
        self._said = folder / "broker.log"
        self._config.write_text(
            f'[server]\nhost = "127.0.0.1"\nport = {self.port}\nworkers = {workers}\n\n'
            f"[storage]\nvariant = {json.dumps(storage)}\n\n"
            f"[storage.options]\npath = {json.dumps(str(folder / 'log'))}\nmode = {json.dumps(mode)}\n\n"
            f"[topics.{TOPIC}]\npartitions = {partitions}\n\n"
            '[logging]\nformat = "json"\n'
        )
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0
        self._since = 0  # where in the log this one begins

    async def spawn(self) -> None:
        """Starts one; it is not ready yet."""
        with self._said.open("ab") as said:
            self._began = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "portask.cli", "serve", "--config", str(self._config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
                process_group=0,  # its workers are in it, too
            )
        self.starts += 1
        self._since = self._said.stat().st_size

    async def ready(self) -> float:
        """Waits until the one that was spawned listens; returns the seconds since then.

        Raises:
            ConnectFailed: it ended, or did not listen in time, with what it said last.
            PortaskError: it promises something else than it was asked for.
        """
        assert self._process is not None  # noqa: S101 - spawned before
        out = self._process.stdout
        assert out is not None  # noqa: S101 - a pipe was asked for
        try:
            async with asyncio.timeout(START_SECONDS):
                line = (await out.readline()).decode(errors="replace")
        except TimeoutError:
            line = ""
        took = time.monotonic() - self._began
        if not line:
            raise ConnectFailed(f"the broker did not come back (start {self.starts}): {self.said()}")
        if not re.search(rf"durability={self._mode}\b", line):
            raise PortaskError(f"the broker was asked for durability {self._mode} and says: {line.strip()}")
        return took

    async def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        pid = self._alive()
        workers = self._worker_pids()
        os.killpg(pid, signal.SIGKILL)
        assert self._process is not None  # noqa: S101 - it is alive
        await self._process.wait()
        while any(map(_runs, workers)):  # whoever starts a broker again waits for that  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)

    def kill_worker(self, chance: random.Random) -> bool:
        """SIGKILL to one of its workers; false if there is none just now. Its supervisor starts another."""
        self._alive()
        pids = self._worker_pids()
        if pids:
            self._began = time.monotonic()
            os.kill(chance.choice(pids), signal.SIGKILL)
        return bool(pids)

    async def whole(self) -> float:
        """Waits until all workers listen; returns the seconds since one was killed.

        Raises:
            PortaskError: the broker ended.
            ConnectFailed: a successor did not listen in time.
        """
        while not self._all_listen():
            self._alive()
            if time.monotonic() - self._began > START_SECONDS:
                raise ConnectFailed(f"a worker has no successor that listens: {self.said()}")
            await asyncio.sleep(0.005)
        return time.monotonic() - self._began

    def _all_listen(self) -> bool:
        with self._said.open("rb") as said:
            said.seek(self._since)
            lines = [line for line in said.read().splitlines() if b'"portask.worker"' in line]
        listening = {found["pid"] for line in lines if (found := json.loads(line))["event"] == "ready"}
        pids = self._worker_pids()
        return len(pids) == self.workers and listening.issuperset(pids)

    def _alive(self) -> int:
        assert self._process is not None  # noqa: S101 - spawned before
        if self._process.returncode is not None:
            code = self._process.returncode
            raise PortaskError(f"the broker ended by itself with status {code}: {self.said()}")
        return self._process.pid

    def _worker_pids(self) -> list[int]:
        assert self._process is not None  # noqa: S101 - spawned before
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:  # it has just ended
            return []
        return [child for child in map(int, children) if _runs(child) and _is_worker(child)]

    async def stop(self) -> None:
        """Ends it in order; kills it if it takes too long. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def said(self) -> str:
        """The tail of its standard error."""
        return self._said.read_bytes()[-1500:].decode(errors="replace").strip() or "it said nothing"


def _is_worker(pid: int) -> bool:
    """Whether this child of a supervisor is one; another may look after its shared memory."""
    try:
        return b"portask.multicore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it has not ended yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"
