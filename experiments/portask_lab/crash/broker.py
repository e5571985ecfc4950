"""The broker that is killed: ``portask serve`` on one folder and one port, again and again."""

from __future__ import annotations

import asyncio
import json
import re
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
    """

    def __init__(self, folder: Path, storage: str, mode: str, partitions: int) -> None:
        self.port = free_port()
        self.starts = 0
        self._mode = mode
        self._config = folder / "portask.toml"
        self._said = folder / "broker.log"
        self._config.write_text(
            f'[server]\nhost = "127.0.0.1"\nport = {self.port}\n\n'
            f"[storage]\nvariant = {json.dumps(storage)}\n\n"
            f"[storage.options]\npath = {json.dumps(str(folder / 'log'))}\nmode = {json.dumps(mode)}\n\n"
            f"[topics.{TOPIC}]\npartitions = {partitions}\n\n"
            '[logging]\nformat = "json"\n'
        )
        self._process: asyncio.subprocess.Process | None = None
        self._began = 0.0

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
            )
        self.starts += 1

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
        """SIGKILL."""
        assert self._process is not None  # noqa: S101 - spawned before
        if self._process.returncode is not None:
            code = self._process.returncode
            raise PortaskError(f"the broker ended by itself with status {code}: {self.said()}")
        self._process.kill()
        await self._process.wait()

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
            process.kill()
            await process.wait()

    def said(self) -> str:
        """The tail of its standard error."""
        return self._said.read_bytes()[-1500:].decode(errors="replace").strip() or "it said nothing"
