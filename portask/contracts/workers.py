"""Where CPU-heavy and blocking steps run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from portask.messages import Buffer


@runtime_checkable
class Workers(Protocol):
    """Runs CPU-heavy or blocking steps off the loop, bounded. Results come back on the thread that calls `poll`.

    Made with ``limit`` (steps in flight) and ``notify`` (called from any thread when results wait; must be
    thread-safe and cheap; may be called more often than needed).
    """

    def submit(self, step: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs ``step()`` some time; then ``done(result, None)`` or ``done(None, error)`` inside a later `poll`.

        Raises:
            WorkersFull: ``limit`` steps are in flight. Nothing was queued.
        """
        ...

    def poll(self) -> int:
        """Calls ``done`` for every finished step, in the order of submission; returns how many. Never blocks."""
        ...

    def close(self) -> None:
        """Waits for the steps in flight. Their results can still be polled; new ones are refused. Idempotent."""
        ...


@runtime_checkable
class NativeSteps(Protocol):
    """Workers that run some steps without the interpreter, beside a loop that is busy with it.

    The steps are made here and submitted like any other. Called, they do the same at once, on any thread; so other
    workers run them too. ``data`` must not change until the step is done.
    """

    def zstd_compress(self, data: Buffer, level: int = 3) -> Callable[[], bytes]:
        """``data`` as one zstd frame (RFC 8878) that states its raw length. Errors: ValueError, no such level."""
        ...

    def zstd_decompress(self, data: Buffer, length: int) -> Callable[[], bytes]:
        """The raw bytes of one zstd frame, exactly ``length``; never writes more. Errors: ValueError, when it runs."""
        ...

    def crc32c(self, data: Buffer) -> Callable[[], int]:
        """The CRC32C of ``data``."""
        ...
