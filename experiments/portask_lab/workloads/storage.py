"""Storage: appending and reading batches, and the memory that queued messages take.

Work is records whose ``done`` was called without an error, at the durability that the case names: a storage that
promises another one is not compared with it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portask.messages import Buffer, TopicPartition
from portask.registry import REFERENCE, Entry
from portask_lab.workloads import Measurement, Metric, NotForThis, Params, Plan, Workload, WrongResult

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

PARTITION = TopicPartition("lab", 0)
START = 1_767_225_600_000_000
PREFILL = 20_000
"""Messages in the storage that is read."""
PAYLOAD = 64
READ_LIMIT = 65_536
_MARGIN = 1 << 28


def _codec() -> Any:
    return next(entry for entry in REFERENCE if entry.family == "codec").make()


class _Storage:
    """A storage and encoded batches for it.

    Params:
        batch: Messages a batch.
        durability: Value of `portask.contracts.Durability` that the case is about.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        from portask.wire import batches  # noqa: PLC0415 - measured code is imported when it is prepared

        self.entry = entry
        self.storage = entry.make()
        if self.storage.durability.value != params["durability"]:
            promised = self.storage.durability.value
            self.close()
            raise NotForThis(f"{entry.label} promises {promised}, this case is about {params['durability']}")
        codec = _codec()
        self.parsed = [
            batches.parse(
                batches.build(
                    codec.encode(group, group[0].timestamp),
                    len(group),
                    codec=codec.wire_id,
                    base_timestamp=group[0].timestamp,
                )
            )
            for group in corpus.batches(int(params["batch"] or 1))
        ]
        self.done = 0
        self.failed: BaseException | None = None

    def close(self) -> None:
        """Closes the storage if it can be."""
        if hasattr(self.storage, "close"):
            self.storage.close()

    def fill(self, count: int) -> int:
        """Appends ``count`` batches, flushes, and returns the records that were acknowledged."""
        self.done = 0
        append, parsed = self.storage.append, self.parsed
        per, size = parsed[0].count, len(parsed)

        def acknowledged(_base: int, error: BaseException | None) -> None:
            if error is None:
                self.done += per
            else:
                self.failed = error

        for index in range(count):
            append(PARTITION, parsed[index % size], START + index, acknowledged)
        self.storage.flush(self._flushed)
        return self.done

    def verify(self) -> None:
        """No append failed."""
        if self.failed is not None:
            raise WrongResult(f"an append failed: {self.failed}")

    def _flushed(self, error: BaseException | None) -> None:
        self.failed = self.failed or error

    def collect(self, offset: int, limit: int) -> Sequence[Buffer]:
        """The batches that one read gives."""
        found: list[Sequence[Buffer]] = []

        def came(batches: Sequence[Buffer], error: BaseException | None) -> None:
            found.append(batches)
            self.failed = self.failed or error

        self.storage.read(PARTITION, offset, limit, came)
        if not found:
            raise WrongResult("a read did not complete")
        return found[0]


class Append(_Storage):
    """One append an iteration, into a storage that was empty before the sample."""

    def before(self, iterations: int) -> None:
        """A fresh storage, large enough to hold the sample."""
        self.close()
        needed = sum(len(batch.data) for batch in self.parsed) * (iterations // len(self.parsed) + 1)
        self.storage = self.entry.make(max_bytes=2 * needed + _MARGIN) if self._sized() else self.entry.make()

    def run(self, iterations: int) -> int:
        """Work is records acknowledged."""
        return self.fill(iterations)

    def verify(self) -> None:
        """What was appended is what is read."""
        from portask.wire import batches  # noqa: PLC0415 - see above

        super().verify()
        self.before(1)
        wanted = self.fill(min(500, len(self.parsed)))
        offset = 0
        bodies = []
        while offset < wanted:
            for data in self.collect(offset, READ_LIMIT):
                stored = batches.parse(data)
                offset = stored.base_offset + stored.count
                bodies.append(stored.count)
        if sum(bodies) != wanted:
            raise WrongResult(f"{wanted} records were acknowledged, {sum(bodies)} are there")
        super().verify()

    def _sized(self) -> bool:
        import inspect  # noqa: PLC0415 - only here

        return "max_bytes" in inspect.signature(self.entry.load()).parameters


class Read(_Storage):
    """One read of about 64 KiB an iteration, from the start to the end and again; work is records read."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        self.total = self.fill(PREFILL // self.parsed[0].count)
        self.offset = 0

    def run(self, iterations: int) -> int:
        """Reads on from where the last one ended."""
        from portask.wire.batches import peek  # noqa: PLC0415 - see above

        done = 0
        for _ in range(iterations):
            before = self.offset
            for data in self.collect(before, READ_LIMIT):
                base, _, count, _ = peek(data)
                self.offset = base + count
            done += self.offset - before
            if self.offset >= self.total:
                self.offset = 0
        return done

    def verify(self) -> None:
        """A pass from the start reaches every record, without a gap."""
        from portask.wire.batches import peek  # noqa: PLC0415 - see above

        super().verify()
        offset = 0
        while offset < self.total:
            found = self.collect(offset, READ_LIMIT)
            if not found:
                raise WrongResult(f"a read at {offset} of {self.total} gave nothing")
            for data in found:
                base, _, count, _ = peek(data)
                if base > offset:
                    raise WrongResult(f"records {offset} to {base} are missing")
                offset = base + count


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


class Queued:
    """Messages published one at a time and kept: private memory before and after, in a process of its own.

    Each payload is made when it is published and let go after it, as by a socket, so that what remains is the
    storage's.

    Params:
        messages: How many.
        payload: Bytes of each; all differ.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.storage = entry.make()
        self.count, self.payload = int(params["messages"] or 0), int(params["payload"] or PAYLOAD)
        self.codec = _codec()
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
        return Measurement(
            {"growth": [(after - before) / 1e6], "private": [after / 1e6], "peak": [_peak() / 1e6]},
        )

    def _publish(self, first: int, last: int) -> None:
        from portask.messages import Message  # noqa: PLC0415 - see above
        from portask.wire import batches  # noqa: PLC0415 - see above

        encode, wire_id, append, size = (
            self.codec.encode,
            self.codec.wire_id,
            self.storage.append,
            self.payload,
        )
        for index in range(first, last):
            now = START + 10 * index
            payload = f"message {index:012d} ".encode().ljust(size, b"%d" % (index % 10))[:size]
            body = encode((Message(payload, None, None, now),), now)
            batch = batches.parse(batches.build(body, 1, codec=wire_id, base_timestamp=now))
            append(PARTITION, batch, now, self._done)

    def verify(self) -> None:
        """All were acknowledged, and the last one can be read."""
        from portask.wire import batches  # noqa: PLC0415 - see above

        if self.failed is not None:
            raise WrongResult(f"an append failed: {self.failed}")
        if self.acknowledged != self.count + 1:
            raise WrongResult(f"{self.acknowledged} of {self.count + 1} appends were acknowledged")
        found: list[Any] = []
        self.storage.read(PARTITION, self.count, READ_LIMIT, lambda stored, _error: found.extend(stored))
        last = batches.parse(found[-1]) if found else None
        if last is None or last.base_offset + last.count != self.count + 1:
            raise WrongResult("the last message cannot be read")

    def close(self) -> None:
        """Closes the storage if it can be."""
        if hasattr(self.storage, "close"):
            self.storage.close()

    def _done(self, _base: int, error: BaseException | None) -> None:
        self.acknowledged += error is None
        self.failed = self.failed or error


_RATE = Metric("rate", "msg/s", "higher")
WORKLOADS: tuple[Workload, ...] = (
    Workload("storage.append", "storage", "Append", "append", (_RATE,)),
    Workload("storage.read", "storage", "Read", "read on", (_RATE,)),
    Workload(
        "storage.queued",
        "storage",
        "Queued",
        "messages published one at a time and kept",
        (
            Metric("growth", "MB", "lower", 2),
            Metric("private", "MB", "none", 2),
            Metric("peak", "MB", "none", 2),
            Metric("slope", "B/msg", "lower", 1),
            Metric("queue", "MB", "lower", 2),
        ),
    ),
)
_SIZES: tuple[Params, ...] = ({"batch": 1, "durability": "memory"}, {"batch": 100, "durability": "memory"})
_COUNTS = (25_000, 50_000, 100_000, 200_000)
PLANS: tuple[Plan, ...] = (
    Plan("storage", "storage.append", ("tiny",), _SIZES, full_corpora=("tiny", "real")),
    Plan("storage", "storage.read", ("tiny",), _SIZES, full_corpora=("tiny", "real")),
    Plan(
        "memory",
        "storage.queued",
        quick=tuple({"messages": count, "payload": PAYLOAD} for count in _COUNTS),
        alone=True,
        controlled=False,
    ),
)
