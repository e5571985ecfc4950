"""One broker a folder: two that append to the same files would destroy each other's records.

And one storage a folder: a broker that is started with another storage would begin anew beside what is there, as if
nothing had ever been published.
"""

from __future__ import annotations

import os

from portask.errors import StorageError
from portask.storage.files import Files, read_all, write_all

NAME = "lock"
KIND = "storage"
WORKERS = "workers"
MOVING = "moving"


class FolderLock:
    """An exclusive lock on a folder, held until `release` or until the process ends, however it ends.

    The lock is the kernel's (``flock``), not the file: a file that a killed broker left behind locks nothing.

    Args:
        folder: Exists. The file ``lock`` in it holds the process id of the owner, for people.

    Raises:
        StorageError: another process holds it; the text names that process.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: str) -> None:
        import fcntl  # noqa: PLC0415 - not on Windows, where this module must still import

        self._fd = -1
        fd = os.open(f"{folder}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            who = f"the process {owner}" if owner else "another process"
            raise StorageError(
                f"{folder} is in use by {who}: stop it, or choose another folder (portask serve --data FOLDER)"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # the device may be full: the lock holds all the same, only its owner's number is missing

    def release(self) -> None:
        """Lets others in. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def claim(files: Files, folder: str, kind: str, *, divided: bool = False) -> None:
    """Notes in the file ``storage`` which variant has its files in the folder, or finds that noted.

    Args:
        files: The file layer.
        folder: Locked by the caller, who syncs it afterwards.
        kind: Name of the storage variant.
        divided: Whether it may be the folder of several workers (`portask.storage.dividing`).

    Raises:
        StorageError: another one has its files there, or several workers.
        OSError: it cannot be read or noted.
    """
    if not divided:
        refuse_divided(files, folder)
    fd = files.open(f"{folder}/{KIND}", create=True)
    try:
        known, end, _ = read_all(files, fd, 256, 0).decode(errors="replace").partition("\n")
        if not end:  # new, or half-written before a crash
            write_all(files, fd, [f"{kind}\n".encode()], 0)
            known = kind
    finally:
        files.close(fd)
    if known != kind:
        raise StorageError(
            f"{folder} holds what the storage {known} keeps: choose --storage {known}, or another folder for {kind} "
            "(portask serve --data FOLDER)"
        )


def refuse_divided(files: Files, folder: str) -> None:
    """Raises `StorageError` for a folder in which several workers have a log each."""
    names = files.names(folder)
    if WORKERS in names or MOVING in names:
        raise StorageError(
            f"{folder} holds the logs of several workers, one below it for each: `portask serve` brings them together "
            "for --workers 1, and `portask log` takes the folder of one"
        )
