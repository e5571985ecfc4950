"""Starts the processes that make the load, leads them through a run, and gathers what they report.

A run goes: every process connects and subscribes; all begin at one moment; producers come to their end, or are halted;
subscribers go on until each has everything that was acknowledged, or nothing came for `DRAIN_SECONDS`; a moment longer,
in case something comes twice; reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from portask.cli.bench.orders import Go, Halt, Load, Order, Progress, Ready, Report, Stop, Task, Word
from portask.errors import PortaskError, RequestTimeout, from_code
from portask.measuring.openloop import DRAIN_SECONDS

_HEAD_START = 0.05  # seconds from the order to begin to the beginning
_ENCORE = 0.2  # seconds in which what comes twice still can
_FAREWELL = 10.0  # seconds for the last word of a process
_TICK = 0.1
_LINE_LIMIT = 1 << 30


class Process:
    """One process that makes load.

    Attributes:
        task: What it does.
        progress: What it last said of itself.
        report: Its last word; ``None`` before.
    """

    def __init__(self, task: Task, process: asyncio.subprocess.Process, heard: asyncio.Event) -> None:
        self.task = task
        self.ready = False
        self.progress = Progress(0, [0] * len(task.subscribers), not task.producers)
        self.report: Report | None = None
        self._process = process
        self._heard = heard
        self._errors = b""
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    @classmethod
    async def start(cls, task: Task, heard: asyncio.Event) -> Process:
        """Starts one; ``heard`` is set whenever it says something."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # what lies in the working directory must not take the place of a module
            "-m",
            "portask.cli.bench.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for the conductor
            limit=_LINE_LIMIT,
        )
        found = cls(task, process, heard)
        found._write(task)
        return found

    def _write(self, word: msgspec.Struct) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(msgspec.json.encode(word) + b"\n")

    def order(self, order: Order) -> None:
        """Tells it what to do."""
        self._write(order)

    async def _read(self) -> None:
        out = self._process.stdout
        assert out is not None  # noqa: S101 - for the type checker
        decoder = msgspec.json.Decoder(Word)
        while line := await out.readline():
            word = decoder.decode(line)
            if isinstance(word, Ready):
                self.ready = True
            elif isinstance(word, Progress):
                self.progress = word
            else:
                self.report = word
            self._heard.set()

    async def _read_errors(self) -> None:
        err = self._process.stderr
        assert err is not None  # noqa: S101 - for the type checker
        while some := await err.read(65536):
            self._errors = (self._errors + some)[-4000:]

    @property
    def over(self) -> bool:
        """Whether it said its last word, or will not say it any more."""
        return self.report is not None or self._reading[0].done()

    def failure(self) -> PortaskError | None:
        """Why it could not go on, if it could not."""
        if self.report is not None:
            failed = self.report.failure
            return from_code(failed.code, failed.text) if failed is not None else None
        if self._reading[0].done():
            lines = self._errors.decode(errors="replace").strip().splitlines()
            said = lines[-1] if lines else "it said nothing"
            return PortaskError(f"a process that made load ended before its report: {said}")
        return None

    async def end(self) -> None:
        """Lets it end, or makes it."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(2 if self.report is not None else 0.1):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await asyncio.gather(*self._reading, return_exceptions=True)


class Outcome(msgspec.Struct):
    """What came of a run.

    Attributes:
        tasks: Of the processes.
        reports: Likewise; ``None`` from one that broke off.
        start: When it began, ns; 0 if it never did.
        interrupted: The user ended it.
        silent: Seconds without any message, after which the wait for more was given up; 0 if it was not.
        failure: Why it could not go on.
    """

    tasks: list[Task]
    reports: list[Report | None]
    start: int = 0
    interrupted: bool = False
    silent: float = 0
    failure: PortaskError | None = None


Watch = Callable[[int, int, list[Progress]], None]
"""Told now and then, for the user: when it began, the time, and what each process has done so far."""


class Conductor:
    """Leads one run.

    Args:
        load: What is to be done.
        tasks: The same, by process.
        watch: Sees progress.
        patience: Of ``sub``: seconds without a message before it ends, once the first came.
        waits: Of ``sub``: seconds to wait for the first; ``None`` for ever.
    """

    def __init__(
        self, load: Load, tasks: list[Task], watch: Watch, *, patience: float, waits: float | None
    ) -> None:
        self._load = load
        self._tasks = tasks
        self._watch = watch
        self._patience = patience
        self._waits = waits
        self._heard = asyncio.Event()
        self._interrupts = 0
        self._processes: list[Process] = []
        self._outcome = Outcome(tasks, [])

    async def run(self) -> Outcome:
        """The whole run. Ctrl-C ends it early and in order, a second one at once.

        Raises:
            KeyboardInterrupt: a second Ctrl-C, or one before it began.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        outcome = self._outcome
        try:
            for task in self._tasks:
                self._processes.append(await Process.start(task, self._heard))
            await self._until(lambda: all(each.ready for each in self._processes))
            if self._interrupts:
                raise KeyboardInterrupt
            if not self._failed():
                await self._lead()
            self._order(Stop())
            await self._until(lambda: all(each.over for each in self._processes), _FAREWELL)
            outcome.failure = outcome.failure or self._failure()
            outcome.reports = [each.report for each in self._processes]
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await asyncio.gather(*(each.end() for each in self._processes))
        return outcome

    def _interrupted(self) -> None:
        self._interrupts += 1
        self._heard.set()

    def _failure(self) -> PortaskError | None:
        """The first that says more than that the connection is gone, as others only see that it is."""
        found = [failure for each in self._processes if (failure := each.failure()) is not None]
        return next((each for each in found if each.code != "not-connected"), found[0] if found else None)

    def _failed(self) -> bool:
        return any(each.over for each in self._processes)

    def _order(self, order: Order) -> None:
        for each in self._processes:
            each.order(order)

    async def _until(self, met: Callable[[], bool], seconds: float | None = None) -> bool:
        """Waits until ``met``, a process is over, the time is, or a second Ctrl-C. Whether it is met."""
        deadline = None if seconds is None else time.monotonic() + seconds
        before = self._interrupts
        while not met():
            if self._interrupts > 1:
                raise KeyboardInterrupt
            if seconds is None and (self._failed() or self._interrupts > before):
                return False
            if deadline is not None and time.monotonic() > deadline:
                return False
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._heard.wait()
        return True

    async def _lead(self) -> None:
        outcome = self._outcome
        outcome.start = time.monotonic_ns() + round(_HEAD_START * 1e9)
        self._order(Go(outcome.start))
        await (self._receive() if self._load.kind == "sub" else self._publish())
        outcome.interrupted = self._interrupts > 0
        self._show()

    def _show(self) -> None:
        self._watch(self._outcome.start, time.monotonic_ns(), [each.progress for each in self._processes])

    def _look(self, met: Callable[[], bool]) -> Callable[[], bool]:
        """``met``, and a look at the progress whenever it is asked."""

        def looked() -> bool:
            self._show()
            return met()

        return looked

    # ── with producers ────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish(self) -> None:
        produced = self._look(lambda: all(each.progress.produced for each in self._processes))
        if not await self._until(produced) and not self._failed():
            self._order(Halt())  # Ctrl-C: what was published is still received and accounted for
            await self._until(lambda: produced() or self._failed(), DRAIN_SECONDS)
            if not produced() and not self._failed():
                text = (
                    f"what was under way was not acknowledged within {DRAIN_SECONDS:g} s after the interrupt"
                )
                self._outcome.failure = RequestTimeout(text)
                return
        if not self._failed() and self._load.subscribers:
            await self._drain()

    async def _drain(self) -> None:
        """Waits until every subscriber has all that was acknowledged."""
        total = sum(each.progress.published for each in self._processes)
        if not await self._quiet(lambda: self._least() >= total, DRAIN_SECONDS):
            return
        await asyncio.sleep(_ENCORE)

    def _received(self) -> list[int]:
        return [count for each in self._processes for count in each.progress.received]

    def _least(self) -> int:
        """What every subscriber has at least; the members of a group count together."""
        received = self._received()
        return sum(received) if self._load.group else min(received)

    async def _quiet(self, met: Callable[[], bool], patience: float) -> bool:
        """Waits until ``met``, or nothing came for so long. Whether it is met."""
        last, since = self._received(), time.monotonic()

        def over() -> bool:
            nonlocal last, since
            now = self._received()
            if now != last:
                last, since = now, time.monotonic()
            return met() or time.monotonic() - since > patience

        await self._until(self._look(over))
        silent = time.monotonic() - since
        if not met() and silent > patience:
            self._outcome.silent = patience
        return met()

    # ── without ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _receive(self) -> None:
        load = self._load
        begun = self._look(lambda: any(self._received()))
        if not await self._until_in(begun, self._waits):
            if not self._failed() and not self._interrupts:
                self._outcome.silent = self._waits or 0
            return
        end = time.monotonic() + load.seconds if load.seconds is not None else None

        def enough() -> bool:
            return (load.messages is not None and self._least() >= load.messages) or (
                end is not None and time.monotonic() >= end
            )

        await self._quiet(enough, self._patience)

    async def _until_in(self, met: Callable[[], bool], seconds: float | None) -> bool:
        """`_until`, or so many seconds; failures and Ctrl-C end it too."""
        deadline = time.monotonic() + seconds if seconds is not None else None
        await self._until(lambda: met() or (deadline is not None and time.monotonic() > deadline))
        return met()
