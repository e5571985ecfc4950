"""The byte ring in shared memory: the producer in one process, the consumer in another.

`byte_ring` has the layout and why it works; here is what changes when no interpreter lock stands between
the two sides.

**Order.** Correctness needs three things of a machine. (1) A counter is stored and loaded whole: it is an
aligned 8-byte word in a cache line of its own, and ``memoryview.cast("Q")`` copies it with one 8-byte
``memcpy``, which compilers for 64-bit machines turn into one move. (2) The record is visible before ``put``
is, and read before ``got`` is: x86-64 keeps stores in order among themselves, loads in order among
themselves, and a store behind the loads before it; only a load may overtake an earlier store to another
place, and no step here depends on that. String moves and non-temporal stores, which ``memcpy`` uses for
large copies, are weaker inside one copy; the counter is a separate, later store, and the C library fences
its non-temporal loops. (3) The compiler does not reorder: each step is a call through a function pointer of
the interpreter.

(1) and (3) are how CPython is built, not what the C standard promises. (2) is x86's memory model (Intel SDM
vol. 3 §9.2, AMD64 APM vol. 2 §7.2); ARM64, POWER and RISC-V order less, and pure Python has no fence to
offer them. So this ring is there on Linux on x86-64 and nowhere else: `why_not` says so elsewhere, and a
ring in native code is the way there.

**Who dies when.** A producer that is killed leaves what it published, whole and in order; what it was
writing was never published. A consumer that is killed leaves what it had not yet marked as taken: its last
batch comes again. All state is in the memory, so that a successor may `attach` and go on where the dead
side stopped. A death is not a close: the other side sees a ring that is empty, or full, and learns of the
death from whoever watches processes.

**Who frees what.** The memory lives as long as a handle maps it. The name (``/dev/shm/portask-ring-…``)
belongs to the handle that made the ring: ``close()`` on it removes the name, so that nobody attaches any
more, and those who did keep the memory. It is also removed when that handle is garbage collected and when
its process exits; if its process is killed, the standard library's resource tracker does it, with a
warning. An attached handle never removes the name, and is not registered with the tracker: the tracker of
an attaching process would remove the name under its owner's feet.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import shutil
import sys
import weakref
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from portask.errors import RingClosed, RingError
from portask_variants.rings.byte_ring import CAPACITY, HEAD, MAGIC, MAGIC_WORD, ByteRing, size_of

_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory (shm_overview(7)), not a temporary file


def why_not() -> str | None:
    """Why this ring cannot be used on this machine, or ``None``."""
    machine = platform.machine()
    if sys.platform != "linux" or machine.lower() not in {"x86_64", "amd64"}:
        return (
            f"needs Linux on x86-64 (this is {sys.platform} on {machine}), on whose memory order it "
            "relies: use a native ring between processes, or the bytearray ring between threads"
        )
    if not os.access(_FOLDER, os.R_OK | os.W_OK | os.X_OK):
        return f"needs a writable {_FOLDER}: mount a tmpfs there"
    return None


class SharedMemoryRing(ByteRing):
    """A bounded FIFO of byte records between two processes (or threads). `Ring`, `BatchRing`, `SharedRing`.

    The memory is reserved at once, so that a full ``/dev/shm`` is an error here and not a crash later.

    Args:
        capacity: In bytes, overhead included; at least `portask.reference.ring.MIN_CAPACITY`.

    Attributes:
        name: What the other process gives to `attach`.

    Raises:
        RingError: not this machine (see `why_not`), or no room in ``/dev/shm``.
    """

    name: str
    _remove_name: weakref.finalize[..., SharedMemoryRing] | None = None  # the maker's handle has one

    def __init__(self, capacity: int = 1 << 20) -> None:
        _check_machine()
        size = size_of(capacity)
        free = shutil.disk_usage(_FOLDER).free
        if size > free:
            raise RingError(f"{_FOLDER} has {free} bytes free and the ring needs {size}: lower its capacity")
        maker = SharedMemory(f"portask-ring-{secrets.token_hex(8)}", create=True, size=size)
        maker.close()  # it keeps the name; both sides map the memory alike, by that name
        self._remove_name = weakref.finalize(self, _remove, maker, os.getpid())
        try:
            memory = _mapped(maker.name, reserve=size)
        except OSError as error:  # somebody took the room meanwhile
            self._remove_name()
            raise RingError(f"no {size} bytes in {_FOLDER}: {error.strerror}; lower the capacity") from error
        words = memory[:HEAD].cast("Q")
        words[MAGIC_WORD], words[CAPACITY] = MAGIC, capacity
        self.name = maker.name
        self._use(memory)

    @classmethod
    def attach(cls, name: str) -> SharedMemoryRing:
        """The ring of that name, made by another process or by this one.

        Raises:
            RingClosed: there is no ring of that name: its maker closed it, or is gone.
            RingError: it is no ring, or this machine cannot use it.
        """
        _check_machine()
        try:
            memory = _mapped(name)
        except FileNotFoundError:
            raise RingClosed(f"there is no ring named {name!r}: its maker closed it, or is gone") from None
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise RingError(f"the ring {name!r} cannot be opened: {error}") from error
        words = memory[: len(memory) & ~7].cast("Q")
        if len(memory) < HEAD or words[MAGIC_WORD] != MAGIC or len(memory) < size_of(words[CAPACITY]):
            raise RingError(f"{name!r} is shared memory, but no ring: its first bytes do not say so")
        ring = cls.__new__(cls)
        ring.name = name
        ring._use(memory)  # noqa: SLF001 - it is our own
        return ring

    def close(self) -> None:
        """No more puts; what is inside can still be taken. The maker's handle also removes the name."""
        super().close()
        if self._remove_name is not None:
            self._remove_name()


def _check_machine() -> None:
    reason = why_not()
    if reason:
        raise RingError(f"the shared-memory ring {reason}")


def _mapped(name: str, reserve: int = 0) -> memoryview:
    """The memory of that name. It is unmapped when the last view of it is gone."""
    # Not by SharedMemory, which before Python 3.13 registers every handle with the resource tracker.
    descriptor = os.open(_FOLDER / Path(name).name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if reserve:
            os.posix_fallocate(descriptor, 0, reserve)
        return memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)


def _remove(maker: SharedMemory, process: int) -> None:
    # A forked child inherits the handle and must not take the name away from its parent.
    if os.getpid() == process:
        with suppress(FileNotFoundError):  # somebody else cleaned up /dev/shm
            maker.unlink()
