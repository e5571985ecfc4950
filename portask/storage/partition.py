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
from operator import itemgetter
from typing import NamedTuple

import structlog

from portask.contracts import EARLIEST, LATEST, Appended
from portask.messages import Buffer, TopicPartition
from portask.storage import index, reading, recovery, segments
from portask.storage.files import PARTS, Files, OpenFiles, replace_file, write_all, write_rest
from portask.storage.index import Standing
from portask.storage.recovery import Recovered
from portask.storage.segments import HEADER_SIZE, Segment
from portask.storage.syncing import Syncer
from portask.wire import batches

log = structlog.get_logger("portask.storage")

_ENTRY_OVERHEAD = 400
"""Bytes that a cached turn costs beside its batches: objects, dictionary and queue slots."""
_BASE = itemgetter(0)


class Turn(NamedTuple):
    """What one turn appended to a partition."""

    base: int
    end: int
    parts: Sequence[Buffer]
    size: int
    standings: Sequence[tuple[int, Standing]]


class Shared:
    """What all partitions of one log have in common.

    Attributes:
        holes: Ranges quarantined since the start.
        lost_bytes: Bytes in them.
        cut_bytes: Bytes cut off torn tails at the start.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        syncer: Syncer,
        *,
        segment_bytes: int,
        index_interval: int,
        cache_bytes: int,
        open_files: int,
    ) -> None:
        self.files = files
        self.folder = folder
        self.syncer = syncer
        self.open = OpenFiles(files, open_files)
        self.segment_bytes = segment_bytes
        self.index_interval = index_interval
        self.read_bytes = 4 << 20
        self.holes = 0
        self.lost_bytes = 0
        self.cut_bytes = 0
        self._cache_left = cache_bytes
        self._cached: deque[PartitionLog] = deque()
        self._unsynced_folders: set[str] = set()

    def cache(self, partition: PartitionLog, turn: Turn) -> None:
        """Keeps what a turn appended for readers at the tail, and forgets the oldest turns for it."""
        partition.tail[turn.base] = turn
        self._cached.append(partition)
        self._cache_left -= turn.size + _ENTRY_OVERHEAD
        while self._cache_left < 0:
            tail = self._cached.popleft().tail
            self._cache_left += tail.pop(next(iter(tail))).size + _ENTRY_OVERHEAD

    def vouch(self, segment: Segment, first: int, producers: dict[int, Standing]) -> None:
        """Has the segment synced, and its index file written, on the syncing thread."""
        content = index.encode(segment, first, producers)
        size, path, index_path = segment.size, segment.path, segment.index_path
        files = self.files

        def step() -> None:
            try:
                fd = files.open(path)
            except FileNotFoundError:
                return  # retention was faster
            try:
                files.sync(fd)
            finally:
                files.close(fd)
            try:
                replace_file(files, index_path, content)
            except OSError as error:  # the next start reads the segment instead
                log.warning("no index file", segment=path, reason=error.strerror or str(error))
                return
            files.sync_folder(path.rpartition("/")[0])
            segment.certified = size

        self.syncer.later(step)

    def sync_folder(self, path: str) -> None:
        """Has the names in a folder synced, on the syncing thread. Calls before it gets to that count as one."""
        if path in self._unsynced_folders:
            return
        self._unsynced_folders.add(path)

        def step() -> None:
            self._unsynced_folders.discard(path)
            self.files.sync_folder(path)

        self.syncer.later(step)

    def remove(self, segment: Segment) -> None:
        """Has a segment removed, on the syncing thread."""
        self.open.close(segment)

        def step() -> None:
            try:
                self.files.remove(segment.index_path)
                self.files.remove(segment.path)
            except OSError as error:
                log.warning("segment not removed", segment=segment.path, reason=error.strerror or str(error))

        self.syncer.later(step)


class PartitionLog:
    """See the module's text.

    Attributes:
        pending: Appends since the last commit: base offset, stamped batch, callback.
        pending_bytes: Of those.
        ones: How many of them have one record.
        standings: Their producers.
        unwritten: Mode ``memory``: base offset and batch of what is not in the files yet.
        tail: What the newest turns appended, by base offset, in RAM for readers at the tail.
        hints: Where reading stopped, by the offset that comes next.
        producers: Where each producer stands, as far as readers see.
        in_flight: Standings of what is written and not synced.
        bytes: Of stored batches, from ``first`` on.
        newest: Base offset of the newest batch.
    """

    def __init__(self, shared: Shared, key: TopicPartition) -> None:
        self.shared = shared
        self.key = key
        topic, number = segments.folder_names(key)
        self.folder = f"{shared.folder}/{topic}/{number}"
        self.segments: list[Segment] = []
        self.first = self.next = self.end = self.assigned = 0
        self.newest = 0
        self.bytes = 0
        self.pending: list[tuple[int, bytes, Appended]] = []
        self.pending_bytes = 0
        self.ones = 0
        self.standings: list[tuple[int, Standing]] = []
        self.unwritten: list[tuple[int, Buffer]] = []
        self.unwritten_bytes = 0
        self.tail: dict[int, Turn] = {}
        self.hints: dict[int, reading.Place] = {}
        self.producers: dict[int, Standing] = {}
        self.in_flight: deque[Sequence[tuple[int, Standing]]] = deque()
        self._bases = array("Q")
        self._note_at = 0
        self._first_at = HEADER_SIZE
        self._first_saved = 0
        self._dirty_tail = False
        self._rolling = False

    # ── a start
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def restore(self, found: Recovered) -> None:
        """Takes over what was found on disk, and cuts a torn tail.

        Raises:
            OSError: it cannot be cut.
        """
        if not found.segments:
            return
        self.segments = found.segments
        self._bases = array("Q", (segment.base for segment in found.segments))
        active = self.segments[-1]
        self.next = self.end = self.assigned = found.next
        self.first = self._first_saved = found.first
        self.producers = found.producers
        self._forget_producers()
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
            self._first_at = self._position_of(self.first)
            self.bytes -= self._first_at - HEADER_SIZE
        positions = reading.index_of(self, active).positions
        self._note_at = positions[-1] + self.shared.index_interval if positions else 0

    def _position_of(self, offset: int) -> int:
        """Where the batch that begins at ``offset``, or behind it, begins in the oldest segment."""
        oldest = self.segments[0]
        for head in reading.headers(self, reading.locate(self, oldest, offset)):
            if head.base >= offset:
                return head.position
        return oldest.size

    # ── writing
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

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
        self._bases.append(segment.base)
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

    # ── reading
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, offset: int, limit: int) -> list[Buffer]:
        """See `portask.contracts.Storage.read`; ``offset`` is within bounds and before ``next``.

        Raises:
            OffsetOutOfRange: what is left was quarantined.
            OSError: the device does not give it.
        """
        turn = self.tail.get(offset)
        if turn is not None:
            return self._from_tail(turn, limit)
        if offset >= self.end:
            return self._from_unwritten(offset, limit)
        return reading.read(self, offset, limit)

    def _from_tail(self, turn: Turn | None, limit: int) -> list[Buffer]:
        found: list[Buffer] = []
        while turn is not None:
            if turn.size <= limit:
                found += turn.parts
                limit -= turn.size
                turn = self.tail.get(turn.end)
                continue
            for part in turn.parts:
                if found and len(part) > limit:
                    break
                found.append(part)
                limit -= len(part)
            break
        return found

    def _from_unwritten(self, offset: int, limit: int) -> list[Buffer]:
        found: list[Buffer] = []
        at = bisect_right(self.unwritten, offset, key=_BASE) - 1
        for at in range(at, len(self.unwritten)):  # noqa: B020 - a slice would copy all that is still to come
            batch = self.unwritten[at][1]
            if found and len(batch) > limit:
                break
            found.append(batch)
            limit -= len(batch)
        return found

    def lookup(self, when: int) -> int:
        """See `portask.contracts.Storage.lookup`.

        Raises:
            OSError: the device does not give what it takes to know.
        """
        if when == EARLIEST:
            return self.first
        if when == LATEST:
            return self.next
        for segment in self.segments:
            if segment.max_time < when or segment.next <= self.first:
                continue
            entries = reading.index_of(self, segment)
            base, position = entries.before_time(when) if entries.bases else (segment.base, HEADER_SIZE)
            for head in reading.headers(self, reading.Place(segment, position, base)):
                if head.time >= when and head.base + head.records > self.first:
                    return max(head.base, self.first)
        for base, batch in self.unwritten:
            if batches.peek(batch)[1] >= when:
                return base
        return self.next

    def number_of(self, offset: int) -> int:
        """Which segment holds ``offset``."""
        return max(bisect_right(self._bases, offset) - 1, 0)

    def base_after(self, segment: Segment) -> int:
        """The offset that follows the segment's last."""
        at = bisect_right(self._bases, segment.base)
        return self._bases[at] if at < len(self._bases) else max(segment.next, segment.base)

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

    # ── retention
    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def trim(self, before: int, max_bytes: int | None) -> None:
        """See `portask.contracts.Storage.trim`. Whole segments are removed, batches in the oldest one skipped.

        Raises:
            OSError: the device does not give what it takes to know.
        """
        before = min(before, self.newest, self.next)
        over = 0 if max_bytes is None else max(self.bytes - max_bytes, 0)
        start = self.bytes
        while len(self.segments) > 1 and not self.segments[0].pins:
            oldest, following = self.segments[0], self.segments[1].base
            size = oldest.size - self._first_at
            enough = following > max(before, self.first) and over - (start - self.bytes) < size
            if following > self.newest or enough:
                break
            self._forget_oldest(following, size)
        over -= start - self.bytes
        if self.first < before or over > 0:
            self._trim_oldest(before, over)
        if self.producers and self.bytes < start:
            self.producers = {
                p: standing for p, standing in self.producers.items() if standing[2] >= self.first
            }

    def _forget_producers(self) -> None:
        """Those whose records were all trimmed, so that the table does not grow for ever."""
        gone = [producer for producer, standing in self.producers.items() if standing[2] < self.first]
        for producer in gone:
            del self.producers[producer]

    def _forget_oldest(self, following: int, size: int) -> None:
        oldest = self.segments.pop(0)
        self._bases = self._bases[1:]
        self.shared.remove(oldest)
        self.bytes -= size
        self.first = max(self.first, following)
        self._first_at = HEADER_SIZE
        self.hints.clear()

    def _trim_oldest(self, before: int, over: int) -> None:
        """Skips the batches of the oldest segment that end at or before ``before``, or are among ``over`` bytes."""
        oldest = self.segments[0]
        target = self._first_at + over
        entries = reading.index_of(self, oldest)
        place = reading.Place(oldest, self._first_at, self.first)
        if entries.bases:
            by_offset, by_position = entries.at_offset(before), entries.at_position(target)
            base, position = max(by_offset, by_position) if over > 0 else by_offset
            if position > self._first_at:
                place = reading.Place(oldest, position, base)
        first, first_at = place.base, place.position
        for head in reading.headers(self, place):
            if head.base > self.newest:
                break
            if head.base <= before or first_at < target:
                first, first_at = head.base, head.position
            else:
                break
        else:
            if oldest.next <= before or (first_at < target and oldest.next <= self.newest):
                first, first_at = min(oldest.next, self.next), oldest.size
        if first > self.first:
            self.bytes -= first_at - self._first_at
            self.first, self._first_at = first, first_at
