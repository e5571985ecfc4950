"""What the log asks of the operating system, and nothing else: a dozen calls that tests replace.

Every byte that the log reads or writes goes through one `Files`. A test hands in another one that runs out of room,
reports I/O errors, or forgets what was not synced.

The log keeps few files open, however many segments it has: `OpenFiles` closes those that were not used lately.
"""

# ruff: noqa: PTH102, PTH105, PTH108, PTH208 - one system call each, on plain strings
from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from portask.errors import StorageError, StorageFull
from portask.messages import Buffer

if TYPE_CHECKING:
    from portask.storage.segments import Segment

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors that mean: no room. The last one is that of `ulimit -f`, and of file systems with a limit of their own."""
PARTS = 1024
"""Buffers that one call takes (IOV_MAX on Linux)."""
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has none


def _find_syncfs() -> Callable[[int], None] | None:
    """``syncfs(2)``, where it reports errors (Linux 5.8): the device's cache and journal once, however many files."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release) if sys.platform == "linux" else None
    if release is None or (int(release[1]), int(release[2])) < (5, 8):
        return None
    import ctypes  # noqa: PLC0415 - only needed here

    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None

    def syncfs(fd: int) -> None:
        if call(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


_syncfs = _find_syncfs()


class Files:
    """The operating system's own. All methods raise `OSError`."""

    def open(self, path: str, *, create: bool = False) -> int:
        """A file descriptor to read and write; ``create`` makes the file when it is not there."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)

    def open_to_read(self, path: str) -> int:
        """A file descriptor to read only."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Gives the descriptor back."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Bytes in the file."""
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, at: int) -> bytes:
        """Up to ``size`` bytes from position ``at``."""
        return os.pread(fd, size, at)

    def write(self, fd: int, parts: Sequence[Buffer], at: int) -> int:
        """Writes ``parts`` behind one another at position ``at``; returns how many bytes came to the kernel."""
        return os.pwritev(fd, parts, at)

    def truncate(self, fd: int, size: int) -> None:
        """Cuts the file."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Returns once the file's content is on the device."""
        _sync(fd)

    @property
    def syncs_all(self) -> bool:
        """Whether `sync_all` is one call."""
        return _syncfs is not None

    def sync_all(self, fds: Sequence[int], root: int) -> None:
        """As `sync` for every one of ``fds``, by one call for the whole file system where that is possible.

        Args:
            fds: The files.
            root: Descriptor of the log's folder, opened before the first write: a file system reports an error of
                writing back once to every descriptor that was open when it happened.
        """
        if _syncfs is not None:
            device = os.fstat(root).st_dev
            fds = [fd for fd in fds if os.fstat(fd).st_dev != device]
            _syncfs(root)
        for fd in fds:
            self.sync(fd)

    def sync_folder(self, path: str) -> None:
        """Returns once the names in the folder are on the device."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_folder(self, path: str) -> bool:
        """Makes the folder; false if it was there."""
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        """What is in the folder, sorted."""
        return sorted(os.listdir(path))

    def rename(self, old: str, new: str) -> None:
        """Gives the file a name, taking it from another if need be. Atomic."""
        os.replace(old, new)

    def remove(self, path: str) -> None:
        """Removes the file; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def write_all(files: Files, fd: int, parts: Sequence[Buffer], at: int) -> None:
    """Writes all of ``parts`` at ``at``, however many calls that takes.

    Raises:
        OSError: not all of it could be written.
    """
    write_rest(files, fd, parts, at, 0)


def write_rest(files: Files, fd: int, parts: Sequence[Buffer], at: int, written: int) -> None:
    """As `write_all`, with the first ``written`` bytes already there.

    Raises:
        OSError: not all of it could be written.
    """
    size = sum(map(len, parts))
    while written < size:
        rest: list[Buffer] = []
        skip = written
        for part in parts:
            if skip >= len(part):
                skip -= len(part)
            elif len(rest) < PARTS:
                rest.append(memoryview(part)[skip:])
                skip = 0
        step = files.write(fd, rest, at + written)
        if step <= 0:
            raise OSError(errno.EIO, "the kernel takes no more bytes")
        written += step


def read_all(files: Files, fd: int, size: int, at: int) -> bytes:
    """``size`` bytes from ``at``; fewer only where the file ends.

    Raises:
        OSError: they cannot be read.
    """
    data = files.read(fd, size, at)
    while len(data) < size:
        more = files.read(fd, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def replace_file(files: Files, path: str, content: bytes) -> None:
    """Writes the file anew, so that a crash leaves the old or the new content, whole. The folder is not synced.

    Raises:
        OSError: it could not be written; the old content is still there.
    """
    new = f"{path}.new"
    fd = files.open(new, create=True)
    try:
        files.truncate(fd, 0)
        write_all(files, fd, [content], 0)
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(new, path)


def explained(error: OSError, doing: str) -> StorageError:
    """An operating system's error as one of ours, with what to do about it."""
    if error.errno in FULL:
        return StorageFull(
            f"no room on the device for {doing}: make some, or lower the retention; reading goes on"
        )
    return StorageError(
        f"cannot write {doing}: {error.strerror or error}; nothing of it was kept: see to the device, and try again"
    )


class OpenFiles:
    """Opens segments when they are used and keeps at most about ``limit`` of them open.

    Those that were not used lately are closed first; one that the syncing thread works on (``pins``) stays open.
    """

    def __init__(self, files: Files, limit: int) -> None:
        self._files = files
        self._limit = max(limit, 1)
        self._open: deque[Segment] = deque()

    def fd(self, segment: Segment) -> int:
        """The segment's descriptor.

        Raises:
            OSError: it cannot be opened.
        """
        segment.used = True
        if segment.fd < 0:
            segment.fd = self._files.open(segment.path)
            self._open.append(segment)
            if len(self._open) > self._limit:
                self._close_some()
        return segment.fd

    def adopt(self, segment: Segment, fd: int) -> None:
        """Takes over a descriptor that somebody else opened."""
        segment.fd = fd
        self._open.append(segment)
        if len(self._open) > self._limit:
            self._close_some()

    def close(self, segment: Segment) -> None:
        """Closes the segment's file, if it is open."""
        if segment.fd >= 0:
            self._open.remove(segment)
            fd, segment.fd = segment.fd, -1
            if segment.certified == segment.size:
                segment.index = None  # it can be had from the index file again
            self._files.close(fd)

    def close_all(self) -> None:
        """Closes every file."""
        while self._open:
            self.close(self._open[0])

    def _close_some(self) -> None:
        # second chance: one that was used since the last look goes to the end of the line once
        for _ in range(2 * len(self._open)):
            segment = self._open[0]
            if len(self._open) <= self._limit or segment is self._open[-1]:
                return
            if segment.used or segment.pins:
                segment.used = False
                self._open.rotate(-1)
            else:
                self.close(segment)
