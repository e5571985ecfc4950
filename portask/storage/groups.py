r"""What consumer groups know about partitions, in one file beside the topics: ``groups.log``.

A change is appended, and of several for one group and partition the last one counts::

    off size field              little-endian
      0   16 "PORTGRP\n", format version (2), zero (6)
    then records:
      0    4 magic              "GRP\x01"
      4    4 length of the body
      8    4 CRC32C of the body
     12      body               MessagePack: [group, topic, partition, state]; state nil: the group is dropped

When most of the file is out of date it is written anew, synced, and put in the old one's place. On a start a torn end
is cut off; damage in the middle is skipped to the next record whose checksum holds, and reported: those groups go back
to the state before, so their members see some records again.
"""

from __future__ import annotations

from struct import Struct

import msgspec
import structlog
from crc32c import crc32c

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage.files import Files, read_all, replace_file, write_all
from portask.storage.turns import Saved

log = structlog.get_logger("portask.storage")

NAME = "groups.log"
_VERSION = 1
_FACE = b"PORTGRP\n" + _VERSION.to_bytes(4, "little")
_HEADER = _FACE + crc32c(_FACE).to_bytes(4, "little")
_MAGIC = b"GRP\x01"
_RECORD = Struct("<4sII")
_COMPACT_ABOVE = 4 << 20

Key = tuple[str, TopicPartition]
_Body = tuple[str, str, int, bytes | None]


class Contents(msgspec.Struct):
    """What a groups file holds.

    Attributes:
        states: The newest state of every group and partition.
        size: Position behind the last whole record.
        damaged: Bytes before its end that are no record.
        torn: Bytes behind its end.
    """

    states: dict[Key, bytes]
    size: int
    damaged: int = 0
    torn: int = 0


class GroupLog:
    """The states, and the file that keeps them. Everything is in RAM too.

    Attributes:
        pending: Saves since the last write, with their callbacks.
        fd: Of the file; -1 until the first write.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self._path = f"{folder}/{NAME}"
        self.fd = -1
        self._size = 0
        self._compact_at = _COMPACT_ABOVE
        self._dirty_tail = False
        self.pins = 0
        self.states: dict[Key, bytes] = {}
        self.pending: dict[Key, tuple[bytes, list[Saved]]] = {}
        self._dropped: list[str] = []

    def restore(self) -> Contents:
        """Reads the file, and cuts its torn end.

        Raises:
            StorageError: it is of a newer format.
            OSError: it cannot be read.
        """
        found = load(self._files, self._folder)
        self.states = found.states
        if found.size:
            self.fd = self._files.open(self._path)
            self._files.truncate(self.fd, found.size)
            write_all(self._files, self.fd, [_HEADER], 0)
            self._size = found.size
        elif found.damaged:
            self._files.rename(self._path, f"{self._path}.damaged")  # nothing in it is ours to lose
        return found

    def save(self, group: str, partition: TopicPartition, state: bytes, done: Saved) -> None:
        """Keeps the state with the next `write`."""
        waiting = self.pending.get((group, partition))
        callbacks = [done] if waiting is None else [*waiting[1], done]
        self.pending[group, partition] = (state, callbacks)

    def drop(self, group: str) -> list[Saved]:
        """Forgets a group with the next `write`; returns the callbacks of saves that are no longer needed."""
        for key in [key for key in self.states if key[0] == group]:
            del self.states[key]
        released: list[Saved] = []
        for key in [key for key in self.pending if key[0] == group]:
            released += self.pending.pop(key)[1]
        self._dropped.append(group)
        return released

    @property
    def waiting(self) -> bool:
        """Whether `write` has something to do."""
        return bool(self.pending) or bool(self._dropped)

    def write(self) -> tuple[list[Saved], OSError | None]:
        """Hands what waits to the kernel; returns the callbacks of the saves, and why none was kept if so."""
        pending, self.pending = self.pending, {}
        callbacks = [done for _, waiting in pending.values() for done in waiting]
        parts = [encode((group, "", 0, None)) for group in self._dropped]
        parts += [
            encode((group, at.topic, at.partition, state)) for (group, at), (state, _) in pending.items()
        ]
        try:
            self._append(b"".join(parts))
        except OSError as error:
            return callbacks, error
        self._dropped.clear()
        self.states.update((key, state) for key, (state, _) in pending.items())
        return callbacks, None

    def _append(self, data: bytes) -> None:
        if self.fd < 0:
            fd = self._files.open(self._path, create=True)
            try:
                self._files.truncate(fd, 0)
                write_all(self._files, fd, [_HEADER], 0)
                self._files.sync_folder(self._folder)
            except OSError:
                self._files.close(fd)
                raise
            self.fd, self._size = fd, len(_HEADER)
        if self._dirty_tail:
            self._files.truncate(self.fd, self._size)
            self._dirty_tail = False
        try:
            write_all(self._files, self.fd, [data], self._size)
        except OSError:
            self._dirty_tail = True
            raise
        self._size += len(data)

    def compact(self) -> None:
        """Writes only what counts, once most of the file does not. Stands still while the device takes it.

        Raises:
            OSError: the new file may or may not be in the place of the old one after a power loss.
        """
        if self._size < self._compact_at or self.pins:
            return
        data = contents(self.states)
        self._compact_at = max(_COMPACT_ABOVE, 2 * len(data))
        if self._size < self._compact_at:
            return
        try:
            replace_file(self._files, self._path, data)
            fd = self._files.open(self._path)
        except OSError as error:
            self._compact_at = 2 * self._size  # the old file is as good; later
            log.warning("groups file not compacted", reason=error.strerror or str(error))
            return
        self._files.close(self.fd)
        self.fd, self._size = fd, len(data)
        self._files.sync_folder(self._folder)

    def close(self) -> None:
        """Closes the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._files.close(fd)


def contents(states: dict[Key, bytes]) -> bytes:
    """A whole file that says just this."""
    records = [encode((group, at.topic, at.partition, state)) for (group, at), state in states.items()]
    return _HEADER + b"".join(records)


def encode(body: _Body) -> bytes:
    """One record of the file."""
    data = msgspec.msgpack.encode(body)
    return _RECORD.pack(_MAGIC, len(data), crc32c(data)) + data


def load(files: Files, folder: str) -> Contents:
    """What the groups file in ``folder`` holds; nothing if there is none. Changes nothing.

    Raises:
        StorageError: it is of a newer format.
        OSError: it cannot be read.
    """
    try:
        fd = files.open_to_read(f"{folder}/{NAME}")
    except FileNotFoundError:
        return Contents({}, 0)
    try:
        data = read_all(files, fd, files.size(fd), 0)
    finally:
        files.close(fd)
    if len(data) < len(_HEADER):
        return Contents({}, 0, torn=len(data))
    whole = data[:8] == _HEADER[:8] and crc32c(data[:12]) == int.from_bytes(data[12:16], "little")
    version = int.from_bytes(data[8:10], "little")
    if whole and version > _VERSION:
        raise StorageError(
            f"{folder}/{NAME} has format version {version}, and this program knows {_VERSION}: use a newer portask"
        )
    found = _parse(data)
    found.torn = len(data) - found.size
    if not whole:
        found.damaged += len(_HEADER)
        found.size = found.size if found.states else 0
    return found


def _parse(data: bytes) -> Contents:
    found = Contents({}, len(_HEADER))
    position = len(_HEADER)
    while (behind := _next_record(data, position)) is not None:
        at, end = behind
        found.damaged += at - position
        position = found.size = end
        group, topic, number, state = msgspec.msgpack.decode(data[at + _RECORD.size : end], type=_Body)
        if state is not None:
            found.states[group, TopicPartition(topic, number)] = state
        else:
            for key in [key for key in found.states if key[0] == group]:
                del found.states[key]
    return found


def _next_record(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the first whole record at or behind ``position`` begins and ends."""
    at = data.find(_MAGIC, position)
    while at >= 0:
        if len(data) - at > _RECORD.size:
            _, length, check = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + length
            if end <= len(data) and crc32c(memoryview(data)[at + _RECORD.size : end]) == check:
                return at, end
        at = data.find(_MAGIC, at + 1)
    return None
