"""Subscribers: everything they receive is accounted for, and timed where it carries a time."""

from __future__ import annotations

from time import monotonic_ns

from portask.cli.bench.ledger import Ledger
from portask.cli.bench.orders import LATENCY_BITS, Load, SubscriberReport
from portask.client import Client, Subscription
from portask.measuring.histogram import Histogram


class Subscriber:
    """One subscription and what came of it.

    Attributes:
        client: Its connection.
        ledger: What came.
        first: When the first message of a bench came, ns; 0 for never.
        last: Likewise, the last.
        latencies: Of messages due within the window, ns.
        arrived: How many of them came before the window's end.
    """

    def __init__(self, load: Load, number: int, client: Client) -> None:
        self.client = client
        self.ledger = Ledger() if load.kind == "sub" else Ledger(load.run, load.size)
        self.first = 0
        self.last = 0
        self.latencies = Histogram(LATENCY_BITS)
        self.arrived = 0
        self._number = number
        self._load = load
        self._subscription: Subscription | None = None

    async def subscribe(self) -> None:
        """Makes the subscription.

        Raises:
            PortaskError: the broker refused it.
        """
        load = self._load
        start = load.since or load.start
        self._subscription = await self.client.subscribe(load.topic, start, group=load.group)

    async def run(self, window: tuple[int, int]) -> None:
        """Receives until it is cancelled. ``window`` is that of an open loop: what is due in it is timed.

        Raises:
            PortaskError: the broker hung up, or delivered what cannot be decoded.
        """
        begin, end = window
        timed = self._load.kind == "latency"
        ledger = self.ledger
        assert self._subscription is not None  # noqa: S101 - for the type checker
        async for batch in self._subscription.batches():
            now = monotonic_ns()
            before = ledger.messages
            times = ledger.take(batch)
            if ledger.messages > before:
                self.last = now
                self.first = self.first or now
            if timed:
                record = self.latencies.record
                for due in times:
                    if due >= begin:
                        record(now - due)
                        self.arrived += now < end

    def report(self) -> SubscriberReport:
        """What came."""
        ledger = self.ledger
        return SubscriberReport(
            self._number,
            ledger.messages,
            ledger.bytes,
            ledger.altered,
            ledger.foreign,
            sorted(ledger.batches.items()),
            ledger.streams(),
            self.first,
        )
