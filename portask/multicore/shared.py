"""What workers share beside rings: eventfds to wake each other, and a page on which each counts its clients."""

from __future__ import annotations

import mmap
import os

WORDS = 512


class EventBell:
    """An eventfd that wakes a worker. Implements `portask.multicore.broker.Bell`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def heard(self) -> bool:
        """Whether it rang; about 1 µs."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        return True

    def ring(self) -> None:
        """Rings it; about 0.3 µs."""
        os.eventfd_write(self.fd, 1)


class Board:
    """One word for each worker, written by that worker and read by all. A word is stored and loaded whole."""

    def __init__(self, fd: int) -> None:
        """``fd`` is a memfd of `WORDS` words."""
        self._words = memoryview(mmap.mmap(fd, WORDS * 8)).cast("Q")

    def set(self, place: int, count: int) -> None:
        """The worker has so many clients."""
        self._words[place] = count

    def total(self) -> int:
        """Of all workers; for so many that it takes a µs, with hundreds."""
        return sum(self._words)


def make_board() -> int:
    """Memory for a board; a file descriptor."""
    fd = os.memfd_create("portask-board", os.MFD_CLOEXEC)
    os.ftruncate(fd, WORDS * 8)
    return fd
