"""One partition on its way to the server: appends that wait, and the write that is under way.

A write is one call of the append script with all that waited, neighbours joined. It keeps its number until it is
answered, so it may be sent any number of times and is stored once (`scripts.APPEND`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from portask.contracts import COALESCE_WINDOW_US, Appended
from portask.errors import AlreadyStored, Fenced, OutOfSequence, PortaskError
from portask.messages import Buffer, TopicPartition
from portask.storage.gathering import Finish, gather
from portask.wire import batches
from portask_variants.storage.redis_streams import scripts
from portask_variants.storage.redis_streams.keys import PartitionKeys
from portask_variants.storage.redis_streams.link import Command

Append = tuple[bytes, int, int, int, bytes, Appended]
"""The batch, stamped with its place in the line and its append time; the place, records, the time; its producer's words
for the script, or nothing; whom to tell."""

Chunk = tuple[list[Append], int, float]
"""Appends of one turn, their bytes, and the loop time when they are given up."""
Part = tuple[int, int, int, bytes, bytes]
"""A batch to be stored: records, append time, that of its newest record, its producer's words, its bytes."""
REMEMBER_MS = 600_000
"""How long the server remembers a broker's last write to a partition: much longer than any retry."""
ENTRY = 64 << 10
"""Bytes that an entry is taken to have before some were read."""


class Line:
    """What this broker has of one partition. The upper half is the broker's thread's, the lower half the loop's.

    Attributes:
        pending: Appends since the last commit, and their bytes.
        place: Records that were ever appended here: numbers what is under way, whatever its offsets will be.
        waiting: Appends that were not called back; ``settled``: those that were.
        first: The oldest offset, as far as is known here; likewise the next two.
        next: The next one.
        size: Bytes stored.
        queue: Appends that no write has yet.
        write: The one under way.
        not_before: When the write may be tried again.
        number: Of the last write.
        slow: Writes that are still to go by the script, whatever their size.
        entry: Bytes that an entry has, about, as those that were read last.
        acked: The next offset after the last write; no later one begins before it, unless the server forgot something.
    """

    __slots__ = (
        "acked",
        "entry",
        "first",
        "key",
        "keys",
        "next",
        "not_before",
        "number",
        "pending",
        "pending_bytes",
        "place",
        "queue",
        "settled",
        "size",
        "slow",
        "waiting",
        "write",
    )

    def __init__(self, key: TopicPartition, keys: PartitionKeys) -> None:
        self.key = key
        self.keys = keys
        self.pending: list[Append] = []
        self.pending_bytes = 0
        self.place = 0
        self.waiting = self.settled = 0
        self.first = self.next = self.size = 0
        self.queue: deque[Chunk] = deque()
        self.write: Write | None = None
        self.not_before = 0.0
        self.number = 0
        self.slow = 0
        self.entry = ENTRY
        self.acked = 0

    @property
    def busy(self) -> bool:
        """Whether there is something to write."""
        return self.write is not None or bool(self.queue)

    def next_write(self, most: int, target: int, finish: Finish | None) -> Write:
        """The write to send now: the one that failed, or a new one.

        Args:
            most: Bytes after which no more appends are taken into it.
            target: Bytes up to which neighbours are joined.
            finish: Applied to joined batches.
        """
        if self.write is None:
            queue = self.queue
            appends, size, deadline = queue.popleft()
            while queue and size + queue[0][1] <= most:
                more, added, _ = queue.popleft()
                appends += more
                size += added
            self.number += 1
            self.write = Write(self, appends, size, deadline, target=target, finish=finish)
        return self.write


class Write:
    """One call of the append script.

    Attributes:
        deadline: Loop time at which it is given up.
        parts: The batches that are to be stored.
        numbered: Whether one of them carries its producer's numbers.
        size: Bytes of them.
        given: Bytes as they came.
        number: What the server knows it by.
        attempts: So far.
        reason: Why the last one failed that says more than that its time was over.
    """

    __slots__ = (
        "_appends",
        "_ends",
        "attempts",
        "deadline",
        "given",
        "line",
        "number",
        "numbered",
        "parts",
        "reason",
        "size",
    )

    def __init__(
        self,
        line: Line,
        appends: list[Append],
        size: int,
        deadline: float,
        *,
        target: int,
        finish: Finish | None,
    ) -> None:
        self.line = line
        self.deadline = deadline
        self.number = line.number
        self.attempts = 0
        self.reason: Exception | None = None
        self._appends = appends
        self._ends: list[int] = []
        self.given = size
        parts: Sequence[Buffer] = [append[0] for append in appends]
        if len(parts) > 1:
            parts = gather(parts, target, COALESCE_WINDOW_US, finish)
        self.parts: list[Part] = []
        self.numbered = False
        at = size = 0
        for part in parts:
            _, time, count, _ = batches.peek(part)
            first = appends[at]
            at += 1 if first[2] == count else count  # only single records are joined
            self.numbered |= bool(first[4])
            self._ends.append(at)
            self.parts.append((count, time, appends[at - 1][3], first[4], bytes(part)))
            size += len(part)
        self.size = size

    def script(self) -> Command:
        """The call of the append script."""
        keys = self.line.keys
        words: list[Any] = ["EVAL", scripts.APPEND, 4, keys.log, keys.meta, keys.producers, keys.writer]
        words += (self.number, REMEMBER_MS)
        times = (0, 0)
        for count, begun, newest, producer, data in self.parts:
            before, times = times, (begun, newest)
            words += (count, *(times if times != before else (b"", b"")), producer, data)
        return tuple(words)

    def __len__(self) -> int:
        """Appends in it."""
        return len(self._appends)

    def tell(self, outcomes: Sequence[str], full: PortaskError) -> None:
        """Calls back with what the server said of each batch; ``full`` is for those that found no room."""
        begin = 0
        failure: BaseException | None = None
        for number, end in enumerate(self._ends):
            outcome = outcomes[min(number, len(outcomes) - 1)]
            error: PortaskError | None = None
            base = -1
            if outcome[0].isdigit():
                base = int(outcome)
            else:
                error = full if outcome == "!" else self._refusal(outcome, self._appends[begin])
            for append in self._appends[begin:end]:
                try:
                    append[5](base, error)
                except Exception as reason:  # noqa: BLE001 - raised once all others were told
                    failure = failure or reason
                if error is None:
                    base += append[2]
            begin = end
        if failure is not None:
            raise failure

    def fail(self, error: PortaskError) -> None:
        """Calls back with one error for all."""
        self._ends = [len(self._appends)]
        self.tell(["!"], error)

    def _refusal(self, outcome: str, append: Append) -> PortaskError:
        kind, number = outcome[0], outcome[1:]
        producer, epoch, first, last, _ = append[4].decode().split()
        where = self.line.key
        if kind == "D":
            return AlreadyStored(f"{where} has this batch already", int(number) if number else -1)
        if kind == "F":
            return Fenced(f"producer {producer} publishes to {where} with epoch {number}: {epoch} is over")
        if kind == "S":
            return OutOfSequence(
                f"producer {producer} sent the numbers {first} to {last} to {where}, where {number} is next"
            )
        return OutOfSequence(
            f"producer {producer} sent other records with the numbers {first} to {last} to {where} before: "
            "two clients must not share an id and an epoch"
        )
