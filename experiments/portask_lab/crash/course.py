"""The course of a drill: start, load, kill, start again, and in the end the reckoning."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from portask import registry
from portask.client import connect
from portask.errors import ConfigError, PortaskError
from portask_lab.crash import judge
from portask_lab.crash.broker import TOPIC, Victim
from portask_lab.crash.load import GROUP, Member, Watcher, Writer

PARTITIONS = 4
MEMBERS = 3
RATE = 4_000.0
"""Messages a second of each producer that does not wait."""
LIFE = (0.02, 0.6)
"""Seconds between ready and SIGKILL, from and to."""
EARLY = 0.1
"""Share of the rounds in which the broker is killed while it starts: recovery is interrupted, too."""
_EARLY_LIFE = (0.05, 0.45)
CATCH_UP_SECONDS = 60.0
"""How long producers may take for their last acks, and consumers to get everything, once nobody kills any more."""

Watch = Callable[[str, float, float], None]
"""``watch(text, done, left)``: what goes on, the share that is over, and the seconds left."""


class Findings(msgspec.Struct):
    """What a drill found; see `portask_lab.crash` for what must be 0.

    Attributes:
        storage: The variant.
        mode: What an acknowledgement meant.
        workers: Processes that the broker had.
        rounds: How often it, or one of its workers, was killed.
        workers_killed: Of those, one of its workers.
        early: Of all, while the broker, or the successor of a worker, was still starting.
        restarts: How often the broker was started again.
        seed: Of the moments and the load.
        seconds: The whole drill.
        sent: Messages handed to the producers' clients.
        acked: Messages acknowledged.
        stored: Records in the log in the end.
        delivered: To the subscription.
        delivered_group: To the group's members, each time.
        joined: How often members joined the group.
        failures: Messages that a client gave up, by reason; they are in no promise.
        first_start: Seconds from starting the first broker, on an empty folder, to its listening.
        recoveries: Likewise, of every start after a crash that was not interrupted.
        successions: Seconds from the death of a worker to its successor's listening.
        stuck: What did not end in time, in words; empty if all did.
        verdict: What became of the messages.
    """

    storage: str
    mode: str
    workers: int
    rounds: int
    workers_killed: int
    early: int
    restarts: int
    seed: int
    seconds: float
    sent: int
    acked: int
    stored: int
    delivered: int
    delivered_group: int
    joined: int
    failures: dict[str, int]
    first_start: float
    recoveries: list[float]
    successions: list[float]
    stuck: list[str]
    verdict: judge.Verdict

    @property
    def passed(self) -> bool:
        """Whether everything that must hold did, and something was proven at all."""
        v = self.verdict
        broken = (
            v.lost + v.misplaced + v.disordered + v.altered + v.missing + v.duplicated_numbered + v.taken_back
        )
        return not (broken or v.undelivered or v.undelivered_group or self.stuck) and self.acked > 0

    @property
    def recovery(self) -> tuple[float, float]:
        """Seconds from start to listening after a crash: median and longest; 0 for none."""
        return _median_and_longest(self.recoveries)

    @property
    def succession(self) -> tuple[float, float]:
        """Likewise, from a worker's death to its successor's listening."""
        return _median_and_longest(self.successions)


def _median_and_longest(seconds: list[float]) -> tuple[float, float]:
    return (median(seconds), max(seconds)) if seconds else (0.0, 0.0)


def drill(
    *,
    rounds: int,
    workers: int = 1,
    mode: Literal["os", "synced"] = "os",
    storage: str = "segment-log",
    seed: int = 0,
    keep: Path | None = None,
    rate: float = RATE,
    watch: Watch = lambda _text, _done, _left: None,
) -> Findings:
    """Kills a broker ``rounds`` times under load and judges what is left.

    Args:
        rounds: At least 1. One takes about a second.
        workers: Processes that the broker has. Of several, all are killed in every other round, and one in the others.
        mode: Durability to ask the storage for.
        storage: A durable variant.
        seed: Of the moments and the load. The same seed does not make the same run: the machine has its part.
        keep: A folder, new or empty, that keeps the log, the broker's own log and the acknowledged ids
            (``acked.csv``); a temporary one by default.
        rate: Messages a second of each of the two producers that do not wait.
        watch: Told what goes on.

    Raises:
        ConfigError: the storage is not durable, or cannot be had by several workers, or the folder is not empty.
        PortaskError: the broker did not come back, or ended by itself.
    """
    entry = registry.get("storage", storage)
    if "durable" not in entry.capabilities:
        durable = ", ".join(
            each.name for each in registry.entries("storage") if "durable" in each.capabilities
        )
        raise ConfigError(f"{entry.label} forgets when its process ends: choose one of {durable}")
    if workers > 1 and "multicore" not in entry.capabilities:
        raise ConfigError(f"{entry.label} cannot be shared by {workers} workers: give it one")
    with _folder(keep) as folder:
        return asyncio.run(
            _Drill(
                folder, storage, mode, rounds=rounds, workers=workers, seed=seed, rate=rate, watch=watch
            ).run()
        )


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="portask-crash-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"{keep} is not an empty folder: give one, or a name that is not taken")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


class _Drill:
    def __init__(
        self,
        folder: Path,
        storage: str,
        mode: str,
        *,
        rounds: int,
        workers: int,
        seed: int,
        rate: float,
        watch: Watch,
    ) -> None:
        self._folder = folder
        self._storage = storage
        self._mode = mode
        self._rounds = rounds
        self._seed = seed
        self._rate = rate
        self._watch = watch
        self._chance = random.Random(seed)
        self._victim = Victim(folder, storage, mode, PARTITIONS, workers)
        self._began = time.monotonic()
        self._recoveries: list[float] = []
        self._successions: list[float] = []
        self._workers_killed = self._early = 0
        self._stuck: list[str] = []

    async def run(self) -> Findings:
        url = f"portask://127.0.0.1:{self._victim.port}"
        seeds = random.Random(self._seed + 1)
        deliveries: dict[int, bytearray] = defaultdict(bytearray)
        watcher = Watcher(url)
        members = [
            Member(number, url, deliveries, stays=0.0 if number else 3.0, seed=seeds.getrandbits(32))
            for number in range(MEMBERS)
        ]
        acked = self._folder / "acked.csv"
        with acked.open("w", encoding="ascii") as file:
            writers = [
                Writer(
                    index,
                    url,
                    partitions=PARTITIONS,
                    rate=rate,
                    idempotent=numbered,
                    acked=file,
                    seed=seeds.getrandbits(32),
                )
                for index, (rate, numbered) in enumerate(
                    ((self._rate, False), (self._rate, True), (0.0, False), (0.0, True))
                )
            ]
            try:
                self._watch("starting", 0.0, 1.0 * self._rounds)
                await self._victim.spawn()
                first_start = await self._victim.ready()
                await self._load(writers, watcher, members)
            finally:
                await self._victim.stop()
        self._watch("reading the log back", 0.98, 1.0)
        log = judge.read(self._folder, self._storage, self._mode, PARTITIONS, self._victim.workers)
        numbered = {writer.index for writer in writers if writer.idempotent}
        verdict = judge.judge(log, acked, numbered, watcher.seen, deliveries)
        verdict.disordered += watcher.disordered
        verdict.altered += watcher.altered + sum(member.altered for member in members)
        failures: dict[str, int] = defaultdict(int)
        for writer in writers:
            for reason in writer.failures:
                failures[reason] += 1
        return Findings(
            storage=self._storage,
            mode=self._mode,
            workers=self._victim.workers,
            rounds=self._rounds,
            workers_killed=self._workers_killed,
            early=self._early,
            restarts=self._victim.starts - 1,
            seed=self._seed,
            seconds=time.monotonic() - self._began,
            sent=sum(writer.sent for writer in writers),
            acked=sum(writer.acked for writer in writers),
            stored=sum(map(len, log.ids.values())),
            delivered=watcher.delivered,
            delivered_group=sum(member.delivered for member in members),
            joined=sum(member.joined for member in members),
            failures=dict(failures),
            first_start=first_start,
            recoveries=self._recoveries,
            successions=self._successions,
            stuck=self._stuck,
            verdict=verdict,
        )

    async def _load(self, writers: list[Writer], watcher: Watcher, members: list[Member]) -> None:
        """Load from beginning to end, and the kills meanwhile."""
        writing = [asyncio.create_task(writer.run(), name=f"producer {writer.index}") for writer in writers]
        reading = [asyncio.create_task(watcher.run(), name="the subscription")]
        reading += [asyncio.create_task(member.run(), name="a member of the group") for member in members]
        try:
            await self._kill(writers, [*writing, *reading])
            self._watch("catching up", 0.95, 3.0)
            for writer in writers:
                writer.stop()
            await self._settle(writing, watcher, members)
            _check(writing)
            _check(reading)
        finally:
            for task in (*writing, *reading):
                task.cancel()
            await asyncio.gather(*writing, *reading, return_exceptions=True)

    async def _kill(self, writers: list[Writer], tasks: list[asyncio.Task[None]]) -> None:
        began = time.monotonic()
        for number in range(1, self._rounds + 1):
            await asyncio.sleep(self._chance.uniform(*LIFE))
            if self._victim.workers > 1 and number % 2 == 0:
                await self._kill_worker(number)
            else:
                await self._kill_all(number)
            _check(tasks)
            done = (number + self._early) / self._rounds
            spent = time.monotonic() - began
            acked = sum(writer.acked for writer in writers)
            text = f"killing: {number + self._early} of {self._rounds}, {acked:,} messages acknowledged"
            self._watch(text, 0.95 * done, spent / done - spent + 3)
            if done >= 1:
                return

    async def _kill_all(self, number: int) -> None:
        victim = self._victim
        await victim.kill()
        await victim.spawn()
        while await self._again(number):
            await victim.kill()
            await victim.spawn()
        self._recoveries.append(await victim.ready())

    async def _kill_worker(self, number: int) -> None:
        victim = self._victim
        self._workers_killed += victim.kill_worker(self._chance)
        while await self._again(number):
            self._workers_killed += victim.kill_worker(self._chance)
        self._successions.append(await victim.whole())

    async def _again(self, number: int) -> bool:
        """Whether, after a moment, who is still starting is to be killed, too."""
        if number + self._early >= self._rounds or self._chance.random() >= EARLY:
            return False
        await asyncio.sleep(self._chance.uniform(*_EARLY_LIFE))
        self._early += 1
        return True

    async def _settle(
        self, writing: list[asyncio.Task[None]], watcher: Watcher, members: list[Member]
    ) -> None:
        """The last acks, then the last deliveries."""
        _, late = await asyncio.wait(writing, timeout=CATCH_UP_SECONDS)
        self._stuck += [
            f"{task.get_name()} had not all its acks within {CATCH_UP_SECONDS:g} s" for task in late
        ]
        async with connect(f"portask://127.0.0.1:{self._victim.port}", name="reckoning") as client:
            deadline = time.monotonic() + CATCH_UP_SECONDS
            behind = lag = 1
            while behind or lag:
                there = [each for topic in await client.topics(TOPIC) for each in topic.partitions]
                behind = sum(each.next - watcher.reached(each.partition) for each in there)
                lag = sum(group.lag for group in await client.groups(GROUP))
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
            if behind:
                self._stuck.append(
                    f"the subscription is {behind:,} messages behind after {CATCH_UP_SECONDS:g} s"
                )
            if lag:
                why = next((member.trouble for member in members if member.trouble), "nothing")
                self._stuck.append(
                    f"the group is {lag:,} messages behind after {CATCH_UP_SECONDS:g} s; members said: {why}"
                )


def _check(tasks: list[asyncio.Task[None]]) -> None:
    """Raises what ended a producer or a consumer."""
    for task in tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if isinstance(error, PortaskError):
                raise PortaskError(f"{task.get_name()} gave up: {type(error).__name__}: {error}") from error
            if error is not None:
                raise error
