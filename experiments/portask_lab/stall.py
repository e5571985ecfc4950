"""A subscriber stops reading while messages come at full rate, and goes on later: what does it cost, and whom?

A broker with a watermark and retention by bytes; a producer at a fixed rate; one subscriber that reads all the time,
and one that stops for a while. What must hold:

- The broker's memory does not grow by more than its watermark.
- The other subscriber loses nothing, and its p99 stays within `FACTOR` times of what it was before.
- The one that stopped gets everything that retention kept, in order, and is told of what it did not keep.

A generator that was late, or a rate that was not reached, makes the run void: it then says nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from portask import registry
from portask.measuring import schedule
from portask_lab.loadgen import broker, openloop
from portask_lab.loadgen.consumer import TimedConsumer
from portask_lab.loadgen.latencies import percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.staller import Report, Staller

if TYPE_CHECKING:
    from portask_lab.loadgen.processes import Child

TOPIC = "stall"
FACTOR = 5.0
"""How much worse the others' p99 may be."""
BATCH = 50
_LOOK_EVERY = 0.25
Watch = Callable[[str, float, float], None]


class Findings(msgspec.Struct, kw_only=True):
    """What came out. Sizes in bytes, times in µs unless they say otherwise.

    Attributes:
        server: The variant.
        rate: Messages a second.
        calm: Seconds before it stopped, and after it went on.
        stall: Seconds for which it did not read.
        published: Messages.
        kept: Bytes that retention keeps.
        watermark: Of the broker.
        growth: Most that the broker's private memory grew.
        before: The others' p99 before.
        during: And during the stall.
        slow: What the one that stopped saw.
        void: Why the run says nothing.
    """

    server: str
    rate: int
    calm: float
    stall: float
    published: int
    kept: int
    watermark: int
    growth: int
    before: float
    during: float
    slow: Report
    void: str = ""

    def faults(self) -> list[str]:
        """The promises that were broken, in words."""
        found = []
        slow = self.slow
        if self.growth > self.watermark:
            found.append(f"memory grew by {self.growth:,} bytes, the watermark is {self.watermark:,}")
        if self.during > FACTOR * self.before:
            found.append(f"the others' p99 was {self.during:,.0f} µs meanwhile, {self.before:,.0f} µs before")
        if slow.error:
            found.append(f"the subscriber that stopped: {slow.error}")
        elif slow.received + slow.skipped != self.published:
            missing = self.published - slow.received - slow.skipped
            found.append(f"{missing:,} messages are missing that nobody said were gone")
        return found


def drill(
    *,
    server: str = "epoll",
    rate: int = 50_000,
    size: int = 100,
    calm: float = 10.0,
    stall: float = 600.0,
    kept: int = 64 << 20,
    watermark: int = 256 << 20,
    watch: Watch = lambda _text, _done, _left: None,
) -> Findings:
    """Runs it; takes ``2 * calm + stall`` seconds, and the time to catch up.

    Args:
        server: The variant.
        rate: Messages a second.
        size: Bytes of each.
        calm: Seconds before and after.
        stall: Seconds in between.
        kept: Retention of the topic, bytes.
        watermark: Of the broker's memory, bytes.
        watch: Told what goes on: in words, the share that is over, seconds left.

    Raises:
        VariantError: there is no such server, or it cannot run here.
        WrongResult: the subscriber that always reads lost something.
        PortaskError: the broker refused something or hung up.
    """
    registry.get("server", server).load()  # what is wrong with it is said here, not by a process that ends
    times = schedule.constant(rate / BATCH, 2 * calm + stall)
    limits = broker.Limits(bytes=kept, memory=watermark)
    with broker.start(server, limits=limits) as child:
        publisher = Publisher(child.port, TOPIC)
        consumer = TimedConsumer(child.port, TOPIC, BATCH, size, len(times))
        with Staller(child.port, TOPIC, size, BATCH) as staller:
            helper = _Helper(child, staller, calm, stall, len(times) * BATCH, watch)
            helper.start()
            try:
                source = Batches(size, BATCH, gap=int(1e9 / rate))
                outcome = openloop.run([(publisher, source)], consumer, times, spin=False)
            finally:
                helper.join()
                publisher.close()
                consumer.close()
            slow = staller.done()
            helper.look()
    began, ended = int(calm * rate / BATCH), int((calm + stall) * rate / BATCH)
    latency = consumer.latency
    return Findings(
        server=server,
        rate=rate,
        calm=calm,
        stall=stall,
        published=outcome.sent,
        kept=kept,
        watermark=watermark,
        growth=helper.most - helper.base,
        before=percentile(sorted(latency[began // 5 : began]), 0.99) / 1000,
        during=percentile(sorted(latency[began:ended]), 0.99) / 1000,
        slow=slow,
        void=outcome.invalid,
    )


class _Helper(threading.Thread):
    """Tells the subscriber when to stop and to go on, and looks at the broker's memory meanwhile."""

    def __init__(  # noqa: PLR0917 - each is needed and named where it is called
        self,
        child: Child,
        staller: Staller,
        calm: float,
        stall: float,
        total: int,
        watch: Watch,
    ) -> None:
        super().__init__(daemon=True)
        self._child = child
        self._staller = staller
        self._calm, self._stall = calm, stall
        self._total = total
        self._watch = watch
        self.base = self.most = child.private()

    def run(self) -> None:
        """Until the publisher should be done."""
        began = time.monotonic()
        whole = 2 * self._calm + self._stall
        self._wait(began + self._calm, began, whole, "before")
        self._staller.stop()
        self._wait(began + self._calm + self._stall, began, whole, "one does not read")
        self._staller.go_on(self._total)
        self._wait(began + whole, began, whole, "it reads again")

    def look(self) -> None:
        """One look at the memory."""
        self.most = max(self.most, self._child.private())

    def _wait(self, until: float, began: float, whole: float, text: str) -> None:
        while (left := until - time.monotonic()) > 0:
            self.look()
            past = time.monotonic() - began
            self._watch(text, past / whole, whole - past)
            time.sleep(min(left, _LOOK_EVERY))
