"""What one subscriber received, message by message accounted for, at less than 0.5 µs a message.

A batch is looked at in columns: heads, numbers, fillers, each a list that is made and compared in C. Only where one of
these comparisons fails, or where producers' messages take turns in a batch, is there Python a message.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from struct import unpack

import msgspec

from portask.cli.bench.payloads import (
    HEAD,
    PRODUCER_SHIFT,
    RUN_SHIFT,
    SEQUENCE,
    SMALLEST,
    distinct,
    filler,
    fillers,
)
from portask.client import DeliveredBatch

_KNOWN = 64
"""Runs of other benches that are told apart at most; messages of any further are taken for those of strangers."""
_TABLES = 16
"""Tables of fillers that are kept, up to 8 MiB each."""


class Seen:
    """Which of a producer's messages in one partition have come: ranges of sequence numbers, sorted, apart.

    Attributes:
        starts: First of each range.
        stops: One after the last of each.
        repeated: How often one came that had come before.
        late: How many came after one with a higher number.
    """

    __slots__ = ("late", "repeated", "starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []
        self.repeated = 0
        self.late = 0

    def add(self, start: int, stop: int) -> None:
        """The messages ``start`` to before ``stop`` came."""
        if not self.stops or start > self.stops[-1]:
            self.starts.append(start)
            self.stops.append(stop)
        elif start == self.stops[-1]:
            self.stops[-1] = stop
        else:
            highest = self.stops[-1]
            self.late += self._insert(start, min(stop, highest))
            if stop > highest:
                self.stops[-1] = stop

    def _insert(self, start: int, stop: int) -> int:
        """Fills holes; counts what was there as repeated, and returns how much was not."""
        starts, stops = self.starts, self.stops
        new = 0
        at = bisect_right(stops, start)
        while at < len(starts) and start < stop:
            if start < starts[at]:
                end = min(stop, starts[at])
                new += end - start
                starts.insert(at, start)
                stops.insert(at, end)
                start = end
                at += 1
            else:
                end = min(stop, stops[at])
                self.repeated += end - start
                start = end
                at += 1
        self._join()
        return new

    def _join(self) -> None:
        """Makes one range of neighbours."""
        starts, stops = [self.starts[0]], [self.stops[0]]
        for start, stop in zip(self.starts[1:], self.stops[1:], strict=True):
            if start == stops[-1]:
                stops[-1] = stop
            else:
                starts.append(start)
                stops.append(stop)
        self.starts, self.stops = starts, stops

    @property
    def count(self) -> int:
        """How many different messages came."""
        return sum(self.stops) - sum(self.starts)


class Stream(msgspec.Struct, frozen=True):
    """`Seen`, told to another process.

    Attributes:
        topic: Where the messages lay.
        partition: Likewise.
        run: Whose they are.
        producer: Likewise.
        ranges: First and one after the last of each range, in order.
        repeated: As in `Seen`.
        late: Likewise.
    """

    topic: str
    partition: int
    run: int
    producer: int
    ranges: list[tuple[int, int]]
    repeated: int
    late: int

    @property
    def count(self) -> int:
        """How many different messages came."""
        return sum(stop - start for start, stop in self.ranges)


class Ledger:
    """See the module.

    Args:
        run: The only run whose messages are expected; ``None`` takes those of any.
        size: Bytes that each of their payloads must have; 0 for any.

    Attributes:
        messages: Messages that were as they must be, repeated ones included.
        bytes: Their payloads.
        altered: Messages of a known run whose bytes are not those that were sent.
        foreign: Messages that are of no bench, or of another than the expected one.
        batches: How many messages each delivered batch had → how often.
    """

    def __init__(self, run: int | None = None, size: int = 0) -> None:
        self.messages = 0
        self.bytes = 0
        self.altered = 0
        self.foreign = 0
        self.batches: Counter[int] = Counter()
        self._run = run
        self._size = size
        self._runs: set[int] = set() if run is None else {run}
        self._tables: dict[tuple[int, int], list[bytes]] = {}
        self._seen: defaultdict[tuple[str, int, int], Seen] = defaultdict(Seen)

    def take(self, batch: DeliveredBatch) -> Sequence[int]:
        """Accounts for a batch; returns the times in it, ns, of the messages that were as they must be."""
        payloads = [message.payload for message in batch.messages]
        count = len(payloads)
        self.batches[count] += 1
        size = len(payloads[0])
        if (
            size >= SMALLEST
            and size == (self._size or size)
            and (count == 1 or set(map(len, payloads)) == {size})
        ):
            columns = unpack(f"<{2 * count}Q", b"".join([payload[:HEAD] for payload in payloads]))
            words = columns[::2]
            run = words[0] >> RUN_SHIFT
            table = self._tables.get((run, size)) or self._table(run, payloads[0])
            if table and min(words) >> RUN_SHIFT == run == max(words) >> RUN_SHIFT:
                mask = len(table) - 1
                if all(map(bytes.endswith, payloads, [table[word & mask] for word in words])):
                    self._enter(batch, words)
                    self.messages += count
                    self.bytes += count * size
                    return columns[1::2]
        return self._one_by_one(batch, payloads)

    def _table(self, run: int, payload: bytes) -> list[bytes]:
        """The fillers of a run, if its messages are expected; of a new one, if this payload is its work."""
        if not self._knows(run, payload):
            return []
        if len(self._tables) >= _TABLES:
            self._tables.clear()
        table = self._tables[run, len(payload)] = fillers(run, len(payload))
        return table

    def _knows(self, run: int, payload: bytes) -> bool:
        """Whether messages of this run are expected; those of a new one if this payload is its work."""
        if run in self._runs:
            return True
        if self._run is not None or len(self._runs) >= _KNOWN:
            return False
        size = len(payload)
        word = int.from_bytes(payload[:8], "little")
        if size < SMALLEST or payload[HEAD:] != filler(run, word & distinct(size) - 1, size):
            return False
        self._runs.add(run)
        return True

    def _enter(self, batch: DeliveredBatch, words: Sequence[int]) -> None:
        topic, partition, first = batch.topic, batch.partition, words[0]
        count = len(words)
        if words == tuple(range(first, first + count)):
            start = first & SEQUENCE
            self._seen[topic, partition, first >> PRODUCER_SHIFT].add(start, start + count)
            return
        by_owner: defaultdict[int, list[int]] = defaultdict(list)
        for word in words:
            by_owner[word >> PRODUCER_SHIFT].append(word & SEQUENCE)
        for owner, numbers in by_owner.items():
            seen = self._seen[topic, partition, owner]
            start = numbers[0]
            if numbers == list(range(start, start + len(numbers))):
                seen.add(start, start + len(numbers))
            else:
                for number in numbers:
                    seen.add(number, number + 1)

    def _one_by_one(self, batch: DeliveredBatch, payloads: Iterable[bytes]) -> list[int]:
        times = []
        for payload in payloads:
            size = len(payload)
            word = int.from_bytes(payload[:8], "little")
            run = word >> RUN_SHIFT
            if size < HEAD or not self._knows(run, payload):
                self.foreign += 1
            elif size != (self._size or size) or payload[HEAD:] != filler(
                run, word & distinct(size) - 1, size
            ):
                self.altered += 1
            else:
                self._enter(batch, (word,))
                self.messages += 1
                self.bytes += size
                times.append(int.from_bytes(payload[8:HEAD], "little"))
        return times

    @property
    def repeated(self) -> int:
        """How often a message came that had come before."""
        return sum(seen.repeated for seen in self._seen.values())

    def streams(self) -> list[Stream]:
        """What was seen, one a topic, partition and producer."""
        return [
            Stream(
                topic,
                partition,
                owner >> RUN_SHIFT - PRODUCER_SHIFT,
                owner & (1 << RUN_SHIFT - PRODUCER_SHIFT) - 1,
                list(zip(seen.starts, seen.stops, strict=True)),
                seen.repeated,
                seen.late,
            )
            for (topic, partition, owner), seen in sorted(self._seen.items())
        ]
