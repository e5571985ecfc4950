"""The memory that queued messages take."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from portask.messages import Message, TopicPartition
from portask.registry import REFERENCE, Entry
from portask.wire import batches
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult
from portask_lab.workloads.storage.driving import START, Driven

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_PARTITION = TopicPartition("lab", 0)
_READ_LIMIT = 65_536


class Queued:
    """Messages published one at a time, each a turn of its own, and kept: private memory before and after.

    In a process of its own. Each payload is made when it is published and let go after it, as by a socket, so that
    what remains is the storage's. What lies in files is in the kernel's cache, which is no private memory: so it is
    looked up where the messages lie, and the label ``held`` says it.

    Params:
        messages: How many.
        payload: Bytes of each; all differ.
        durability: Value of `portask.contracts.Durability`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.driven = Driven(entry, str(params["durability"]))
        self.count, self.payload = int(params["messages"] or 0), int(params["payload"] or 0)
        self.codec = next(entry for entry in REFERENCE if entry.family == "codec").make()
        self.acknowledged = 0
        self.failed: BaseException | None = None

    def measure(self, seconds: float) -> Measurement:
        """Publishes all; memory is read after a collection on both sides."""
        self._publish(0, 1)  # what the first append imports and sets up is no message
        gc.collect()
        before = _private()
        self._publish(1, self.count + 1)
        gc.collect()
        after = _private()
        # half the payloads: files of less may be an index, files of more hold the messages
        held = self.driven.files if self.driven.in_files() * 2 > self.count * self.payload else "in RAM"
        return Measurement(
            {"growth": [(after - before) / 1e6], "private": [after / 1e6], "peak": [_peak() / 1e6]},
            labels={"held": held},
        )

    def _publish(self, first: int, last: int) -> None:
        encode, wire_id, size = self.codec.encode, self.codec.wire_id, self.payload
        append, end_turn, done = self.driven.storage.append, self.driven.end_turn, self._done
        for index in range(first, last):
            now = START + 10 * index
            payload = f"message {index:012d} ".encode().ljust(size, b"%d" % (index % 10))[:size]
            body = encode((Message(payload, None, None, now),), now)
            batch = batches.parse(batches.build(body, 1, codec=wire_id, base_timestamp=now))
            append(_PARTITION, batch, now, done)
            end_turn()
        self.driven.wait(lambda: self.acknowledged == last or self.failed is not None)

    def verify(self) -> None:
        """All were acknowledged, and the last one can be read."""
        if self.failed is not None:
            raise WrongResult(f"an append failed: {self.failed}")
        if self.acknowledged != self.count + 1:
            raise WrongResult(f"{self.acknowledged} of {self.count + 1} appends were acknowledged")
        found = self.driven.read(_PARTITION, self.count, _READ_LIMIT)
        last = batches.parse(found[-1]) if found else None
        if last is None or last.base_offset + last.count != self.count + 1:
            raise WrongResult("the last message cannot be read")

    def close(self) -> None:
        """Closes the storage."""
        self.driven.close()

    def _done(self, _base: int, error: BaseException | None) -> None:
        self.acknowledged += error is None
        self.failed = self.failed or error


def _private() -> int:
    """Private_Clean + Private_Dirty of this process, bytes."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        raise NotForThis("this system has no /proc/self/smaps_rollup: private memory cannot be read")
    lines = dict(line.split(":", 1) for line in rollup.read_text().splitlines()[1:] if ":" in line)
    return 1024 * sum(int(lines[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
