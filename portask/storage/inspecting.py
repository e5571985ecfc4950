"""What an operator may ask of a log that no broker has open: what is in it, whether it is whole, and to make it so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage import groups, index, recovery, segments
from portask.storage.files import Files, read_all, replace_file, write_all
from portask.storage.index import Hole, Standing
from portask.storage.lock import FolderLock
from portask.storage.recovery import Finding, Recovered
from portask.storage.segment_log import TOPICS
from portask.storage.segments import HEADER_SIZE, Segment
from portask.wire import batches

INTERVAL = 32 << 10
"""Bytes between the entries of index files that `repair` writes."""


class SegmentReport(msgspec.Struct):
    """One segment file. Times in µs since the epoch, 0 where it is empty."""

    path: str
    first: int
    next: int
    bytes: int
    newest_time: int
    indexed: bool


class PartitionReport(msgspec.Struct):
    """One partition.

    Attributes:
        topic: Name.
        partition: Number.
        first: The oldest offset that is kept.
        next: The offset that the next append gets.
        bytes: Of stored batches.
        oldest_time: Append time of the oldest batch, µs since the epoch; 0 for none.
        newest_time: Of the newest one.
        segments: Oldest first.
        quarantined: Ranges that hold nothing valid.
        producers: How many are remembered.
    """

    topic: str
    partition: int
    first: int
    next: int
    bytes: int
    oldest_time: int
    newest_time: int
    segments: list[SegmentReport]
    quarantined: list[Hole]
    producers: int


class Report(msgspec.Struct):
    """A whole folder.

    Attributes:
        folder: Its path.
        partitions: By topic and number.
        groups: Names of consumer groups with a state.
        findings: What is not as it should be; ranges that are known to be quarantined included.
        verified_bytes: Bytes whose checksums were looked at.
    """

    folder: str
    partitions: list[PartitionReport]
    groups: list[str]
    findings: list[Finding]
    verified_bytes: int = 0

    @property
    def problems(self) -> list[Finding]:
        """Those findings that a repair would change something about."""
        return [finding for finding in self.findings if finding.kind != "known hole"]


@contextmanager
def locked(folder: str | Path) -> Iterator[str]:
    """The folder of a log that nobody else has open.

    Raises:
        StorageError: it is no log, or a process has it open.
    """
    path = str(folder)
    if not (Path(path) / TOPICS).is_dir():
        raise StorageError(f"{path} holds no log of portask: there is no folder {TOPICS!r} in it")
    lock = FolderLock(path)
    try:
        yield path
    finally:
        lock.release()


def inspect(folder: str, *, verify: bool = False, files: Files | None = None) -> Report:
    """What is in the log. Changes nothing.

    Args:
        folder: Of the log, locked by the caller.
        verify: Read every batch and compare index files; otherwise they are believed, as a start does.
        files: The file layer.

    Raises:
        StorageError: a file has a newer format, or two segments overlap.
        OSError: a file cannot be read.
    """
    files = files or Files()
    report = Report(folder, [], [], [])
    for partition, path in recovery.partitions(files, f"{folder}/{TOPICS}").items():
        found = recovery.recover(files, path, INTERVAL, trust=not verify)
        report.partitions.append(_partition(files, partition, found))
        report.findings += found.findings
        report.verified_bytes += found.scanned
    known = groups.load(files, folder)
    report.groups = sorted({group for group, _ in known.states})
    finding = _groups_finding(folder, known)
    if finding is not None:
        report.findings.append(finding)
    return report


def repair(folder: str, *, dry_run: bool = False, files: Files | None = None) -> Report:
    """Reads everything, cuts torn ends, notes damage as quarantined, rebuilds index files and damaged headers.

    No valid record is touched, and no damaged byte is removed but for torn ends.

    Args:
        folder: Of the log, locked by the caller.
        dry_run: Only say what would be done.
        files: The file layer.

    Returns:
        What was found before.

    Raises:
        StorageError: a file has a newer format, or two segments overlap: that takes a person.
        OSError: a file cannot be read or written.
    """
    files = files or Files()
    report = inspect(folder, verify=True, files=files)
    if dry_run:
        return report
    for path in recovery.partitions(files, f"{folder}/{TOPICS}").values():
        found = recovery.recover(files, path, INTERVAL, trust=False)
        if found.segments:
            _repair_partition(files, path, found)
    known = groups.load(files, folder)
    if _groups_finding(folder, known) is not None:
        replace_file(files, f"{folder}/{groups.NAME}", groups.contents(known.states))
        files.sync_folder(folder)
    return report


def _repair_partition(files: Files, path: str, found: Recovered) -> None:
    active = found.segments[-1]
    broken = {finding.segment for finding in found.findings if finding.kind == "header"}
    ends: list[tuple[Segment, dict[int, Standing]]] = [*found.bare, (active, found.producers)]
    for segment, producers in ends:
        fd = files.open(segment.path)
        try:
            if segment.path in broken or (segment is active and 0 <= found.torn < HEADER_SIZE):
                write_all(files, fd, [segments.header(segment.base, 0)], 0)
            if segment is active and found.torn >= HEADER_SIZE:
                files.truncate(fd, found.torn)
            files.sync(fd)
        finally:
            files.close(fd)
        if segment is active and found.next != segment.next:
            _begin_segment(
                files, path, found.next
            )  # so that the offsets of a lost end are not given out again
            segment.next = found.next
        first = max(found.first, segment.base)
        replace_file(files, segment.index_path, index.encode(segment, first, producers))
    files.sync_folder(path)


def _begin_segment(files: Files, path: str, base: int) -> None:
    fd = files.open(Segment(path, base).path, create=True)
    try:
        write_all(files, fd, [segments.header(base, 0)], 0)
        files.sync(fd)
    finally:
        files.close(fd)


def _partition(files: Files, partition: TopicPartition, found: Recovered) -> PartitionReport:
    return PartitionReport(
        partition.topic,
        partition.partition,
        found.first,
        found.next,
        sum(segment.size - HEADER_SIZE for segment in found.segments),
        _oldest_time(files, found),
        max((segment.max_time for segment in found.segments), default=0),
        [
            SegmentReport(
                segment.path,
                segment.base,
                segment.next,
                segment.size,
                segment.max_time,
                segment.certified == segment.size,
            )
            for segment in found.segments
        ],
        [hole for segment in found.segments for hole in segment.holes.values()],
        len(found.producers),
    )


def _oldest_time(files: Files, found: Recovered) -> int:
    """Append time of the first batch in the oldest file that has any."""
    for segment in found.segments:
        if segment.last_base >= 0:
            start = segment.holes[HEADER_SIZE].end if HEADER_SIZE in segment.holes else HEADER_SIZE
            fd = files.open_to_read(segment.path)
            try:
                return batches.peek(read_all(files, fd, batches.BATCH_HEADER_SIZE, start))[1]
            finally:
                files.close(fd)
    return 0


def _groups_finding(folder: str, known: groups.Contents) -> Finding | None:
    if not known.damaged and not known.torn:
        return None
    text = f"{known.damaged:,} bytes in the middle and {known.torn:,} at the end are no group state"
    return Finding("groups", f"{folder}/{groups.NAME}", text, bytes=known.damaged + known.torn)
