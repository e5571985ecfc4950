"""Somebody who is connected and wants no more than an answer: a PING every 50 ms on each connection.

``python -m portask_lab.loadgen.bystander PORT CONNECTIONS TOKEN [CA]`` is its process. Each line on its standard input
asks for the worst answer since the last one. A PING that is not answered yet counts with its age; the next one leaves
all the same.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time

import msgspec

from portask.errors import PortaskError
from portask.wire.frames import Opcode, frame_header
from portask_lab.loadgen import links
from portask_lab.loadgen.team import Team, answer

EVERY = 0.05
"""Seconds between PINGs."""


class Pings(msgspec.Struct):
    """What it saw since it was asked last.

    Attributes:
        answered: PINGs.
        worst: Seconds until one was answered, or until now.
        error: Why it cannot go on.
    """

    answered: int = 0
    worst: float = 0.0
    error: str = ""


class Bystander(Team):
    """A context manager around its process."""

    def __init__(self, port: int, connections: int, token: str, ca: str = "") -> None:
        super().__init__("portask_lab.loadgen.bystander", [(str(port), str(connections), token, ca)])
        self.look()  # it is connected

    def look(self) -> Pings:
        """What it saw since the last look.

        Raises:
            PortaskError: it did not get in.
        """
        (found,) = self.ask([None], Pings)
        return found


class _Link:
    """One connection. ``sent`` holds when the PINGs left that are not answered, by correlation id."""

    def __init__(self, port: int, token: str, ca: str) -> None:
        sock = links.dial(port)
        if ca:
            sock = ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname="127.0.0.1")
        links.Setup(sock, token)
        sock.setblocking(False)
        self.sock = sock
        self.sent: dict[int, float] = {}
        self._number = 0
        self._cut = b""

    def ping(self) -> None:
        self._number += 1
        self.sent[self._number] = time.monotonic()
        self.sock.send(frame_header(Opcode.PING, 0, self._number))

    def read(self, found: Pings) -> None:
        while True:
            try:
                data = self.sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise PortaskError("it was hung up on")
            frames, self._cut = links.whole_frames(self._cut + data)
            for opcode, correlation, _ in frames:
                if opcode == Opcode.PONG and (sent := self.sent.pop(correlation, None)) is not None:
                    found.answered += 1
                    found.worst = max(found.worst, time.monotonic() - sent)


def _run(port: int, connections: int, token: str, ca: str) -> None:
    mine: dict[socket.socket, _Link] = {}
    found = Pings()
    try:
        for _ in range(connections):
            link = _Link(port, token, ca)
            mine[link.sock] = link
    except (OSError, PortaskError) as error:
        found.error = f"it could not connect: {error}"
    due = time.monotonic()
    while True:
        now = time.monotonic()
        ready, _, _ = select.select([sys.stdin, *mine], [], [], max(0.0, due - now))
        try:
            for sock in ready:
                if isinstance(sock, socket.socket) and sock in mine:
                    mine[sock].read(found)
            if due <= (now := time.monotonic()):
                due = max(due + EVERY, now)  # what was missed is not made up for
                for link in mine.values():
                    link.ping()
        except (OSError, PortaskError) as error:
            found.error = f"a connection broke: {error}"
            mine.clear()
        if sys.stdin in ready:
            if not sys.stdin.readline():
                return
            now = time.monotonic()
            ages = [now - each for link in mine.values() for each in link.sent.values()]
            found.worst = max(found.worst, *ages, 0.0)
            answer(found)
            found = Pings(error=found.error)


if __name__ == "__main__":
    _run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
