"""Starts workers, tells them of each other, and puts another in the place of one that died.

It has the rings and the eventfds, so they outlive workers; a worker that comes anew gets fresh rings. It holds the port
(a socket that is bound and never listens), so nobody else gets it between two workers. If it dies itself, its workers
take leave of their clients and end.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import structlog

from portask import registry
from portask.config import Settings
from portask.errors import ConfigError, PortaskError
from portask.multicore import choosing, talk
from portask.multicore.shared import Board, EventBell, make_board

log = structlog.get_logger("portask.serve")

_LIVED = 10.0
"""Seconds after which the end of a worker is no part of a series."""
_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0
"""Seconds before the second worker of a series, and at most."""
_ANSWER = 10.0
"""Seconds that workers have to take over new settings."""
_GRACE = 30.0
"""Seconds beyond the server's own grace that workers have to end."""


class _Child:
    """One worker process."""

    def __init__(self, place: int, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.place = place
        self.process = process
        self.sock = sock
        self.listener = talk.Listener()
        self.since = time.monotonic()
        self.ready = self.empty = False
        self.reason = ""


class _News:
    """New settings, until all workers have answered."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.settings = settings
        self.missing: set[_Child] = set()
        self.problems: list[str] = []
        self.over = threading.Event()

    def answered(self, child: _Child, problems: list[str]) -> None:
        """One has, or is gone: its successor begins with them."""
        if child in self.missing:
            self.missing.discard(child)
            self.problems += [f"worker {child.place}: {problem}" for problem in problems]
        self.look()

    def look(self) -> None:
        """Whether there is somebody to wait for."""
        if not self.missing:
            self.over.set()


class Supervisor:
    """Of a broker.

    Args:
        settings: As `portask.multicore.choosing.choose` left them.
        count: How many workers, 2 at least.
        color: Whether logs on a terminal may be coloured.

    Attributes:
        durability: Of the storage, once it runs.
        promise: Likewise, in words.

    Raises:
        StorageError: what the storage keeps cannot be had.
        OSError: it cannot be read or written.
    """

    def __init__(self, settings: Settings, count: int, *, color: bool = False) -> None:
        self._settings = settings
        self._count = count
        self._color = color
        self.durability = self.promise = ""
        self._ring = registry.get("ring", settings.ring.variant).load()
        self._rings: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._children: dict[int, _Child] = {}
        self._delays: dict[int, float] = {}
        self._due: dict[int, float] = {}  # when a place gets another worker
        self._wake = EventBell(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._stopping = self._listening = False
        self._new: _News | None = None
        self._told: _News | None = None
        self._times_new = 0
        self._parts = choosing.divide(settings, count)

    # ── from other threads and signal handlers ────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Ends `run`: clients are told, and what is under way is finished."""
        self._stopping = True
        self._wake.ring()

    def reload(self, settings: Settings) -> None:
        """Returns once all workers go on with these. For one thread at a time, and not that of `run`.

        Raises:
            ConfigError: some do not, and say why; the others do.
        """
        self._times_new += 1
        news = self._new = _News(self._times_new, settings)
        self._wake.ring()
        if not news.over.wait(_ANSWER):
            raise ConfigError(
                f"not all workers took over the settings within {_ANSWER:g} s: send SIGHUP again"
            )
        if news.problems:
            raise ConfigError("\n".join(news.problems))

    # ── the life of it ────────────────────────────────────────────────────────────────────────────────────

    def run(self, ready: Callable[[str, int], None]) -> None:
        """Serves until `stop`; calls ``ready(host, port)`` once all workers listen.

        Raises:
            OSError: the address cannot be had.
            PortaskError: a worker cannot start.
        """
        place = self._settings.server
        with ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._wake.fd, selectors.EVENT_READ)
            held = stack.enter_context(hold(place.host, place.port))
            self._port = held.getsockname()[1]
            self._bells = [
                EventBell(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)) for _ in range(self._count)
            ]
            self._board_fd = make_board()
            self._board = Board(self._board_fd)
            try:
                for number in range(self._count):
                    self._start(number)
                self._serve(ready, held.getsockname()[0])
                self._drain()
            finally:
                self._end()

    def _serve(self, ready: Callable[[str, int], None], host: str) -> None:
        while not self._stopping:
            self._wait(min(self._due.values(), default=None))
            if not self._listening and all(child.ready for child in self._children.values()):
                self._listening = True
                ready(host, self._port)
            if self._new is not None:
                news, self._told, self._new = self._new, self._new, None
                self._settings = news.settings
                news.missing.update(self._children.values())
                news.look()
                for child in list(self._children.values()):
                    self._say(child, talk.Reload(news.number, self._part(child.place)))
            now = time.monotonic()
            for place in [place for place, due in self._due.items() if due <= now]:
                del self._due[place]
                self._start(place)

    def _part(self, place: int) -> Settings:
        return choosing.part(self._settings, place, self._count, self._parts)

    def _drain(self) -> None:
        for child in list(self._children.values()):
            self._say(child, talk.Stop())
        grace = float(self._settings.server.options.get("grace", 5.0))
        deadline = time.monotonic() + grace + _GRACE
        while any(not child.empty for child in self._children.values()) and time.monotonic() < deadline:
            self._wait(deadline)
        for child in list(self._children.values()):
            self._say(child, talk.Leave())
        while self._children and time.monotonic() < deadline:
            self._wait(deadline)

    def _end(self) -> None:
        for child in self._children.values():
            log.error("a worker did not end in time", place=child.place, pid=child.process.pid)
            child.process.kill()
            child.process.wait()
            child.sock.close()
        self._children.clear()
        for pair in list(self._rings):
            self._drop_rings(pair)
        for bell in self._bells:
            os.close(bell.fd)
        os.close(self._board_fd)
        os.close(self._wake.fd)
        if self._parts is not None:
            self._parts.close()

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        bells = [bell.fd for bell in self._bells]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "portask.multicore", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), self._board_fd, *bells],
            )
        child = self._children[place] = _Child(place, process, ours)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._say(
            child,
            talk.Boot(
                place,
                self._count,
                self._port,
                self._part(place),
                bells,
                self._board_fd,
                self._settings.ring.variant,
                self._color,
            ),
        )
        for other in list(self._children.values()):
            if other is not child:
                self._connect(child, other)

    def _connect(self, one: _Child, other: _Child) -> None:
        pair = (min(one.place, other.place), max(one.place, other.place))
        self._drop_rings(pair)
        there, back = (self._ring(**self._settings.ring.options) for _ in range(2))
        self._rings[pair] = (there, back)
        self._say(one, talk.Linked(other.place, there.name, back.name))
        self._say(other, talk.Linked(one.place, back.name, there.name))

    def _drop_rings(self, pair: tuple[int, int]) -> None:
        for ring in self._rings.pop(pair, ()):
            ring.close()

    def _say(self, child: _Child, message: talk.ToWorker) -> None:
        with suppress(OSError):  # it is gone, which its socket says, too
            talk.say(child.sock, message)

    def _wait(self, until: float | None) -> None:
        timeout = None if until is None else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._wake.heard()
                continue
            child: _Child = key.data
            try:
                data = child.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._buried(child)
            for message in child.listener.take(data):
                self._heard(child, message)

    def _heard(self, child: _Child, message: talk.ToSupervisor) -> None:
        match message:
            case talk.Ready(durability, promise):
                child.ready = True
                self.durability, self.promise = durability, promise
            case talk.Failed(reason):
                child.reason = reason
            case talk.Reloaded(number, problems):
                if self._told is not None and self._told.number == number:
                    self._told.answered(child, problems)
            case talk.Empty():
                child.empty = True

    def _buried(self, child: _Child) -> None:
        """A worker's socket is closed: it has ended, or is about to."""
        place = child.place
        self._selector.unregister(child.sock)
        child.sock.close()
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(1.0)
        child.process.kill()
        status = child.process.wait()
        del self._children[place]
        if self._told is not None:
            self._told.answered(child, [])
        self._board.set(place, 0)
        for other in self._children.values():
            self._say(other, talk.Unlinked(place))
        for pair in [pair for pair in self._rings if place in pair]:
            self._drop_rings(pair)
        if self._stopping:
            return
        if not self._listening:
            raise PortaskError(child.reason or f"a worker ended with status {status} before it listened")
        lived = time.monotonic() - child.since
        delay = 0.0 if lived > _LIVED else self._delays.get(place, 0.0)
        self._delays[place] = min(_LAST_DELAY, max(_FIRST_DELAY, 2 * delay))
        self._due[place] = time.monotonic() + delay
        log.error(
            "a worker died, and gets a successor",
            place=place,
            status=status,
            in_s=delay,
            **({"reason": child.reason} if child.reason else {}),
        )


def hold(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen, so that others may join it with SO_REUSEPORT.

    Raises:
        OSError: somebody else has it, or it is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        # another broker's workers would let us in
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    held = socket.socket(family)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except BaseException:
        held.close()
        raise
    return held
