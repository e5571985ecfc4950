"""Producers: in batches, one by one, or on a schedule; as fast as the broker acknowledges, or at a rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from time import monotonic_ns

from portask.cli.bench.orders import Load, ProducerReport, Task, Timing
from portask.cli.bench.payloads import Source
from portask.client import Client, Pending
from portask.measuring import schedule
from portask.measuring.openloop import LATE_SHARED_NS, MARGIN_NS, WARM_UP

_AT_ONCE = 32  # messages that are due and sent before the event loop gets its turn


class Producer:
    """One producer and its messages.

    Attributes:
        client: Its connection.
        acked: Messages that were acknowledged.
        last: When the last of them was, ns.
        halt: Set as soon as nothing more is to be published.
    """

    def __init__(self, load: Load, number: int, client: Client) -> None:
        self.client = client
        self.acked = 0
        self.last = 0
        self.halt = asyncio.Event()
        self._load = load
        self._number = number
        self._source = Source(load.run, number, load.size, load.partitions)
        self._acked = [0] * load.partitions
        self._producer = client.producer(load.topic)
        self._turn = number
        self._pending: deque[tuple[Pending, int]] = deque()

    def report(self) -> ProducerReport:
        """What was made, and what was acknowledged."""
        return ProducerReport(self._number, self._source.next, self._acked)

    def _partition(self) -> int:
        """Whose turn it is."""
        self._turn += 1
        return self._turn % self._load.partitions

    def _confirmed(self, partition: int, count: int) -> None:
        self._acked[partition] += count
        self.acked += count
        self.last = monotonic_ns()

    # ── as fast as it goes ────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, start: int) -> None:
        """Publishes its share of the messages, or until the time is over, from ``start`` on; waits for all acks.

        Raises:
            PortaskError: the broker refused something, did not answer, or hung up.
        """
        load = self._load
        whole, rest = divmod(load.messages or 0, load.producers)
        target = whole + (self._number < rest) if load.messages is not None else None
        end = start + round(load.seconds * 1e9) if load.seconds is not None else None
        gap = load.batch * load.producers * 1e9 / load.rate if load.rate else 0
        made = turns = 0
        while target is None or made < target:
            if gap:
                await _rest(start + round((turns + self._number / load.producers) * gap), self.halt)
            if self.halt.is_set() or (end is not None and monotonic_ns() >= end):
                break
            count = load.batch if target is None else min(load.batch, target - made)
            if load.batch == 1:
                await self._one()
            else:
                partition = self._partition()
                messages = self._source.batch(partition, count)
                await self._producer.publish_many(messages, partition=partition)
                self._confirmed(partition, count)
            made += count
            turns += 1
        while self._pending:
            await self._settle()

    async def _one(self) -> None:
        """One message in its own turn of the event loop: what it shares a batch with is the linger's to decide."""
        if len(self._pending) >= self._load.in_flight:
            await self._settle()
        partition = self._partition()
        (message,) = self._source.batch(partition, 1)
        self._pending.append((self._producer.put_nowait(message, partition), partition))
        await asyncio.sleep(0)
        self._take_acks()

    async def _settle(self) -> None:
        """Waits for the oldest message's ack, and takes what was acknowledged with it."""
        await self._pending[0][0]
        self._take_acks()

    def _take_acks(self) -> None:
        pending = self._pending
        while pending and pending[0][0].done():
            found, partition = pending.popleft()
            found.result()
            self._confirmed(partition, 1)

    # ── on a schedule ─────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, intended: int) -> None:
        """Publishes the next message, due at ``intended``, without waiting.

        Raises:
            PortaskError: an earlier one failed, or too much waits for the broker.
        """
        partition = self._partition()
        message = self._source.timed(partition, intended)
        self._pending.append((self._producer.put_nowait(message, partition), partition))
        self._take_acks()

    async def finish(self) -> None:
        """Waits for all acks."""
        while self._pending:
            await self._settle()


async def _rest(until: int, halt: asyncio.Event) -> None:
    """Sleeps until a moment, ns, or until ``halt`` is set."""
    left = until - monotonic_ns()
    if left > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left / 1e9):
                await halt.wait()


def window(load: Load, start: int) -> tuple[int, int]:
    """The moments, ns, between which messages of an open loop count: without the warm-up, and to the schedule's end."""
    seconds = load.seconds or 0
    return start + round(WARM_UP * seconds * 1e9), start + round(seconds * 1e9)


async def open_loop(task: Task, producers: list[Producer], start: int, timing: Timing) -> None:
    """Sends each message when the schedule says, by one producer after the other, whatever the broker does meanwhile.

    Sleeps until 5 ms before a message is due, then spins. The processes share the rate; a constant schedule is theirs
    in turns, those of a Poisson schedule are independent.
    """
    load = task.load
    share = load.rate / task.of
    times = schedule.make(load.schedule, share, load.seconds or 0, load.run * 64 + task.place)
    shift = round(task.place / load.rate * 1e9) if load.schedule == "constant" else 0
    begin, _ = window(load, start)
    base = start + shift
    halt = producers[0].halt
    for number, at in enumerate(times):
        due = base + at
        if (now := monotonic_ns()) >= due and not number % _AT_ONCE:
            await asyncio.sleep(0)
            now = monotonic_ns()
        while now < due and not halt.is_set():
            if due - now > MARGIN_NS:
                await _rest(due - MARGIN_NS, halt)
            else:
                await asyncio.sleep(0)
            now = monotonic_ns()
        if halt.is_set():
            break
        if due >= begin:
            late = now - due
            timing.sends += 1
            timing.late += late > LATE_SHARED_NS
            timing.worst = max(timing.worst, late)
        producers[number % len(producers)].send(due)
    for producer in producers:
        await producer.finish()
