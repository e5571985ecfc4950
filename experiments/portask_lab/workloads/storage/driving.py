"""Drives any storage as a broker does: appends, ends the turn, and takes what was completed when it is told.

A storage that gathers is committed at the end of each turn; one that completes later is polled once it has notified,
and slept for meanwhile, so that its threads get the interpreter. Files lie in a temporary folder that goes with it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from portask.config.options import options as variant_options
from portask.contracts import LATEST, Closeable, Deferred, Gathering
from portask.errors import PortaskError
from portask.messages import Buffer, TopicPartition
from portask.registry import Entry
from portask_lab.workloads import NotForThis, WrongResult
from portask_lab.workloads.storage.remote import check_promise, promise_of, server_for

PATIENCE = 10.0
"""Seconds that a storage may take for what is under way before it counts as hung."""
START = 1_767_225_600_000_000
"""µs since the epoch: when the first append happens."""
_IN_RAM = {"tmpfs", "ramfs"}


class Driven:
    """One storage, made for a durability.

    A variant with an option ``mode`` is made in the mode of that name; any other must promise just that durability.
    Options that the variant does not know are left out.

    Args:
        entry: The variant.
        durability: Value of `portask.contracts.Durability`, or one of `remote`, for which a server is started.
        folder: Where its files are; by default a temporary one, which must not be in RAM if they are to be synced.

    Raises:
        NotForThis: it promises another durability.
        PortaskError: files that should be synced would lie in RAM.
    """

    def __init__(
        self, entry: Entry, durability: str, *, folder: str | Path | None = None, **options: Any
    ) -> None:
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self.storage: Any = None
        self._server = ExitStack()
        options |= self._server.enter_context(server_for(entry, durability))
        if folder is None and "path" in variant_options(entry)[0]:
            self._own = tempfile.TemporaryDirectory(prefix="portask-lab-")
            folder = self._own.name
        try:
            given = options_for(entry, durability, folder or "", **options)
            if self._own is not None and durability == "synced":
                _on_a_device(Path(self._own.name))
            self.storage = entry.make(**given)
            promised = self.storage.durability.value
            if promised != promise_of(durability):
                raise NotForThis(f"{entry.label} promises {promised}, this case is about {durability}")
            check_promise(durability, getattr(self.storage, "promise", ""))
        except BaseException:
            self.close()
            raise
        self._commit: Callable[[], None] | None = (
            self.storage.commit if isinstance(self.storage, Gathering) else None
        )
        self._poll: Callable[[], int] | None = None
        self._woken = threading.Event()
        if isinstance(self.storage, Deferred):
            self._poll = self.storage.poll
            self.storage.notify = self._woken.set

    def end_turn(self) -> None:
        """What a broker does once it has handled what arrived together."""
        if self._commit is not None:
            self._commit()
        if self._woken.is_set():
            self._take()

    def wait(self, finished: Callable[[], bool], what: str = "an append") -> None:
        """Ends the turn and sleeps until ``finished()``.

        Raises:
            WrongResult: nothing will ever call back, or nothing did in `PATIENCE`.
        """
        self.end_turn()
        deadline = time.monotonic() + PATIENCE
        while not finished():
            if self._poll is None:
                raise WrongResult(
                    f"{what} did not complete, and the storage does not say that it completes later"
                )
            if not self._woken.wait(deadline - time.monotonic()):
                raise WrongResult(f"{what} did not complete within {PATIENCE:g} s")
            self._take()

    def read(self, partition: TopicPartition, offset: int, limit: int) -> Sequence[Buffer]:
        """The batches that one read gives; raises the storage's error."""
        found: list[tuple[Sequence[Buffer], PortaskError | None]] = []
        self.storage.read(partition, offset, limit, lambda batches, error: found.append((batches, error)))
        if not found:
            self.wait(lambda: bool(found), "a read")
        batches, error = found[0]
        if error is not None:
            raise error
        return batches

    def lookup(self, partition: TopicPartition, when: int = LATEST) -> int:
        """The offset to read from at ``when``; by default the one behind the last record."""
        found: list[tuple[int, PortaskError | None]] = []
        self.storage.lookup(partition, when, lambda offset, error: found.append((offset, error)))
        if not found:
            self.wait(lambda: bool(found), "a lookup")
        offset, error = found[0]
        if error is not None:
            raise error
        return offset

    def flush(self) -> None:
        """Returns once everything is as durable as declared; raises the storage's error."""
        found: list[PortaskError | None] = []
        self.storage.flush(found.append)
        self.wait(lambda: bool(found), "a flush")
        if found[0] is not None:
            raise found[0]

    @property
    def files(self) -> str:
        """In words, what it means to lie in the temporary folder."""
        kind = file_system(Path(self._own.name)) if self._own else ""
        return f"in files on {kind}, which is RAM" if kind in _IN_RAM else "in files"

    def in_files(self) -> int:
        """Bytes that the temporary folder's files take, on the device or in its cache; 0 for a storage without one."""
        if self._own is None:
            return 0
        return sum(512 * path.stat().st_blocks for path in Path(self._own.name).rglob("*") if path.is_file())

    def close(self) -> None:
        """Closes the storage, and removes its temporary folder. Idempotent."""
        if isinstance(self.storage, Closeable):
            self.storage.close()
        if self._own is not None:
            self._own.cleanup()
        self._server.close()

    def _take(self) -> None:
        self._woken.clear()  # first: what completes from here on notifies again
        assert self._poll is not None  # noqa: S101 - only a storage that is polled can wake us
        self._poll()


def options_for(entry: Entry, durability: str, folder: str | Path, **options: Any) -> dict[str, Any]:
    """Options that make a variant promise a durability, if it has modes, and keep files in ``folder``, if it has any.

    Of ``options`` those that it knows; ``path`` is another place for its files.

    Raises:
        NotForThis: it has modes, and none of that name.
    """
    known = variant_options(entry)[0]
    given = {name: value for name, value in options.items() if name in known}
    if "mode" in known:
        modes = get_args(known["mode"].hint)
        if modes and durability not in modes:
            raise NotForThis(
                f"{entry.label} has the modes {', '.join(modes)}, this case is about {durability}"
            )
        given["mode"] = durability
    if "path" in known:
        given.setdefault("path", str(Path(folder) / "log"))
    return given


def _on_a_device(folder: Path) -> None:
    """Refuses to call a file in RAM synced.

    Raises:
        PortaskError: it is in RAM.
    """
    kind = file_system(folder)
    if kind in _IN_RAM:
        raise PortaskError(
            f"{folder} is in RAM ({kind}), so nothing there is ever synced: set TMPDIR to a folder on a device"
        )


def file_system(folder: Path) -> str:
    """The type of the file system that holds ``folder``, as the kernel names it; empty where that cannot be told."""
    table = Path("/proc/self/mountinfo")
    if not table.exists():
        return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in table.read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:  # later mounts hide earlier ones
            best, kind = len(point.parts), right.split()[0]
    return kind
