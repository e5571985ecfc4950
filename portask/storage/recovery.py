"""What is in a log, found out again from its files.

**What must hold.** Whatever happened to the files, every record whose bytes are still right is given back at its own
offset, what is lost is said by offset, and nothing is invented. Three things happen to files:

- A broker is killed, or the power fails, while it writes. Then the *end* of the newest segment is half a batch, or
  (after a power loss) zeros, or older than it was. Nothing behind it is valid. That end is cut off: the **tail rule**.
- Bytes rot, in the middle. Then valid batches follow (`portask.storage.damage` finds them). The range is
  **quarantined**: it stays in the file, the index notes it as a hole, readers skip it. Cutting at the first bad byte
  would throw away everything behind it.
- Files are missing or were cut by somebody. The offsets between what is there become a hole without bytes.

**How a batch is known as valid.** Its checksum holds, and its base offset is the one that must come next: the offsets
of a partition are dense. The second condition matters, since the broker's stamp stands outside the checksum. (The
append time stands there too, and nothing tells a wrong one: a flipped bit in it is not found.)

Segments with an index file are trusted up to the size it vouches for and not read: reads verify checksums anyhow, and
``portask log verify`` reads everything.
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage import index, segments
from portask.storage.damage import BATCH, Read, pick_up
from portask.storage.files import Files, read_all
from portask.storage.index import Certificate, Hole, Standing
from portask.storage.segments import HEADER_SIZE, Segment
from portask.wire.batches import BATCH_HEADER_SIZE, BATCH_VERSION

_WINDOW = 1 << 20
_REACH = 1 << 32  # a damaged range of the newest segment holds fewer records than that


class Finding(msgspec.Struct, frozen=True):
    """Something that was not as it should be.

    Attributes:
        kind: ``torn tail``, ``quarantined`` (damage that was not known), ``known hole``, ``index``, ``header``.
        segment: Path of the file.
        text: For people.
        first: First offset that is lost; -1 if none is.
        next: First offset behind those.
        start: Position in the file.
        bytes: How many are concerned.
    """

    kind: str
    segment: str
    text: str
    first: int = -1
    next: int = -1
    start: int = 0
    bytes: int = 0


class Recovered(msgspec.Struct):
    """A partition's log as its files tell it.

    Attributes:
        segments: In offset order; the last one is the active one.
        first: The oldest offset that retention left.
        producers: Where each producer stands.
        findings: What was wrong, in the order of the log.
        bare: Sealed segments without a good index file, each with where the producers stood at its end.
        next: The offset that the next append gets. Beyond the last segment's where its end was cut away by somebody.
        torn: Position in the active segment from where on it holds nothing valid, or -1. Not cut yet.
        scanned: Bytes of batches that were read.
    """

    segments: list[Segment]
    first: int
    producers: dict[int, Standing]
    findings: list[Finding]
    bare: list[tuple[Segment, dict[int, Standing]]] = []
    next: int = 0
    torn: int = -1
    scanned: int = 0


def partitions(files: Files, folder: str) -> dict[TopicPartition, str]:
    """The partitions in a ``topics`` folder and the folder of each, sorted."""
    found = {}
    for topic in files.names(folder):
        try:
            numbers = files.names(f"{folder}/{topic}")
        except NotADirectoryError:
            continue
        for number in numbers:
            partition = segments.partition_of(topic, number)
            if partition is not None:
                found[partition] = f"{folder}/{topic}/{number}"
    return dict(sorted(found.items()))


def recover(files: Files, folder: str, interval: int, *, trust: bool = True) -> Recovered:
    """Reads what is in a partition's folder. Changes no file.

    Args:
        files: The file layer.
        folder: Of the partition.
        interval: Bytes between index entries.
        trust: Believe index files; otherwise every batch is read, and index files are compared with them.

    Raises:
        StorageError: a segment has a newer format, or overlaps another.
        OSError: a file cannot be read.
    """
    names = files.names(folder)
    bases = [base for name in names if (base := segments.base_of(name)) is not None]
    indexed = {name for name in names if name.endswith(segments.INDEX_SUFFIX)}
    found = Recovered([], bases[0] if bases else 0, {}, [])
    for at, base in enumerate(bases):
        following = bases[at + 1] if at + 1 < len(bases) else None
        segment = Segment(folder, base)
        fd = files.open_to_read(segment.path)
        try:
            certificate = None
            if segment.index_path.rpartition("/")[2] in indexed:
                certificate = load_certificate(files, segment)
                if certificate is None:
                    text = "the index file is damaged: it will be rebuilt"
                    found.findings.append(Finding("index", segment.path, text))
            _recover_segment(
                files,
                fd,
                segment,
                found,
                following=following,
                certificate=certificate,
                interval=interval,
                trust=trust,
            )
        finally:
            files.close(fd)
        found.segments.append(segment)
        if following is not None and segment.certified != segment.size:
            found.bare.append((segment, dict(found.producers)))
    if found.segments:
        found.next = max(found.next, found.segments[-1].next)
        found.first = min(max(found.first, found.segments[0].base), found.next)
    return found


def _recover_segment(
    files: Files,
    fd: int,
    segment: Segment,
    found: Recovered,
    *,
    following: int | None,
    certificate: Certificate | None,
    interval: int,
    trust: bool,
) -> None:
    size = files.size(fd)

    def read(length: int, at: int) -> bytes:
        return read_all(files, fd, length, at)

    problem = segments.header_problem(read(HEADER_SIZE, 0), segment.base, segment.path)
    if problem is not None and not (following is None and size < HEADER_SIZE):
        found.findings.append(Finding("header", segment.path, problem, bytes=HEADER_SIZE))
    if certificate is not None and not found.segments:
        found.first = certificate.first
    if certificate is not None and trust and certificate.size <= size:
        # the entries are needed now only if more come behind them
        entries = load_entries(files, segment, certificate) if certificate.size < size else None
        if entries is not None or certificate.size == size:
            adopt(segment, certificate, entries)
            found.producers = dict(certificate.producers)
    if segment.size < size:
        found.scanned += size - segment.size
        ceiling = segment.next + _REACH if following is None else following
        scan(
            read,
            segment,
            size,
            ceiling=ceiling,
            interval=interval,
            producers=found.producers,
            tail=following is None,
        )
    if following is not None:
        _close_gap(segment, size, following)
    elif segment.size != size:
        found.torn = segment.size if size > HEADER_SIZE else 0
    if certificate is not None and certificate.size > size:
        _cut_by_somebody(segment, certificate, size, following, found)
    _report(segment, size, certificate.holes if certificate is not None else [], found)
    if certificate is not None and not trust:
        _compare(read, files, segment, certificate, found)


def _cut_by_somebody(
    segment: Segment, certificate: Certificate, size: int, following: int | None, found: Recovered
) -> None:
    """The index file vouches for more than there is. The offsets that are gone are not given out again."""
    text = (
        f"the index file vouches for {certificate.size:,} bytes, and there are {size:,}: it will be rebuilt"
    )
    found.findings.append(Finding("index", segment.path, text))
    if following is None and certificate.next > segment.next:
        found.next = certificate.next
        segment.holes[segment.size] = Hole(segment.size, segment.size, segment.next, certificate.next)


def _close_gap(segment: Segment, size: int, following: int) -> None:
    """What a sealed segment lacks up to the next one is a hole."""
    if segment.next > following:
        raise StorageError(
            f"{segment.path} goes on to offset {segment.next:,}, where the next file begins at {following:,}: "
            f"one of them is not of this log; move it away"
        )
    if segment.next < following or segment.size < size:
        hole = Hole(segment.size, max(size, segment.size), segment.next, following)
        segment.holes[hole.start] = hole
        segment.size, segment.next = hole.end, following


def _report(segment: Segment, size: int, known: list[Hole], found: Recovered) -> None:
    for hole in segment.holes.values():
        lost = f"offsets {hole.first:,} to {hole.next - 1:,}" if hole.next > hole.first else "no offset"
        text = f"{hole.end - hole.start:,} bytes at {hole.start:,} hold no valid batch: {lost} lost"
        kind = "known hole" if hole in known else "quarantined"
        found.findings.append(
            Finding(kind, segment.path, text, hole.first, hole.next, hole.start, hole.end - hole.start)
        )
    torn = size - found.torn if found.torn >= 0 else 0
    if torn:
        text = f"the last {torn:,} bytes hold no valid batch: they will be cut off"
        found.findings.append(Finding("torn tail", segment.path, text, -1, -1, found.torn, torn))


def _compare(read: Read, files: Files, segment: Segment, certificate: Certificate, found: Recovered) -> None:
    """An index file that says something else than the log."""
    problem = ""
    said = (certificate.next, certificate.last_base, certificate.max_time)
    if certificate.size == segment.size and said != (segment.next, segment.last_base, segment.max_time):
        problem = f"says next offset {certificate.next:,}, the log {segment.next:,}"
    entries = load_entries(files, segment, certificate)
    if entries is None:
        problem = "is damaged"
    else:
        for base, position in zip(entries.bases, entries.positions, strict=True):
            if position < segment.size and int.from_bytes(read(8, position), "little") != base:
                problem = f"says that offset {base:,} is at {position:,}, and it is not"
                break
    if problem:
        text = f"the index file {problem}: it will be rebuilt"
        found.findings.append(Finding("index", segment.path, text))


def load_certificate(files: Files, segment: Segment) -> Certificate | None:
    """The head of the segment's index file; ``None`` if there is none or it is damaged."""
    try:
        fd = files.open_to_read(segment.index_path)
    except FileNotFoundError:
        return None
    try:
        head = read_all(files, fd, min(4096, files.size(fd)), 0)
        need = index.head_size(head)
        if need > len(head):
            head = read_all(files, fd, min(need, files.size(fd)), 0)
    finally:
        files.close(fd)
    certificate = index.decode(head)
    return certificate if certificate is not None and certificate.base == segment.base else None


def load_entries(files: Files, segment: Segment, certificate: Certificate) -> index.SparseIndex | None:
    """The entries of the segment's index file; ``None`` if they are damaged."""
    fd = files.open_to_read(segment.index_path)
    try:
        data = read_all(files, fd, 24 * certificate.entries, certificate.entries_at)
    finally:
        files.close(fd)
    return index.decode_entries(data, certificate.entries, certificate.entries_check)


def adopt(segment: Segment, certificate: Certificate, entries: index.SparseIndex | None) -> None:
    """Takes what an index file says for what the segment holds. ``None`` leaves its entries on disk for now."""
    segment.size = segment.certified = certificate.size
    segment.next = certificate.next
    segment.max_time = certificate.max_time
    segment.last_base = certificate.last_base
    segment.holes = {hole.start: hole for hole in certificate.holes}
    segment.index = entries


def scan(
    read: Read,
    segment: Segment,
    end: int,
    *,
    ceiling: int,
    interval: int,
    producers: dict[int, Standing],
    tail: bool = False,
) -> None:
    """Reads the batches of a segment from its known size on up to ``end``, about 0.7 µs each and their checksums.

    Extends what ``segment`` says of itself, damaged ranges with valid batches behind them included. Stops behind the
    last valid batch.

    Args:
        read: Of the segment's file.
        segment: Its `size` and `next` say where to begin.
        end: Position to read up to.
        ceiling: Offset that no record in it reaches beyond.
        interval: Bytes between index entries.
        producers: Updated.
        tail: Whether ``end`` is where a killed process may have stopped writing.
    """
    entries = segment.index if segment.index is not None else index.SparseIndex()
    segment.index = entries
    position, expected = segment.size, segment.next
    ahead: list[tuple[int, int]] = []
    noted = entries.positions[-1] if entries.positions else -interval
    window = memoryview(b"")
    window_at = position
    unpack = BATCH.unpack_from
    while position < end:
        at = position - window_at
        if len(window) - at < BATCH_HEADER_SIZE:
            window, window_at, at = memoryview(read(min(_WINDOW, end - position), position)), position, 0
        stop = 0
        if len(window) - at >= BATCH_HEADER_SIZE:
            base, time, length, check, version, _, _, count, producer, epoch, sequence = unpack(window, at)
            if (
                base == expected
                and version == BATCH_VERSION
                and BATCH_HEADER_SIZE < length <= end - position
                and count
                and base + count <= ceiling
            ):
                if at + length > len(window):
                    window, window_at = (
                        memoryview(read(min(max(_WINDOW, length), end - position), position)),
                        position,
                    )
                    at = 0
                stop = at + length
                if stop > len(window) or crc32c(window[at + 24 : stop]) != check:
                    stop = 0
        if not stop:
            ahead = [known for known in ahead if known[0] > position] or pick_up(
                read, position, end, expected, ceiling, tail=tail
            )
            if not ahead:
                break
            segment.holes[position] = Hole(position, ahead[0][0], expected, ahead[0][1])
            position, expected = ahead.pop(0)
            continue
        if position - noted >= interval:
            entries.add(base, max(time, segment.max_time), position)
            noted = position
        if time > segment.max_time:  # noqa: PLR1730 - once a batch
            segment.max_time = time
        if producer:
            last = count - 1
            producers[producer] = (epoch, (sequence + last) & 0xFFFFFFFF, base + last)
        segment.last_base = base
        expected = base + count
        position = window_at + stop
        segment.size, segment.next = position, expected
