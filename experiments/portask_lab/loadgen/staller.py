"""A subscriber that stops reading and goes on later: ``python -m portask_lab.loadgen.staller PORT TOPIC SIZE COUNT``.

It knows what is due by the broker's offsets. What retention has overtaken is told by the broker, which assigns the
partition anew at its oldest record; a gap that nobody told is a loss.
"""

from __future__ import annotations

import select
import sys
import time

import msgspec

from portask.errors import PortaskError
from portask.wire import control
from portask.wire.frames import Opcode
from portask_lab.loadgen.consumer import Consumer
from portask_lab.loadgen.team import Team, answer

PATIENCE = 60.0
"""Seconds without any message after which it gives up."""


class Order(msgspec.Struct):
    """What to do until the next order: read, or not; with ``until``, read up to that offset and answer."""

    reads: bool = True
    until: int = 0


class Report(msgspec.Struct):
    """What it saw.

    Attributes:
        next: The offset that is due.
        received: Messages.
        skipped: Messages that retention had overtaken, as the broker said.
        skipped_to: Where the last such gap ended; 0 if there was none.
        error: What it saw that must not be.
    """

    next: int = 0
    received: int = 0
    skipped: int = 0
    skipped_to: int = 0
    error: str = ""


class Slow(Consumer):
    """Takes what comes; `Consumer` proves offsets and checksums."""

    def __init__(self, port: int, topic: str, count: int, size: int) -> None:
        super().__init__(port, topic, count, size)
        self.skipped = self.skipped_to = 0

    def _take(self, at: int, now: int) -> None:
        self.batches += 1

    def _gathered(self, at: int, stop: int, count: int, skip: int, now: int) -> None:
        self.batches += count - skip

    def _other(self, opcode: int, start: int, end: int) -> None:
        if opcode == Opcode.SUBSCRIBE:
            told = control.decode(bytes(self._view[start:end]), control.Assigned)
            due = self._offsets.get(told.delivery, -1)
            if due >= 0 and told.offset > due:
                self.skipped += told.offset - due
                self._offsets[told.delivery] = self.skipped_to = told.offset

    @property
    def next(self) -> int:
        """The offset that is due."""
        return max(self._offsets.values(), default=0)

    def report(self, error: str = "") -> Report:
        """What it saw so far."""
        return Report(self.next, self.messages, self.skipped, self.skipped_to, error)


class Staller(Team):
    """A context manager around its process."""

    def __init__(self, port: int, topic: str, size: int, count: int) -> None:
        super().__init__("portask_lab.loadgen.staller", [(str(port), topic, str(size), str(count))])
        self.hear(Report)  # it is subscribed

    def stop(self) -> None:
        """It reads no more."""
        self.tell([Order(reads=False)])

    def go_on(self, until: int) -> None:
        """It reads again, up to this offset."""
        self.tell([Order(until=until)])

    def done(self) -> Report:
        """What it saw until then."""
        return self.hear(Report)[0]


def main() -> None:
    """Its process."""
    port, topic, size, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    slow = Slow(port, topic, count, size)
    answer(slow.report())
    order = Order()
    heard = time.monotonic()
    while True:
        listened = [sys.stdin, slow.sock] if order.reads else [sys.stdin]
        ready, _, _ = select.select(listened, [], [], 1.0)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            order, heard = msgspec.json.decode(line, type=Order), time.monotonic()
        if slow.sock in ready:
            heard = time.monotonic()
            try:
                slow.read()
            except PortaskError as error:
                answer(slow.report(str(error)))
                return
        if order.until and (slow.next >= order.until or time.monotonic() > heard + PATIENCE):
            answer(slow.report("" if slow.next >= order.until else f"nothing came for {PATIENCE:g} s"))
            order = Order()


if __name__ == "__main__":
    main()
