r"""One file of a partition's log: a header, then record batches back to back, byte for byte as they travel.

::

    off size field                    little-endian, "<8sHHIQQ28xI"
      0    8 magic                    "PORTLOG\n"
      8    2 format version           1
     10    2 header size              64
     12    4 flags                    0
     16    8 base offset              of the first record; also the file's name
     24    8 created                  µs since the epoch
     32   28 zero
     60    4 CRC32C                   of bytes 0..59

A header whose checksum holds and whose version is newer is refused: a program that does not know the format must not
append to it. A damaged header is reported and otherwise ignored, for the file's name says the same.

What a segment holds is told by its index file (`portask.storage.index`), or found by reading it
(`portask.storage.recovery`).
"""

from __future__ import annotations

from struct import Struct
from urllib.parse import quote, unquote

from crc32c import crc32c

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage.index import Hole, SparseIndex

FORMAT_VERSION = 1
HEADER_SIZE = 64
SUFFIX = ".log"
INDEX_SUFFIX = ".index"
_HEADER = Struct("<8sHHIQQ28xI")
_MAGIC = b"PORTLOG\n"
_LONGEST_NAME = 255


class Segment:
    """What is known about one segment file.

    Attributes:
        base: Offset of its first record.
        path: Of the file.
        size: Position behind its last batch.
        next: Offset behind its last record.
        max_time: Newest append time in it, µs; 0 when it is empty.
        last_base: Base offset of its newest batch, -1 when it is empty.
        holes: Quarantined ranges by start position.
        index: Sparse index; ``None`` while it is still on disk.
        certified: Size that the index file vouches for.
        fd: Open descriptor or -1; `portask.storage.files.OpenFiles` owns it.
        pins: Syncs under way that need ``fd``.
        used: Whether ``fd`` was used lately.
    """

    __slots__ = (
        "base",
        "certified",
        "fd",
        "holes",
        "index",
        "last_base",
        "max_time",
        "next",
        "path",
        "pins",
        "size",
        "used",
    )

    def __init__(self, folder: str, base: int) -> None:
        self.base = self.next = base
        self.path = f"{folder}/{base:020}{SUFFIX}"
        self.size = HEADER_SIZE
        self.max_time = 0
        self.last_base = -1
        self.holes: dict[int, Hole] = {}
        self.index: SparseIndex | None = SparseIndex()
        self.certified = 0
        self.fd = -1
        self.pins = 0
        self.used = False

    @property
    def index_path(self) -> str:
        """Of its index file."""
        return self.path.removesuffix(SUFFIX) + INDEX_SUFFIX


def header(base: int, created: int) -> bytes:
    """The first bytes of a segment file."""
    plain = _HEADER.pack(_MAGIC, FORMAT_VERSION, HEADER_SIZE, 0, base, created, 0)[:-4]
    return plain + crc32c(plain).to_bytes(4, "little")


def header_problem(data: bytes, base: int, path: str) -> str | None:
    """What is wrong with a segment's header; ``None`` if nothing is.

    Raises:
        StorageError: it is whole, and of a format that this version does not know.
    """
    if len(data) < HEADER_SIZE:
        return f"the header is {len(data)} bytes long, not {HEADER_SIZE}"
    magic, version, size, _, own, _, check = _HEADER.unpack_from(data)
    if crc32c(data[: HEADER_SIZE - 4]) != check or magic != _MAGIC:
        return "the header is damaged"
    if version > FORMAT_VERSION or size != HEADER_SIZE:
        raise StorageError(
            f"{path} has format version {version}, and this program knows {FORMAT_VERSION}: use a newer portask"
        )
    if own != base:
        return f"the header says base offset {own:,}, the file's name {base:,}"
    return None


def base_of(name: str) -> int | None:
    """The base offset in a segment file's name; ``None`` if it is not one."""
    stem = name.removesuffix(SUFFIX)
    return int(stem) if stem != name and len(stem) == 20 and stem.isascii() and stem.isdigit() else None


def folder_names(partition: TopicPartition) -> tuple[str, str]:
    """The names of a partition's folder and the one above it: topic and number, with what is unsafe in %xx.

    Raises:
        StorageError: the topic's name is too long for a file system.
    """
    name = quote(partition.topic, safe="")
    if name.startswith(".") or not name:
        name = f"%2E{name[1:]}" if name else "%"
    if len(name) > _LONGEST_NAME:
        raise StorageError(
            f"the topic name {partition.topic[:40]!r}… takes {len(name)} bytes as a folder's name: "
            f"{_LONGEST_NAME} is the most"
        )
    return name, str(partition.partition)


def partition_of(topic_folder: str, number_folder: str) -> TopicPartition | None:
    """The partition that lies in folders of these names; ``None`` if they are not ours."""
    if not (number_folder.isascii() and number_folder.isdigit()):
        return None
    topic = "" if topic_folder == "%" else unquote(topic_folder)
    partition = TopicPartition(topic, int(number_folder))
    try:
        return partition if folder_names(partition) == (topic_folder, number_folder) else None
    except StorageError:
        return None
