"""A process that makes load: reads a `Task` and then orders from stdin, and says what it did on stdout.

It has a single thread and a single event loop, as an application of this client would. Whoever started it is its only
reason to be: when stdin ends, so does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from portask.cli.bench.consuming import Subscriber
from portask.cli.bench.orders import (
    Failure,
    Go,
    Halt,
    Load,
    Order,
    Progress,
    Ready,
    Report,
    Series,
    Stop,
    Task,
    Timing,
    Word,
)
from portask.cli.bench.producing import Producer, open_loop, window
from portask.cli.failures import explain
from portask.client import Client, connect
from portask.errors import PortaskError

_TELL = 0.1  # seconds between progress reports
_SAMPLE = 0.005  # seconds between samples, at first
_SAMPLES = 1000  # more are thinned out to half of them, and come half as often
_SCHEDSTAT = Path("/proc/self/schedstat")


class Boss:
    """The other end: orders come from it, words go to it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)

    async def task(self) -> Task:
        """The first thing that it says."""
        return msgspec.json.decode(await self._reader.readline(), type=Task)

    async def order(self) -> Order:
        """Its next order; an end without one is the end."""
        line = await self._reader.readline()
        if not line:
            os._exit(1)  # nobody is left to report to
        return self._decoder.decode(line)

    def say(self, word: Word) -> None:
        """Tells it something. Blocks while the pipe is full: the conductor reads at once."""
        sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
        sys.stdout.buffer.flush()


class Meter:
    """Samples counters into a `Series` each; the longer it takes, the more seldom."""

    def __init__(self, counters: dict[str, Callable[[], int]]) -> None:
        self._counters = counters
        self.times: list[int] = []
        self.values: dict[str, list[int]] = {name: [] for name in counters}

    async def run(self) -> None:
        """Samples until it is cancelled."""
        interval = _SAMPLE
        while True:
            self.sample()
            if len(self.times) >= _SAMPLES:
                del self.times[1::2]
                for values in self.values.values():
                    del values[1::2]
                interval *= 2
            await asyncio.sleep(interval)

    def sample(self) -> None:
        """One sample of all."""
        self.times.append(time.monotonic_ns())
        for name, read in self._counters.items():
            self.values[name].append(read())

    def series(self, name: str, last: int = 0) -> Series:
        """One counter's samples. It took its last value at ``last``, ns, which no sample may have met."""
        times, values = list(self.times), list(self.values[name])
        if last and values:
            final = values[-1]
            while values and values[-1] == final:
                del values[-1], times[-1]
            while times and times[-1] >= last:
                del values[-1], times[-1]
            times.append(last)
            values.append(final)
        return Series(times, values)


def _waited() -> int:
    """For how many ns this thread could run and had no core."""
    return int(_SCHEDSTAT.read_text().split()[1])


class Work:
    """One task, from connecting to the report."""

    def __init__(self, task: Task, boss: Boss) -> None:
        self.task = task
        self.boss = boss
        self.producers: list[Producer] = []
        self.subscribers: list[Subscriber] = []
        self.timing = Timing()
        counters: dict[str, Callable[[], int]] = {
            "published": self._published,
            "received": lambda: sum(each.ledger.messages for each in self.subscribers),
            "received_bytes": lambda: sum(each.ledger.bytes for each in self.subscribers),
            "cpu": time.process_time_ns,
        }
        if _SCHEDSTAT.exists():
            counters["waited"] = _waited
        self.meter = Meter(counters)

    def _published(self) -> int:
        return sum(each.acked for each in self.producers)

    async def run(self, stack: AsyncExitStack) -> None:
        """Does it, until the conductor says that it is over.

        Raises:
            PortaskError: the broker refused something, did not answer, or hung up.
        """
        load = self.task.load
        for number in self.task.producers:
            client = await stack.enter_async_context(_client(load))
            await client.create_topic(load.topic)  # is there: the route is known before anything is timed
            self.producers.append(Producer(load, number, client))
        for number in self.task.subscribers:
            subscriber = Subscriber(load, number, await stack.enter_async_context(_client(load)))
            await subscriber.subscribe()
            self.subscribers.append(subscriber)
        self.boss.say(Ready())
        order = await self.boss.order()
        if isinstance(order, Go):
            await self._go(order.start)

    async def _go(self, start: int) -> None:
        span = window(self.task.load, start)
        receiving = [asyncio.create_task(each.run(span)) for each in self.subscribers]
        producing = asyncio.create_task(self._produce(start))
        listening = asyncio.create_task(self._listen())
        helping = [asyncio.create_task(self.meter.run()), asyncio.create_task(self._tell(producing))]
        everything = {producing, listening, *receiving, *helping}
        try:
            waiting = set(everything)
            while listening in waiting:
                done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                for each in done:
                    each.result()  # what failed ends all
        finally:
            for each in everything:
                each.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _produce(self, start: int) -> None:
        await asyncio.sleep(max(0, start - time.monotonic_ns()) / 1e9)
        if self.task.load.kind == "latency" and self.producers:
            await open_loop(self.task, self.producers, start, self.timing)
        else:
            async with asyncio.TaskGroup() as group:
                for each in self.producers:
                    group.create_task(each.run(start))

    async def _listen(self) -> None:
        """Orders, until the last."""
        while not isinstance(order := await self.boss.order(), Stop):
            if isinstance(order, Halt):
                for producer in self.producers:
                    producer.halt.set()

    async def _tell(self, producing: asyncio.Task[None]) -> None:
        """Progress, now and then, and as soon as all is published."""
        told = False
        while True:
            received = [each.ledger.messages - each.ledger.repeated for each in self.subscribers]
            told = producing.done()
            self.boss.say(Progress(self._published(), received, told))
            await asyncio.wait([producing], timeout=_TELL) if not told else await asyncio.sleep(_TELL)

    def report(self, failure: Failure | None) -> Report:
        """What was done."""
        self.meter.sample()
        series = self.meter.series
        received = max((each.last for each in self.subscribers), default=0)
        batches = [each.client.published for each in self.producers]
        timing = self.timing
        for each in self.subscribers:
            timing.arrived += each.arrived
            merged = each.latencies
            if each is not self.subscribers[0]:
                self.subscribers[0].latencies.merge(merged)
        if self.subscribers:
            found = self.subscribers[0].latencies
            timing.filled, timing.total, timing.largest = found.filled(), found.total, found.largest
        return Report(
            published=series("published", max((each.last for each in self.producers), default=0)),
            received=series("received", received),
            received_bytes=series("received_bytes", received),
            cpu=series("cpu"),
            waited=series("waited") if "waited" in self.meter.values else Series([], []),
            batches=(
                sum(each.batches for each in batches),
                sum(each.messages for each in batches),
                sum(each.bytes for each in batches),
            ),
            producers=[each.report() for each in self.producers],
            subscribers=[each.report() for each in self.subscribers],
            timing=timing,
            failure=failure,
        )


def _client(load: Load) -> contextlib.AbstractAsyncContextManager[Client]:
    return connect(
        load.url,
        reconnect=False,  # what happens to a connection is part of what is found
        linger_ms=load.linger_ms,
        codec=load.codec,
        compression=load.compression,
        name="portask bench",
        **load.access,
    )


def _failure(error: Exception) -> Failure:
    if isinstance(error, PortaskError):
        return Failure(error.code, " ".join(str(error).split()))
    return Failure(PortaskError.code, explain(error)[0])


async def _work() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    boss = Boss(reader)
    work = Work(await boss.task(), boss)
    failure: Failure | None = None
    async with AsyncExitStack() as stack:
        try:
            await work.run(stack)
        except* Exception as errors:  # noqa: BLE001 - told to the conductor, who says it
            failure = _failure(_first(errors))
        boss.say(work.report(failure))  # before the goodbyes: a broker that is gone makes them long
        with contextlib.suppress(PortaskError):
            await stack.aclose()


def _first(errors: BaseExceptionGroup[BaseException]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)  # noqa: S101 - for the type checker
    return error


def main() -> None:
    """Works off one task."""
    logging.getLogger("portask").addHandler(logging.NullHandler())
    asyncio.run(_work())


if __name__ == "__main__":
    main()
