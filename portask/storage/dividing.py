"""One log for several workers: a folder each, and everything in the folder of who owns it.

::

    FOLDER/workers             says how many there are; not there for one, whose log is FOLDER itself
    FOLDER/moving              there while partitions are on their way between folders
    FOLDER/worker-NUMBER/…     a log as `portask.storage.segment_log` has it

`divide` brings what it finds, for however many workers, into the form for as many as there are now. Partitions are
moved, a rename each; nothing is copied, and no record is looked at. What groups know is written to its new place before
it is removed from the old one. So at any moment everything is there once, or, of groups, twice and alike: a crash
loses nothing, and the next `divide` finishes, whatever number it is for. While ``moving`` is there, and where
``workers`` says so, nobody opens FOLDER as one log.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage import groups, recovery
from portask.storage.files import Files, replace_file
from portask.storage.lock import KIND, MOVING, WORKERS, FolderLock, claim
from portask.storage.lock import NAME as LOCK

log = structlog.get_logger("portask.storage")

PREFIX = "worker-"
TOPICS = "topics"

Owner = Callable[[TopicPartition], int]


def divide(kind: str, path: str | Path, places: int, owner: Owner, files: Files | None = None) -> Divided:
    """Brings the log in a folder into the form for so many workers, and keeps others out of it.

    Args:
        kind: Name of the storage variant.
        path: The folder; made if it is not there.
        places: How many workers; 1 for a log that is one.
        owner: Who has a partition, from 0.
        files: The file layer; tests hand in one that fails.

    Raises:
        StorageError: another process uses it, it holds something else, or a partition is there twice.
        OSError: it cannot be read or written.
    """
    files = files or Files()
    folder = os.fspath(path)
    Path(path).mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        lock = FolderLock(folder)
        undo.callback(lock.release)
        claim(files, folder, kind, divided=True)
        move = _Move(files, folder, kind, places, owner)
        if move.needed:
            move.run()
        undo.pop_all()
    return Divided(lock, move.targets)


class Divided:
    """A divided folder, locked.

    Attributes:
        paths: Each worker's own.
    """

    def __init__(self, lock: FolderLock, paths: list[str]) -> None:
        self._lock = lock
        self.paths = paths

    def close(self) -> None:
        """Lets others in. Idempotent."""
        self._lock.release()


class _Move:
    def __init__(self, files: Files, folder: str, kind: str, places: int, owner: Owner) -> None:
        self._files = files
        self._folder = folder
        self._kind = kind
        self._places = places
        self._owner = owner
        self.targets = [folder] if places == 1 else [f"{folder}/{PREFIX}{place}" for place in range(places)]
        names = files.names(folder)
        old = [name for name in names if name.removeprefix(PREFIX).isdecimal() and name.startswith(PREFIX)]
        self._sources = [folder, *(f"{folder}/{name}" for name in old)]
        here = _count(files, folder) if WORKERS in names else 1
        self.needed = MOVING in names or here != places
        self._partitions = {source: self._found(source) for source in self._sources}

    def _found(self, source: str) -> dict[TopicPartition, str]:
        try:
            return recovery.partitions(self._files, f"{source}/{TOPICS}")
        except FileNotFoundError:
            return {}

    def run(self) -> None:
        """Moves everything to where it belongs."""
        files, folder = self._files, self._folder
        with ExitStack() as locks:
            for source in self._sources[1:]:
                locks.callback(FolderLock(source).release)
            _write(files, folder, MOVING, f"for {self._places}\n")
            for target in self.targets:
                if files.make_folder(target):
                    files.sync_folder(folder)
                claim(files, target, self._kind, divided=True)
                files.make_folder(f"{target}/{TOPICS}")
                files.sync_folder(target)
            moved = self._move_partitions()
            self._move_groups()
            for source in self._sources:
                if source not in self.targets:
                    self._empty(source)
        for source in self._sources[1:]:
            if source not in self.targets:
                self._remove(source)
        if self._places == 1:
            files.remove(f"{folder}/{WORKERS}")
        else:
            _write(files, folder, WORKERS, f"{self._places}\n")
        files.sync_folder(folder)
        files.remove(f"{folder}/{MOVING}")
        files.sync_folder(folder)
        log.info("log divided", folder=folder, workers=self._places, moved_partitions=moved)

    def _move_partitions(self) -> int:
        files = self._files
        moves: list[tuple[str, str]] = []
        taken: dict[TopicPartition, str] = {}
        for source, found in self._partitions.items():
            for key, place in found.items():
                if key in taken:
                    raise StorageError(
                        f"{key} is in {taken[key]} and in {place}: nothing was moved; take one of them away"
                    )
                taken[key] = place
                target = self.targets[self._owner(key)]
                if target != source:
                    moves.append((place, f"{target}/{TOPICS}/{key.topic}"))
        for place, topic in moves:
            if files.make_folder(topic):
                files.sync_folder(topic.rpartition("/")[0])
            old, _, number = place.rpartition("/")
            files.rename(place, f"{topic}/{number}")
            files.sync_folder(topic)
            files.sync_folder(old)
        return len(moves)

    def _move_groups(self) -> None:
        """What groups know: first all of it where it belongs, beside what is there, and only then nothing else."""
        files = self._files
        had = {source: groups.load(files, source).states for source in self._sources}
        for target in self.targets:
            had.setdefault(target, {})
        own: dict[str, dict[groups.Key, bytes]] = {target: {} for target in self.targets}
        # what a folder says of its own partitions counts more than what was left behind in another
        for states in had.values():
            for key, state in states.items():
                own[self.targets[self._owner(key[1])]].setdefault(key, state)
        for target, states in own.items():
            own[target] = states | {key: state for key, state in had[target].items() if key in states}
        for keep_all in (True, False):
            for target, states in own.items():
                wanted = {**had[target], **states} if keep_all else states
                if wanted != had[target]:
                    replace_file(files, f"{target}/{groups.NAME}", groups.contents(wanted))
                    files.sync_folder(target)
                    had[target] = wanted

    def _empty(self, source: str) -> None:
        """Removes what is left of a log whose partitions are elsewhere. Whatever is not ours stays."""
        files = self._files
        files.remove(f"{source}/{groups.NAME}")
        with suppress(OSError):  # not there, or not empty
            for topic in files.names(f"{source}/{TOPICS}"):
                with suppress(OSError):
                    Path(f"{source}/{TOPICS}/{topic}").rmdir()
            Path(f"{source}/{TOPICS}").rmdir()
        files.sync_folder(source)

    def _remove(self, source: str) -> None:
        for name in (LOCK, KIND):
            self._files.remove(f"{source}/{name}")
        with suppress(OSError):
            Path(source).rmdir()


def _count(files: Files, folder: str) -> int:
    text = Path(f"{folder}/{WORKERS}").read_text(encoding="ascii", errors="replace").strip()
    return int(text) if text.isdecimal() else 0


def _write(files: Files, folder: str, name: str, text: str) -> None:
    replace_file(files, f"{folder}/{name}", text.encode())
    files.sync_folder(folder)
