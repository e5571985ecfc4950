"""Many connections, every one alive: established is not alive, so each makes a round trip.

``python -m portask_lab.loadgen.crowd PORT PLACE`` is one client process; `Crowd` drives several of them. A process may
hold as many connections as its limit of open files allows. Each has source addresses of its own in 127.0.0.0/8: one
address has some 28,000 ports for one destination, and from half of them on the kernel searches long for a free one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Sequence

import msgspec

from portask.wire import control
from portask.wire.frames import HEADER_SIZE, VERSION, Opcode, frame_header
from portask_lab.loadgen import links
from portask_lab.loadgen.team import Team, answer

_PARALLEL = 256
"""Connects under way at once, within the accept backlog of any server."""
_SPARE_FILES = 64
_SOURCES = 8
"""Source addresses of one process."""
_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of linux/in.h: connect chooses the port, so that one serves every destination."""
STEP_SECONDS = 60.0
"""How long one step (connecting so many, one round trip on each) may take."""


class Report(msgspec.Struct):
    """What a step came to.

    Attributes:
        alive: Connections that did what the step asked.
        failed: Those that did not; closed by now.
        seconds: How long the step took.
        reasons: Why they failed → how many.
        trips: µs of each round trip, if the step was one.
    """

    alive: int
    failed: int
    seconds: float
    reasons: dict[str, int] = {}
    trips: list[float] = []


class _Step(msgspec.Struct):
    what: str
    count: int = 0
    seconds: float = 0.0


def most() -> int:
    """Connections that one process may hold: its limit of open files (the soft one is raised), less a few."""
    import resource  # noqa: PLC0415 - optional, or only here

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # "unlimited" is not always allowed
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - _SPARE_FILES


class Members:
    """The connections of one client process."""

    def __init__(self, port: int, place: int = 0) -> None:
        self._port = port
        self._place = place
        self._generation = self._begun = 0
        self._socks: dict[int, socket.socket] = {}
        self._reasons: dict[str, int] = {}
        self._number = 0

    def grow(self, count: int) -> Report:
        """Connects ``count`` more: TCP, HELLO, WELCOME."""
        began = time.monotonic()
        self._reasons = {}
        body = control.encode(control.Hello([VERSION], client="portask-lab"))
        hello = frame_header(Opcode.HELLO, len(body)) + body
        waiting: dict[int, socket.socket] = {}
        started = done = 0
        with select.epoll() as poller:
            while started < count or waiting:
                while started < count and len(waiting) < _PARALLEL:
                    started += 1
                    sock = self._begin()
                    if sock is not None:
                        waiting[sock.fileno()] = sock
                        poller.register(sock, select.EPOLLOUT)
                for fd, event in poller.poll(1.0):
                    sock = waiting[fd]
                    if event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                        sock.send(hello)
                        poller.modify(sock, select.EPOLLIN)
                        continue
                    del waiting[fd]
                    poller.unregister(sock)
                    if self._answered(sock, Opcode.WELCOME):
                        self._socks[fd] = sock
                        done += 1
                if time.monotonic() - began > STEP_SECONDS:
                    for sock in waiting.values():
                        self._drop(sock, f"no WELCOME within {STEP_SECONDS:g} s")
                    break
        return Report(done, count - done, time.monotonic() - began, self._reasons)

    def round_trip(self) -> Report:
        """PING and PONG on every connection, all under way at once as far as they go."""
        began = time.monotonic()
        self._reasons = {}
        self._number += 1
        ping = frame_header(Opcode.PING, 0, self._number)
        sent: dict[int, int] = {}
        trips: list[float] = []
        before = len(self._socks)
        queue = list(self._socks.items())
        with select.epoll() as poller:
            while queue or sent:
                while queue and len(sent) < _PARALLEL:
                    fd, sock = queue.pop()
                    poller.register(sock, select.EPOLLIN)
                    sent[fd] = time.monotonic_ns()
                    try:
                        sock.send(ping)
                    except OSError as error:
                        self._lose(fd, sent, os.strerror(error.errno or 0))
                for fd, _ in poller.poll(1.0):
                    poller.unregister(fd)
                    if self._answered(self._socks[fd], Opcode.PONG):
                        trips.append((time.monotonic_ns() - sent.pop(fd)) / 1000)
                    else:
                        del self._socks[fd], sent[fd]
                if time.monotonic() - began > STEP_SECONDS:
                    for fd in list(sent):
                        self._lose(fd, sent, f"no PONG within {STEP_SECONDS:g} s")
                    queue.clear()
        return Report(len(trips), before - len(trips), time.monotonic() - began, self._reasons, trips)

    def storm(self, seconds: float) -> Report:
        """Hangs up on all and connects as many again, as fast as `_PARALLEL` under way allow; for so long, but once."""
        count, total = len(self._socks), Report(0, 0, 0.0)
        while not total.seconds or total.seconds < seconds:
            self.close()
            # ports of connections that were closed rest for a minute: the next ones come from another address
            self._generation = (self._generation + 1) % 200
            found = self.grow(count)
            total.alive += found.alive
            total.failed += found.failed
            total.seconds += found.seconds
            for reason, times in found.reasons.items():
                total.reasons[reason] = total.reasons.get(reason, 0) + times
        return total

    def close(self) -> None:
        """Hangs up on all."""
        for sock in self._socks.values():
            sock.close()
        self._socks.clear()

    def _begin(self) -> socket.socket | None:
        sock = None
        try:
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
            self._begun += 1
            sock.bind((f"127.{self._generation}.{self._place}.{1 + self._begun % _SOURCES}", 0))
            code = sock.connect_ex(("127.0.0.1", self._port))
        except OSError as error:
            code = error.errno or 0
        if code in {0, errno.EINPROGRESS} and sock is not None:
            return sock
        self._drop(sock, os.strerror(code))
        return None

    def _answered(self, sock: socket.socket, opcode: Opcode) -> bool:
        """Whether the frame that waits is the one that is wanted. Small frames on loopback come whole."""
        try:
            data = sock.recv(65536)
        except OSError as error:
            return self._drop(sock, os.strerror(error.errno or 0))
        if len(data) < HEADER_SIZE:
            return self._drop(sock, "hung up")
        found = links.HEADER.unpack_from(data)[2]
        if found == Opcode.ERROR:
            return self._drop(sock, str(links.read_error(data[HEADER_SIZE:])))
        return found == opcode or self._drop(sock, f"opcode {found} came instead of {opcode.name}")

    def _lose(self, fd: int, sent: dict[int, int], reason: str) -> None:
        del sent[fd]
        self._drop(self._socks.pop(fd), reason)

    def _drop(self, sock: socket.socket | None, reason: str) -> bool:
        self._reasons[reason] = self._reasons.get(reason, 0) + 1
        if sock is not None:
            sock.close()
        return False


class Crowd(Team):
    """Client processes that share the connections to one broker evenly. A context manager: its end ends them."""

    def __init__(self, port: int, processes: int = 1) -> None:
        super().__init__("portask_lab.loadgen.crowd", [(str(port), str(place)) for place in range(processes)])

    def grow(self, count: int) -> Report:
        """Connects ``count`` more."""
        share, rest = divmod(count, len(self))
        return self._all([_Step("grow", share + (place < rest)) for place in range(len(self))])

    def round_trip(self) -> Report:
        """One round trip on every connection."""
        return self._all([_Step("trip")] * len(self))

    def storm(self) -> Report:
        """All hang up and connect again, as clients do whose broker was away for a moment."""
        self.begin_storms(0.0)
        return self.end_storms()

    def begin_storms(self, seconds: float) -> None:
        """One storm after the other for so long, and one at least; `end_storms` waits for them."""
        self.tell([_Step("storm", seconds=seconds)] * len(self))

    def end_storms(self) -> Report:
        """What `begin_storms` came to: ``alive`` is the number of connections that came back, each time counted."""
        return self._sum()

    def _all(self, steps: Sequence[_Step]) -> Report:
        self.tell(steps)
        return self._sum()

    def _sum(self) -> Report:
        total = Report(0, 0, 0.0)
        for part in self.hear(Report):
            total.alive += part.alive
            total.failed += part.failed
            total.seconds = max(total.seconds, part.seconds)
            total.trips += part.trips
            for reason, times in part.reasons.items():
                total.reasons[reason] = total.reasons.get(reason, 0) + times
        return total


def main() -> None:
    """One client process."""
    members = Members(int(sys.argv[1]), int(sys.argv[2]))
    most()
    for line in sys.stdin:
        step = msgspec.json.decode(line, type=_Step)
        if step.what == "grow":
            answer(members.grow(step.count))
        elif step.what == "storm":
            answer(members.storm(step.seconds))
        else:
            answer(members.round_trip())
    members.close()


if __name__ == "__main__":
    main()
