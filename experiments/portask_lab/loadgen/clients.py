"""Open and closed loops for Python clients: the lean generator's method, on one asyncio event loop.

Publisher and subscriber share a process and a loop, as they would in a small service, so what is measured is
the clients first and the server second. That is the point: it is what a Python user gets. The loop never
sleeps while the open loop runs on time (asyncio's timers are a millisecond coarse): it polls, for every
product alike; where CPU is measured it sleeps on `select`, whose timers are fine.

Payloads are those of the lean generator: intended time, sequence number, then bytes that follow from the
sequence number. Every payload is compared whole.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from array import array
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic_ns
from typing import Any, TypeVar

from portask.measuring.openloop import DRAIN_SECONDS, LATE_SHARED_NS, WARM_UP
from portask_lab.loadgen.closedloop import WARM_UP as CLOSED_WARM_UP
from portask_lab.loadgen.closedloop import Throughput
from portask_lab.loadgen.messages import HEAD, SMALLEST
from portask_lab.loadgen.openloop import Outcome, verdict
from portask_lab.peers import Product
from portask_lab.workloads import WrongResult

_DISTINCT = 1024
_Result = TypeVar("_Result")


def run(work: Coroutine[Any, Any, _Result], *, fine_timers: bool = False) -> _Result:
    """Runs ``work`` on the standard library's event loop; on `select` for timers finer than a millisecond."""

    def new_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector() if fine_timers else None)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work)


class Payloads:
    """Payload ``n`` is its time, ``n``, and one of the fillers.

    Args:
        size: Bytes a payload.
        seed: Of the fillers.
        expected: How many will be timed.
        contents: The fillers; 1,024 of random bytes, so that ``size`` is reached, when there are none.

    Attributes:
        sent: How many were made.
        received: How many came back, each as it was made and in order.
        latency: ns by sequence number, if ``expected`` was given.
        arrived: ``CLOCK_MONOTONIC`` ns, likewise.
    """

    def __init__(self, size: int, seed: int, expected: int = 0, contents: Sequence[bytes] = ()) -> None:
        if size < SMALLEST:
            raise ValueError(
                f"a payload of {size} bytes has no room for its time and number: {SMALLEST} at least"
            )
        chance = random.Random(seed)
        self._fillers = contents or [chance.randbytes(size - SMALLEST) for _ in range(_DISTINCT)]
        self.sent = 0
        self.received = 0
        self.latency = array("q", bytes(8 * expected))
        self.arrived = array("q", bytes(8 * expected))
        self._under_way: deque[bytes] = deque()

    def make(self, intended: int) -> bytes:
        """The next one."""
        number = self.sent
        self.sent = number + 1
        payload = HEAD.pack(intended, number, 0) + self._fillers[number % len(self._fillers)]
        self._under_way.append(payload)
        return payload

    def timed(self, payloads: Sequence[bytes]) -> None:
        """Takes payloads that arrived, with their latency."""
        now = monotonic_ns()
        number = self.received
        self.counted(payloads)
        for payload in payloads:
            self.latency[number] = now - HEAD.unpack_from(payload)[0]
            self.arrived[number] = now
            number += 1

    def counted(self, payloads: Sequence[bytes]) -> None:
        """Takes payloads that arrived."""
        due = self._under_way
        for payload in payloads:
            if not due or payload != due.popleft():
                raise WrongResult(
                    f"message {self.received} was due, {payload[:24]!r}… came: lost, repeated, reordered or altered"
                )
            self.received += 1


class _Guard:
    """Keeps the first failure of a delivery, whatever the client makes of exceptions in its callbacks."""

    def __init__(self, take: Callable[[Sequence[bytes]], None]) -> None:
        self.take = take
        self.failure: Exception | None = None

    def __call__(self, payloads: Sequence[bytes]) -> None:
        if self.failure is None:
            try:
                self.take(payloads)
            except Exception as error:  # noqa: BLE001 - kept, raised where somebody looks
                self.failure = error

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


async def open_loop(
    product: Product,
    port: int,
    schedule: array[int],
    size: int,
    seed: int,
    *,
    batch: int = 1,
    spin: bool = True,
    window: Callable[[], None] = lambda: None,
) -> Outcome:
    """Sends ``batch`` messages at each time of ``schedule`` and receives them all, as `openloop.run` does.

    The messages of a batch are due evenly over the time since the batch before, as with a lingering producer.
    """
    total = len(schedule)
    payloads = Payloads(size, seed, total * batch)
    guard = _Guard(payloads.timed)
    first = next((number for number, at in enumerate(schedule) if at >= WARM_UP * schedule[-1]), 0)
    gap = (schedule[-1] - schedule[0]) // max(1, total - 1) // batch
    offsets = [-gap * (batch - 1 - place) for place in range(batch)]
    lateness = array("q", bytes(8 * total))
    await product.connect(port, guard)
    try:
        await _greet(product, guard)
        start = monotonic_ns() + 20_000_000
        backlog = 0
        for number, at in enumerate(schedule):
            due = start + at
            while (now := monotonic_ns()) < due:  # noqa: ASYNC110 - the time is what it waits for
                await asyncio.sleep(0 if spin else (due - now) / 1e9)
            if number == first:
                window()
            lateness[number] = monotonic_ns() - due
            await product.send([payloads.make(due + offset) for offset in offsets])
            if number >= first:
                backlog = max(backlog, payloads.sent - payloads.received)
            guard.check()
        end = start + schedule[-1] + gap * batch
        while (now := monotonic_ns()) < end:  # noqa: ASYNC110 - the time is what it waits for
            await asyncio.sleep(0 if spin else (end - now) / 1e9)
        window()
        await _drain(payloads, guard)
    finally:
        await product.close()
    begin = start + schedule[first]
    due_messages = (total - first) * batch
    within = sum(begin <= at < end for at in payloads.arrived)
    seconds = (end - begin) / 1e9
    late = lateness[first:]
    return Outcome(
        rate=due_messages / seconds,
        achieved=within / seconds,
        latencies=payloads.latency[first * batch :],
        lateness=late,
        sent=payloads.sent,
        received=payloads.received,
        backlog=backlog,
        seconds=seconds,
        deliveries={},
        invalid=verdict(due_messages, within, late, LATE_SHARED_NS),
    )


async def closed_loop(  # noqa: PLR0917 - each is needed and named where it is called
    product: Product,
    port: int,
    seconds: float,
    size: int,
    seed: int,
    in_flight: int,
    contents: Sequence[bytes] = (),
) -> Throughput:
    """Sends in the product's own batches with at most ``in_flight`` messages under way, as `closedloop.run` does.

    ``contents`` as for `Payloads`.
    """
    payloads = Payloads(size, seed, contents=contents)
    guard = _Guard(payloads.counted)
    await product.connect(port, guard)
    try:
        await _greet(product, guard)
        start = monotonic_ns()
        opens, ends = start + int(CLOSED_WARM_UP * seconds * 1e9), start + int(seconds * 1e9)
        began = at_begin = 0
        while (now := monotonic_ns()) < ends:
            if not began and now >= opens:
                began, at_begin = now, payloads.received
            guard.check()
            if payloads.sent - payloads.received + product.batch > in_flight:
                await asyncio.sleep(0)
                continue
            await product.send([payloads.make(now) for _ in range(product.batch)])
            await asyncio.sleep(0)
        at_end = payloads.received
        await _drain(payloads, guard)
    finally:
        await product.close()
    span = (now - began) / 1e9
    return Throughput((at_end - at_begin) / span, span, payloads.received, in_flight, {})


async def _greet(product: Product, guard: _Guard) -> None:
    """One message to and fro before anything is counted: whatever connects lazily is connected then."""
    greeting = b"greeting" * 2
    heard = asyncio.Event()

    def hear(found: Sequence[bytes]) -> None:
        if list(found) != [greeting]:
            raise WrongResult(f"a greeting was due, {found!r} came")
        heard.set()

    take, guard.take = guard.take, hear
    await product.send([greeting])
    try:
        await asyncio.wait_for(heard.wait(), DRAIN_SECONDS)
    except TimeoutError:
        guard.check()
        raise WrongResult(f"the first message did not arrive within {DRAIN_SECONDS:g} s") from None
    guard.take = take


async def _drain(payloads: Payloads, guard: _Guard) -> None:
    limit = monotonic_ns() + int(DRAIN_SECONDS * 1e9)
    while payloads.received < payloads.sent:
        guard.check()
        if monotonic_ns() > limit:
            missing = payloads.sent - payloads.received
            raise WrongResult(
                f"{missing} of {payloads.sent} messages never arrived within {DRAIN_SECONDS:g} s"
            )
        await asyncio.sleep(0.001)
    guard.check()
