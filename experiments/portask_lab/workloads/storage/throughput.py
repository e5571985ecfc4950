"""Appending and reading batches, flat out.

Work is records whose ``done`` was called without an error, at the durability that the case names: synced, not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portask.messages import RecordBatch, TopicPartition
from portask.registry import REFERENCE, Entry
from portask.wire import batches
from portask.wire.batches import peek
from portask_lab.workloads import Params, WrongResult
from portask_lab.workloads.storage.driving import START, Driven

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

PARTITION = TopicPartition("lab", 0)
IN_FLIGHT = 20_000
"""Records that wait for their acknowledgement, at most, as in the throughput of whole brokers; 64 appends at least."""
PREFILL = {1: 20_000}
"""Messages in the storage that is read, by batch size. Single ones are slow to append."""
PREFILL_OTHERS = 100_000
"""8 MB of small messages: more than a log keeps in RAM for readers at its end, less than the kernel's cache."""
READ_LIMIT = 65_536
_MARGIN = 1 << 28


def encoded(corpus: Corpus, size: int) -> list[RecordBatch]:
    """The corpus in checked batches of ``size`` messages, by the reference codec."""
    codec = _codec()
    return [
        batches.parse(
            batches.build(
                codec.encode(group, group[0].timestamp),
                len(group),
                codec=codec.wire_id,
                base_timestamp=group[0].timestamp,
            )
        )
        for group in corpus.batches(size)
    ]


def _payloads(batch: RecordBatch) -> list[bytes]:
    return [message.payload for message in _codec().decode(batch.body, batch.count, batch.base_timestamp)]


def _codec() -> Any:
    return next(entry for entry in REFERENCE if entry.family == "codec").make()


class _Storage:
    """A storage and encoded batches for it.

    Params:
        batch: Messages a batch.
        turn: Appends that arrive together, between two commits.
        durability: Value of `portask.contracts.Durability` that the case is about.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.entry = entry
        self.durability = str(params["durability"])
        self.turn = int(params.get("turn") or 1)
        self.driven = Driven(entry, self.durability)
        self.parsed = encoded(corpus, int(params["batch"] or 1))
        self.per = self.parsed[0].count
        self.done = 0
        self.failed: BaseException | None = None

    def close(self) -> None:
        """Closes the storage."""
        self.driven.close()

    def fill(self, count: int) -> int:
        """Appends ``count`` batches, waits for them, and returns the records that were acknowledged."""
        self.done = 0
        driven, parsed, turn, per = self.driven, self.parsed, self.turn, self.per
        append, end_turn, size = driven.storage.append, driven.end_turn, len(parsed)
        most = max(IN_FLIGHT // per, 64) * per

        def acknowledged(_base: int, error: BaseException | None) -> None:
            if error is None:
                self.done += per
            else:
                self.failed = error

        left = turn
        for index in range(count):
            append(PARTITION, parsed[index % size], START + index, acknowledged)
            left -= 1
            if not left:
                left = turn
                end_turn()
                sent = (index + 1) * per
                if sent - self.done >= most:
                    self._until(sent - most // 2)
        self._until(count * per)
        return self.done

    def _until(self, records: int) -> None:
        self.driven.wait(lambda: self.done >= records or self.failed is not None)

    def verify(self) -> None:
        """No append failed."""
        if self.failed is not None:
            raise WrongResult(f"an append failed: {self.failed}")


class Append(_Storage):
    """One append an iteration, into a storage that held one batch before the sample."""

    def before(self, iterations: int) -> None:
        """A fresh storage, large enough to hold the sample. Its first append makes files, and is not timed."""
        self._renew(iterations)
        self.fill(1)

    def _renew(self, iterations: int) -> None:
        self.close()
        needed = sum(len(batch.data) for batch in self.parsed) * (iterations // len(self.parsed) + 1)
        self.driven = Driven(self.entry, self.durability, max_bytes=2 * needed + _MARGIN)

    def run(self, iterations: int) -> int:
        """Work is records acknowledged."""
        return self.fill(iterations)

    def verify(self) -> None:
        """What was appended is what is read: every record, in order, with its payload."""
        super().verify()
        self._renew(1)
        count = min(500, len(self.parsed))
        wanted = self.fill(count)
        super().verify()
        if wanted != count * self.per:
            raise WrongResult(f"{wanted} of {count * self.per} records were acknowledged")
        payloads: list[bytes] = []
        while len(payloads) < wanted:
            found = self.driven.read(PARTITION, len(payloads), READ_LIMIT)
            if not found:
                raise WrongResult(f"{wanted} records were acknowledged, {len(payloads)} are there")
            for data in found:
                stored = batches.parse(data)
                if stored.base_offset != len(payloads):
                    raise WrongResult(f"records {len(payloads)} to {stored.base_offset} are missing")
                payloads += _payloads(stored)
        if payloads != [payload for batch in self.parsed[:count] for payload in _payloads(batch)]:
            raise WrongResult("records are not what was appended")


class Read(_Storage):
    """One read of about 64 KiB an iteration, from the start to the end and again; work is records read."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, {**params, "turn": 16}, seed)
        try:
            self.total = self.fill(PREFILL.get(self.per, PREFILL_OTHERS) // self.per)
            self.driven.flush()
        except BaseException:
            self.close()
            raise
        self.offset = 0

    def run(self, iterations: int) -> int:
        """Reads on from where the last one ended."""
        read = self.driven.read
        done = 0
        for _ in range(iterations):
            before = self.offset
            for data in read(PARTITION, before, READ_LIMIT):
                base, _, count, _ = peek(data)
                self.offset = base + count
            done += self.offset - before
            if self.offset >= self.total:
                self.offset = 0
        return done

    def verify(self) -> None:
        """A pass from the start reaches every record, without a gap."""
        super().verify()
        offset = 0
        while offset < self.total:
            found = self.driven.read(PARTITION, offset, READ_LIMIT)
            if not found:
                raise WrongResult(f"a read at {offset} of {self.total} gave nothing")
            for data in found:
                base, _, count, _ = peek(data)
                if base > offset:
                    raise WrongResult(f"records {offset} to {base} are missing")
                offset = base + count
