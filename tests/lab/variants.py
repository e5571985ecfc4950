"""Ring variants that misbehave, for tests of how the lab treats them."""

import os
import signal
import sys
import time
from collections import deque
from typing import Any

from portask.errors import RingEmpty
from portask.registry import Entry


class GoodRing:
    """Enough of a ring for one thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.records: deque[Any] = deque()

    def put(self, record: Any) -> None:
        self.records.append(record)

    def get(self) -> Any:
        if not self.records:
            raise RingEmpty
        return self.records.popleft()

    def close(self) -> None:
        self.records.clear()


class LossyRing(GoodRing):
    """Loses every third record."""

    def put(self, record: Any) -> None:
        if len(self.records) % 3 != 2:
            super().put(record)


class DyingRing(GoodRing):
    """Takes its process down."""

    def get(self) -> Any:
        sys.stderr.write("last words")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class RaisingRing(GoodRing):
    """Raises at the first get."""

    def get(self) -> Any:
        raise RuntimeError("out of cheese")


class HangingRing(GoodRing):
    """Never answers."""

    def get(self) -> Any:
        time.sleep(60)


class ChattyRing(GoodRing):
    """Prints where the protocol lives."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        sys.stdout.write("hello from a variant\n")


def entry(name: str) -> Entry:
    """The entry of one of them: ``good``, ``lossy``, ``dying``, ``raising``, ``hanging``, ``chatty``."""
    return Entry(
        "ring", name, f"tests.lab.variants:{name.title()}Ring", name, capabilities=frozenset({"threads"})
    )
