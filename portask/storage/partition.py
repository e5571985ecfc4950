"""The log of one partition: its segments, what waits to be written, what readers may see.

Four offsets, each at or before the next::

    first       the oldest that retention left
    next        readers see what is before it: it has the durability that the mode declares
    end         what is before it is in the segment files (in the mode ``memory`` it may trail ``next``)
    assigned    what is before it was given to appends; those from ``end`` on wait in ``pending``
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import structlog

from portask.messages import Buffer, TopicPartition
from portask.storage import reading, recovery, segments
from portask.storage.files import PARTS, write_all, write_rest
from portask.storage.index import Standing
from portask.storage.recovery import Recovered
from portask.storage.segments import HEADER_SIZE, Segment
from portask.storage.shared import Shared
from portask.storage.turns import Gathered, Turn
from portask.wire import batches

log = structlog.get_logger("portask.storage")


class PartitionLog(Gathered):
    """One partition; see the module's text. `reading` and `trimming` are the rest of it.

    Attributes:
        unwritten: Mode ``memory``: base offset and batch of what is not in the files yet.
        tail: What the newest turns appended, by base offset, in RAM for readers at the tail.
        hints: Where reading stopped, by the offset that comes next.
        in_flight: Standings of what is written and not synced.
        newest: Base offset of the newest batch.
        first_at: Position of ``first`` in the oldest segment.
        bases: Of the segments.
    """

    def __init__(self, shared: Shared, key: TopicPartition) -> None:
        super().__init__(key)
        self.shared = shared
        topic, number = segments.folder_names(key)
        self.folder = f"{shared.folder}/{topic}/{number}"
        self.segments: list[Segment] = []
        self.end = 0
        self.newest = 0
        self.unwritten: list[tuple[int, Buffer]] = []
        self.unwritten_bytes = 0
        self.tail: dict[int, Turn] = {}
        self.hints: dict[int, reading.Place] = {}
        self.in_flight: deque[Sequence[tuple[int, Standing]]] = deque()
        self.bases = array("Q")
        self._note_at = 0
        self.first_at = HEADER_SIZE
        self._first_saved = 0
        self._dirty_tail = False
        self._rolling = False

    # ── a start ───────────────────────────────────────────────────────────────────────────────────────────

    def restore(self, found: Recovered) -> None:
        """Takes over what was found on disk, and cuts a torn tail.

        Raises:
            OSError: it cannot be cut.
        """
        if not found.segments:
            return
        self.segments = found.segments
        self.bases = array("Q", (segment.base for segment in found.segments))
        active = self.segments[-1]
        self.next = self.end = self.assigned = found.next
        self.first = self._first_saved = found.first
        self.producers = found.producers
        self.forget_producers()
        self.newest = next((s.last_base for s in reversed(self.segments) if s.last_base >= 0), self.first)
        self.bytes = sum(segment.size - HEADER_SIZE for segment in self.segments)
        if found.torn >= 0:
            fd = self.shared.open.fd(active)
            self.shared.cut_bytes += self.shared.files.size(fd) - found.torn
            self.shared.files.truncate(fd, found.torn)
            if found.torn < HEADER_SIZE:
                write_all(self.shared.files, fd, [segments.header(active.base, 0)], 0)
        for segment, producers in found.bare:
            reading.index_of(self, segment)
            self.shared.vouch(segment, max(self.first, segment.base), producers)
        if self.first > self.segments[0].base:
            self.first_at = self._position_of(self.first)
            self.bytes -= self.first_at - HEADER_SIZE
        positions = reading.index_of(self, active).positions
        self._note_at = positions[-1] + self.shared.index_interval if positions else 0

    def _position_of(self, offset: int) -> int:
        """Where the batch that begins at ``offset``, or behind it, begins in the oldest segment."""
        oldest = self.segments[0]
        for head in reading.headers(self, reading.locate(self, oldest, offset)):
            if head.base >= offset:
                return head.position
        return oldest.size

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────

    def write(self, parts: Sequence[Buffer], size: int) -> tuple[Segment, int]:
        """Hands stamped batches to the kernel; returns the segment, and where in it they begin. All or nothing.

        Args:
            parts: The batches.
            size: Their bytes together.

        Raises:
            OSError: nothing of it is visible, and the file is as it was.
        """
        shared = self.shared
        if not self.segments:
            self._make_folders()
            segment = self._roll(batches.peek(parts[0])[1])
        else:
            segment = self.segments[-1]
            if self._dirty_tail:
                self._clean(segment)
            if segment.size + size > shared.segment_bytes or segment.next != self.end or self._rolling:
                segment = self._next_segment(segment, batches.peek(parts[0])[1])
        if segment.index is None:
            reading.index_of(self, segment)
        fd = segment.fd if segment.fd >= 0 else shared.open.fd(segment)
        segment.used = True
        begin = segment.size
        try:
            written = shared.files.write(fd, parts, begin) if len(parts) <= PARTS else 0
            if written != size:
                write_rest(shared.files, fd, parts, begin, written)
        except OSError:
            self._dirty_tail = True
            try:
                self._clean(segment)
            except OSError:
                log.warning("half-written batches could not be cut off yet", partition=str(self.key))
            raise
        end = begin + size
        if end > self._note_at:
            self._note(segment, parts, begin)
        base, time, count, _ = batches.peek(parts[-1])
        segment.size = end
        segment.last_base = self.newest = base
        segment.next = self.end = base + count
        if time > segment.max_time:  # noqa: PLR1730 - once a turn
            segment.max_time = time
        self.bytes += size
        return segment, begin

    def _note(self, segment: Segment, parts: Sequence[Buffer], at: int) -> None:
        """Index entries for what was just written."""
        entries = reading.index_of(self, segment)
        for part in parts:
            if at >= self._note_at:
                base, time, _, _ = batches.peek(part)
                entries.add(base, max(time, segment.max_time), at)
                self._note_at = at + self.shared.index_interval
            at += len(part)

    def reveal(self, turn: Turn) -> None:
        """Lets readers see what a turn appended."""
        self.shared.cache(self, turn)
        self.next = turn.end
        if turn.standings:
            self.producers.update(turn.standings)

    def keep(self, turn: Turn) -> None:
        """Mode ``memory``: keeps what a turn appended in RAM, and lets readers see it."""
        for part in turn.parts:
            self.newest = batches.peek(part)[0]
            self.unwritten.append((self.newest, part))
        self.unwritten_bytes += turn.size
        self.bytes += turn.size
        self.next = turn.end
        self.producers.update(turn.standings)

    def write_waiting(self) -> None:
        """Mode ``memory``: hands what is in RAM only to the kernel.

        Raises:
            OSError: it stays in RAM.
        """
        if self.unwritten:
            self.write([batch for _, batch in self.unwritten], self.unwritten_bytes)
            self.unwritten.clear()
            self.bytes -= self.unwritten_bytes  # counted twice: when they came, and now
            self.unwritten_bytes = 0

    def unwrite(self, segment: Segment, at: int) -> None:
        """Forgets what is behind ``at``, after a sync that failed: it may or may not be on the device."""
        if at >= segment.size:
            return
        segment.size = at
        try:
            self.shared.files.truncate(self.shared.open.fd(segment), at)
        except OSError as error:
            log.warning("unsynced batches stay in the file", segment=segment.path, reason=str(error))

    def _clean(self, segment: Segment) -> None:
        """Cuts off what a failed write left, so that nothing of it can be taken for records later."""
        self.shared.files.truncate(self.shared.open.fd(segment), segment.size)
        self._dirty_tail = False

    def _make_folders(self) -> None:
        files, topic = self.shared.files, self.folder.rpartition("/")[0]
        files.make_folder(topic)
        self.shared.sync_folder(self.shared.folder)
        files.make_folder(self.folder)
        self.shared.sync_folder(topic)

    def _next_segment(self, segment: Segment, now: int) -> Segment:
        """The active segment is full; or its end was lost, and those offsets are not given out again."""
        if segment.size == HEADER_SIZE and segment.next == self.end:
            return segment  # one turn alone is larger than a segment should be
        return self._roll(now)

    def _roll(self, now: int) -> Segment:
        """A new active segment; the one before is sealed."""
        files = self.shared.files
        segment = Segment(self.folder, self.end)
        self._rolling = True
        fd = files.open(segment.path, create=True)
        try:
            files.truncate(fd, 0)
            write_all(files, fd, [segments.header(segment.base, now)], 0)
        except OSError:
            files.close(fd)
            raise
        self._rolling = False
        self.shared.sync_folder(self.folder)
        if self.segments:
            producers = dict(self.producers)
            for standings in self.in_flight:
                producers.update(standings)
            self.shared.vouch(self.segments[-1], max(self.first, self.segments[-1].base), producers)
        self.shared.open.adopt(segment, fd)
        self.segments.append(segment)
        self.bases.append(segment.base)
        self._note_at = 0
        return segment

    def seal(self) -> None:
        """At the end: index files say what the segments hold, so that the next start reads little.

        One that would save less than a 64th of a segment is not worth the wait for the device.
        """
        if not self.segments:
            return
        active, oldest = self.segments[-1], self.segments[0]
        trimmed = self._first_saved != self.first
        # while the end of the segment is lost, its old index file is what knows the next offset
        if active.next == self.end and (
            active.size - active.certified > self.shared.segment_bytes >> 6 or (trimmed and oldest is active)
        ):
            reading.index_of(self, active)
            self.shared.vouch(active, max(self.first, active.base), self.producers)
        if trimmed and oldest is not active and self.first > oldest.base:
            self.amend(oldest)

    def amend(self, segment: Segment) -> None:
        """Writes a sealed segment's index file again: its holes or the first offset changed."""
        certificate = recovery.load_certificate(self.shared.files, segment)
        if certificate is not None:
            reading.index_of(self, segment)
            self.shared.vouch(segment, max(self.first, segment.base), certificate.producers)

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def read(self, offset: int, limit: int) -> list[Buffer]:
        """See `portask.contracts.Storage.read`; ``offset`` is within bounds and before ``next``.

        Raises:
            OffsetOutOfRange: what is left was quarantined.
            OSError: the device does not give it.
        """
        turn = self.tail.get(offset)
        if turn is not None:
            return reading.from_tail(self, turn, limit)
        if offset >= self.end:
            return reading.from_unwritten(self, offset, limit)
        return reading.read(self, offset, limit)

    def number_of(self, offset: int) -> int:
        """Which segment holds ``offset``."""
        return max(bisect_right(self.bases, offset) - 1, 0)

    def base_after(self, segment: Segment) -> int:
        """The offset that follows the segment's last."""
        at = bisect_right(self.bases, segment.base)
        return self.bases[at] if at < len(self.bases) else max(segment.next, segment.base)

    def quarantine(self, place: reading.Place) -> None:
        """Marks what is damaged in a segment behind ``place`` as holes, and says so.

        Raises:
            OSError: the device does not give the bytes.
        """
        segment = place.segment
        self.hints.clear()
        for hole in reading.examine(self, place).holes.values():
            if segment.holes.get(hole.start) == hole:
                continue
            segment.holes[hole.start] = hole
            segment.certified = 0  # the index file does not know of it
            self.shared.holes += 1
            self.shared.lost_bytes += hole.end - hole.start
            log.error(
                "damaged records quarantined",
                partition=str(self.key),
                first=hole.first,
                next=hole.next,
                bytes=hole.end - hole.start,
                segment=segment.path,
                position=hole.start,
            )
        if segment is not self.segments[-1] and not segment.certified:
            self.amend(segment)
