"""What the partitions of one log share: files, the syncing thread, limits, and the cache of what was just appended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import structlog

from portask.storage import index
from portask.storage.files import Files, OpenFiles, replace_file
from portask.storage.index import Standing
from portask.storage.segments import Segment
from portask.storage.syncing import Syncer
from portask.storage.turns import Turn

if TYPE_CHECKING:
    from portask.storage.partition import PartitionLog

log = structlog.get_logger("portask.storage")

_ENTRY_OVERHEAD = 400
"""Bytes that a cached turn costs beside its batches: objects, dictionary and queue slots."""


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
