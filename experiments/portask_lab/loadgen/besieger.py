"""Those who mean no good: what they are told, what they report, and their connections.

Their process is `portask_lab.loadgen.assaults`.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import time

import msgspec

from portask.errors import PortaskError
from portask.wire.frames import HEADER_SIZE, Opcode
from portask_lab.loadgen import links
from portask_lab.loadgen.team import Team

_PARALLEL = 256
"""Connects under way at once."""
_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of linux/in.h."""
_STEP = 0.02
"""Seconds between looks at the clock."""


class Order(msgspec.Struct):
    """What to do.

    Attributes:
        assault: A name in `portask_lab.loadgen.assaults.ASSAULTS`.
        seconds: How long.
        count: Connections at once, for those who have many; for others, attempts a second.
        source: Where they come from: addresses 127.SOURCE.0.1 and following.
        patience: Seconds that the broker has to hang up on everybody.
    """

    assault: str
    seconds: float
    count: int
    source: int
    patience: float


class Report(msgspec.Struct):
    """What became of it.

    Attributes:
        attempts: Connections, or requests where there is one connection.
        refused: ``address:port`` of each connection that the broker hung up on.
        left: Those that it did not hang up on in time.
        offenders: Those that it did not have to hang up on, and had reason to complain of.
        said: What it said to them → how often.
        error: What went wrong on this side.
    """

    attempts: int = 0
    refused: list[str] = []
    left: list[str] = []
    offenders: list[str] = []
    said: dict[str, int] = {}
    error: str = ""


class Besieger(Team):
    """A context manager around the process."""

    def __init__(self, port: int, token: str) -> None:
        super().__init__("portask_lab.loadgen.assaults", [(str(port), token)])

    def begin(self, order: Order) -> None:
        """Lets it loose."""
        self.tell([order])

    def end(self) -> Report:
        """Waits until it is over.

        Raises:
            PortaskError: it could not do what it was told.
        """
        (found,) = self.hear(Report)
        if found.error:
            raise PortaskError(f"the assault failed: {found.error}")
        return found


class Enemy:
    """One connection; ``first`` is sent as soon as it stands, and ``leaves`` is gone then."""

    __slots__ = ("first", "leaves", "peer", "place", "sock", "up")

    def __init__(self, sock: socket.socket, first: bytes, *, leaves: bool) -> None:
        self.sock = sock
        self.first = first
        self.leaves = leaves
        self.peer = ""
        self.place = 0
        self.up = False


class Crew:
    """All connections of one assault."""

    def __init__(self, port: int, token: str, order: Order, sources: int = 4) -> None:
        self.port, self.token, self.order = port, token, order
        self.end = time.monotonic() + order.seconds
        self.report = Report()
        self.open: dict[int, Enemy] = {}
        self.connecting = 0
        self._sources = itertools.cycle(f"127.{order.source}.0.{1 + n}" for n in range(sources))
        self._poller = select.epoll()

    @property
    def on(self) -> bool:
        """Whether it goes on."""
        return time.monotonic() < self.end

    def begin(self, first: bytes = b"", *, leaves: bool = False) -> None:
        """One more connection."""
        while self.connecting >= _PARALLEL:
            self.look()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((next(self._sources), 0))
        code = sock.connect_ex(("127.0.0.1", self.port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        self.open[sock.fileno()] = Enemy(sock, first, leaves=leaves)
        self.connecting += 1
        self._poller.register(sock, select.EPOLLOUT)

    def look(self, seconds: float = _STEP) -> None:
        """Takes notice of what happens."""
        for fd, event in self._poller.poll(seconds):
            enemy = self.open[fd]
            try:
                if not enemy.up:
                    self._stands(enemy)
                if event & ~select.EPOLLOUT and not self._hears(enemy):
                    self._gone(fd)
                elif enemy.leaves:
                    self._gone(fd, refused=False)
            except ConnectionError:
                self._gone(fd)

    def send(self, enemy: Enemy, data: bytes) -> None:
        """As much as goes without waiting."""
        try:
            enemy.sock.send(data)
        except BlockingIOError:
            pass
        except ConnectionError:
            return  # the next look sees it

    def wait(self) -> Report:
        """Until the broker has hung up on all, or will not."""
        until = time.monotonic() + self.order.patience
        while self.open and time.monotonic() < until:
            self.look()
        for fd in list(self.open):
            self.report.left.append(self.open[fd].peer)
            self._gone(fd, refused=False)
        self._poller.close()
        return self.report

    def _stands(self, enemy: Enemy) -> None:
        enemy.up = True
        self.connecting -= 1
        self.report.attempts += 1
        if code := enemy.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionError(code, os.strerror(code))
        self._poller.modify(enemy.sock, select.EPOLLIN)
        host, number = enemy.sock.getsockname()
        enemy.peer = f"{host}:{number}"
        if enemy.first:
            self.send(enemy, enemy.first)

    def _hears(self, enemy: Enemy) -> bool:
        data = enemy.sock.recv(65536)
        if len(data) > HEADER_SIZE and data.startswith(b"PORT"):
            opcode, length = data[5], int.from_bytes(data[8:12], "little")
            if opcode == Opcode.ERROR:
                self.heard(links.read_error(data[HEADER_SIZE : HEADER_SIZE + length]))
        return bool(data)

    def heard(self, error: PortaskError) -> None:
        """The broker complained."""
        text = str(error)
        self.report.said[text] = self.report.said.get(text, 0) + 1

    def _gone(self, fd: int, *, refused: bool = True) -> None:
        enemy = self.open.pop(fd)
        self._poller.unregister(fd)
        enemy.sock.close()
        if refused:
            self.report.refused.append(enemy.peer)
