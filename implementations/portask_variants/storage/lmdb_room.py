"""The file that LMDB maps: allocated before LMDB may write to it, with a part that is kept for trims."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portask.errors import StorageFull
from portask.storage.files import FULL, explained
from portask_variants.storage.database import Work

_ENDLESS = 1 << 44
"""16 TiB: the limit where nothing bounds the file but the device."""
_STEP = 1 << 20
"""Bytes by which the file grows at least, and that trims have for themselves at most."""
_OVERHEAD = 4
"""Pages that a transaction takes beside those of the tree: LMDB keeps a list of what is free in the file, too."""
_LONGEST_KEY = 511
_allocate = getattr(os, "posix_fallocate", lambda _fd, _at, _size: None)  # macOS has none


class Room:
    """How large the file is, and how much of it appends may have.

    Args:
        path: The database's file; it is there.
        limit: Bytes that it may have; 0 for what the device holds.

    Attributes:
        mapping: Held by whoever reads: the map may only move while nobody does.
        size: Of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.mapping = threading.Lock()
        self._path = path
        self._limit = limit or _ENDLESS
        self._spare = min(_STEP, self._limit // 4)
        self._left = 0  # bytes that appends may certainly have
        self._depth = 2  # of the tree, about
        self._env: Any = None
        self._page = 1
        # Held open: a close while LMDB has the file open would end its locks (lmdb.h, "Caveats").
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def adopt(self, env: Any) -> None:
        """The environment in the file is open."""
        self._env = env
        self._page = env.stat()["psize"]

    def reserve(self, works: Sequence[Work]) -> None:
        """Sees to it that ``works`` can be stored without what trims may need.

        Raises:
            StorageFull: there is no room.
        """
        size = self._needs(works)
        if size > self._left:
            stat = self._env.stat()
            self._depth = max(stat["depth"], 1) + 1
            size = self._needs(works)
            used = (2 + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * self._page
            self._left = min(self.size, self._limit) - self._spare - used
            if size > self._left:
                self._left += self.grow(size - self._left)
            if size > self._left:
                raise self._full()
        self._left -= size

    def _needs(self, works: Sequence[Work]) -> int:
        """Bytes of the file that storing ``works`` may take."""
        page, large = self._page, self._page // 2 - 100
        sizes = [len(batch) for work in works for part in work.parts for batch in part.turn.parts]
        sizes += [len(state.state) + _LONGEST_KEY for work in works for state in work.states]
        size = sum(-(-(each + 16) // page) * page for each in sizes if each > large)
        size += sum(2 * each for each in sizes if each <= large)  # pages may be left half full
        touched = sum(len(work.parts) + len(work.states) + len(work.drops) for work in works)
        return size + (_OVERHEAD + (1 + touched) * self._depth) * page

    def recount(self) -> None:
        """Something was freed: the next `reserve` looks how much."""
        self._left = 0

    def grow(self, size: int = _STEP) -> int:
        """Allocates ``size`` bytes more, or as many as it takes to do so seldom, and maps them; returns how many.

        Raises:
            StorageFull: the limit is reached, or the device is full.
            StorageError: the device refuses for another reason.
        """
        before = self.size
        for wanted in (max(size, _STEP, before // 8), size):
            end = min(before + wanted + self._page - 1, self._limit) // self._page * self._page
            if end <= before:
                raise self._full()
            try:
                _allocate(self._fd, before, end - before)
            except OSError as error:
                if error.errno not in FULL or wanted == size:
                    raise explained(error, str(self._path)) from error
                continue
            with self.mapping:
                self._env.set_mapsize(end)
            self.size = end
            break
        return self.size - before

    def _full(self) -> StorageFull:
        return StorageFull(
            f"{self._path} has the {self._limit:,} bytes that it may have: trim, or raise storage.options.max_bytes"
        )

    def close(self) -> None:
        """Closes the file, after the environment."""
        os.close(self._fd)
