"""The server `native-epoll`: a reactor in Rust waits, reads, frames and writes; Python sees a wake-up at a time.

A pass of the loop is one call. `Reactor.turn` writes the outputs of all who have some, waits, hands every endpoint that
something arrived for a list of whole frames, and takes the engine's turn. Batches are checked on the way. What a frame
means, and what is wrong with one that is refused, is the core's to say.

Receive buffers are shared by all connections and free again when nobody looks at them, so idle connections hold none.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog

from portask.contracts import Engine
from portask_native._native import Reactor

log = structlog.get_logger("portask.server")


class NativeEpollServer:
    """See the module's text.

    Args:
        read_bytes: Most that is read from a connection in one pass, and the size of a receive buffer.
        idle: What to do until something arrives. ``"sleep"`` costs nothing, and some tens of µs each time it wakes
            up. ``"spin-then-sleep"`` polls first, for ``spin_us`` at most, as long as waits have been shorter than
            that lately: under load it burns the core it runs on, at rest it costs nothing. ``"spin"`` never sleeps
            and burns one core.
        spin_us: µs that ``"spin-then-sleep"`` polls.
        grace: Seconds that clients get to finish when the server stops, and to read the rest when they are
            hung up on.
        backlog: Connections that may wait to be accepted.

    Raises:
        ValueError: There is no such ``idle``.
    """

    _by = "epoll"

    def __init__(
        self,
        read_bytes: int = 256 * 1024,
        idle: Literal["sleep", "spin-then-sleep", "spin"] = "sleep",
        spin_us: int = 50,
        grace: float = 5.0,
        backlog: int = 4096,
    ) -> None:
        if idle not in {"sleep", "spin-then-sleep", "spin"}:
            raise ValueError(f"idle is sleep, spin-then-sleep or spin, not {idle!r}")
        self._options: dict[str, Any] = {
            "read_bytes": read_bytes,
            "idle": idle,
            "spin_us": spin_us,
            "grace": grace,
        }
        self._grace = grace
        self._backlog = backlog
        self._bell = -1
        self._reactor: Reactor | None = None
        self._stopped = False

    def share(self, bell: int) -> None:
        """See `portask.contracts.Multicore.share`."""
        self._bell = bell

    def stop(self) -> None:
        """See `portask.contracts.Server.stop`."""
        self._stopped = True
        if self._reactor is not None:
            self._reactor.wake()

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """See `portask.contracts.Server.run`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        shared = self._bell >= 0
        listener = socket.create_server((host, port), family=family, backlog=self._backlog, reuse_port=shared)
        listener.setblocking(False)
        address = listener.getsockname()
        reactor = self._reactor = Reactor(self._by, listener.detach(), engine, _starved, **self._options)
        engine.wake = reactor.wake
        if shared:
            reactor.listen_for(os.dup(self._bell))
        try:
            ready(*address[:2])
            while not self._stopped:
                reactor.turn()
            self._shut_down(reactor, engine)
        finally:
            reactor.close()

    def _shut_down(self, reactor: Reactor, engine: Engine) -> None:
        reactor.stop_listening()
        engine.drain(time.time_ns() // 1000)
        end = time.monotonic() + self._grace
        while reactor.connections and (left := end - time.monotonic()) > 0:
            reactor.turn(time.time_ns() // 1000 + int(left * 1e6))


def _starved(connections: int) -> None:
    log.error("no file descriptors left: not accepting", open=connections, hint="raise ulimit -n")
