"""A bare epoll loop: no event loop library, no callbacks, no objects a connection beyond its socket and its endpoint.

One pass of the loop:

1. wait for ready sockets;
2. read each once into a buffer of the pool, and let its endpoint parse it: frames are views into that buffer;
3. take one turn;
4. write each departing endpoint's output with one ``sendmsg``, straight away; only what the kernel did not
   take is copied and waits for the socket to be writable;
5. give the buffers back.

Buffers are borrowed only between 2 and 5, so idle connections hold none.

With ``spin_us`` the loop polls without sleeping for that long after each event: it burns the core it runs on
and saves the wake-up, some tens of µs on most machines.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
import weakref
from collections.abc import Callable

import structlog

from portask.contracts import Endpoint, Engine, Pool, next_read
from portask.messages import Buffer
from portask.reference.pool import NoPool
from portask.server.driver import clock

log = structlog.get_logger("portask.server")

_IOV = 512  # buffers a sendmsg; the kernel's limit is 1024
_HIGH = 1 << 20
_LOW = 256 << 10
_LEAST = 8 << 10
_ACCEPTS = 64
"""Connections accepted in one pass: each costs Python some tens of µs, and others wait for their turn as well."""


def why_not() -> str | None:
    """Why there is no epoll here, if there is none."""
    return None if hasattr(select, "epoll") else "needs Linux: epoll is its own"


class _Peer:
    """One connection. ``unsent`` is what the kernel did not take yet."""

    __slots__ = ("endpoint", "events", "expects", "sock", "unsent")

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.sock = sock
        self.expects = _LEAST  # bytes to make room for: allocating more costs more than reading
        self.endpoint = endpoint
        self.unsent = bytearray()
        self.events = select.EPOLLIN


class EpollServer:
    """See the module's text.

    Args:
        pool: Where receive buffers come from.
        read_bytes: Most that is read from a connection in one pass; less where frames are small, see `next_read`.
        spin_us: µs to poll without sleeping after the last event; 0 sleeps at once.
        grace: Seconds that clients get to finish when the server stops, and to read the rest when they are
            hung up on.
        backlog: Connections that may wait to be accepted.
    """

    def __init__(
        self,
        pool: Pool | None = None,
        read_bytes: int = 256 * 1024,
        spin_us: int = 0,
        grace: float = 5.0,
        backlog: int = 4096,
    ) -> None:
        self._pool = pool or NoPool()
        self._read_bytes = read_bytes
        self._spin = spin_us / 1e6
        self._grace = grace
        self._backlog = backlog
        self._peers: dict[int, _Peer] = {}
        self._by_endpoint: dict[Endpoint, _Peer] = {}
        self._leaving: dict[_Peer, float] = {}  # hung up on, with something unsent, until then
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # not closed by `run`: who wakes it from another thread may be about to write
        weakref.finalize(self, os.close, self._wake_fd)
        self._bell = -1
        self._stopped = False
        self._now = clock()

    def share(self, bell: int) -> None:
        """See `portask.contracts.Multicore.share`."""
        self._bell = bell

    def stop(self) -> None:
        """See `portask.contracts.Server.stop`."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """See `portask.contracts.Server.run`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        shared = self._bell >= 0
        with (
            socket.create_server(
                (host, port), family=family, backlog=self._backlog, reuse_port=shared
            ) as listener,
            select.epoll() as epoll,
        ):
            listener.setblocking(False)
            self._engine, self._epoll = engine, epoll
            epoll.register(listener, select.EPOLLIN)
            epoll.register(self._wake_fd, select.EPOLLIN)
            if shared:
                epoll.register(self._bell, select.EPOLLIN)  # the turn that follows each wait reads it
            engine.wake = self._wake
            try:
                ready(*listener.getsockname()[:2])
                while not self._stopped:
                    self._pass(listener)
                self._shut_down(listener)
            finally:
                for peer in list(self._peers.values()):
                    self._close(peer)

    # ── one pass ──────────────────────────────────────────────────────────────────────────────────────────

    def _timeout(self) -> float:
        """Seconds until the engine wants a turn; -1 for never."""
        due = self._engine.deadline()
        return -1 if due is None else max(0.0, (due - self._now()) / 1e6)

    def _wait(self) -> list[tuple[int, int]]:
        timeout = self._timeout()
        if self._spin and timeout:
            end = time.monotonic() + self._spin
            while time.monotonic() < end:
                if events := self._epoll.poll(0, 256):
                    return events
        return self._epoll.poll(timeout, 256)

    def _pass(self, listener: socket.socket | None) -> None:
        events = self._wait()
        borrowed: list[memoryview] = []
        peers = self._peers
        for fd, event in events:
            peer = peers.get(fd)
            if peer is None:
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                elif listener is not None and fd == listener.fileno():
                    self._accept(listener)
                continue
            if event & select.EPOLLOUT:
                self._write(peer, [])
            if event & ~select.EPOLLOUT and fd in peers:
                buffer = self._read(peer)
                if buffer is not None:
                    borrowed.append(buffer)
        by_endpoint = self._by_endpoint
        for endpoint in self._engine.turn(self._now()):
            peer = by_endpoint.get(endpoint)
            if peer is not None:
                self._depart(peer)
        for buffer in borrowed:
            self._pool.give(buffer)
        if self._leaving:
            now = time.monotonic()
            for peer in [peer for peer, until in self._leaving.items() if until <= now]:
                self._close(peer)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE}:
                    # The waiting connection stays ready, so the loop would spin: pause for a moment.
                    log.error(  # noqa: TRY400 - the cause is known: a traceback would only hide it
                        "no file descriptors left: not accepting",
                        open=len(self._peers),
                        hint="raise ulimit -n",
                    )
                    time.sleep(0.01)
                    return
                if error.errno in {errno.ECONNABORTED, errno.EPROTO}:
                    continue
                raise
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            endpoint = self._engine.connect(f"{address[0]}:{address[1]}", self._now())
            peer = _Peer(sock, endpoint)
            self._peers[sock.fileno()] = self._by_endpoint[endpoint] = peer
            self._epoll.register(sock, select.EPOLLIN)

    def _read(self, peer: _Peer) -> memoryview | None:
        """Reads once. Returns the borrowed buffer if frames may point into it."""
        room = min(peer.expects, self._read_bytes)
        buffer = self._pool.take(room)
        try:
            size = peer.sock.recv_into(buffer, room)
        except BlockingIOError:
            return buffer
        except OSError:
            size = 0
        if not size:
            self._close(peer)
            return buffer
        frames = peer.endpoint.receive(buffer[:size])
        peer.expects = next_read(size, frames, room, _LEAST, self._read_bytes)
        return buffer

    def _depart(self, peer: _Peer) -> None:
        endpoint = peer.endpoint
        out = endpoint.take_output()
        if out and not self._write(peer, out):
            return
        if endpoint.closing and not peer.unsent:
            self._close(peer)
            return
        if endpoint.closing and peer not in self._leaving:
            # a peer that does not read must not keep its connection; the engine's timers see to it that we look
            self._leaving[peer] = time.monotonic() + self._grace
        self._watch(peer)

    def _write(self, peer: _Peer, out: list[Buffer]) -> bool:
        """Sends what waits, then ``out``. False if the connection is gone."""
        unsent = peer.unsent
        if unsent:
            for piece in out:
                unsent += piece
            out = [bytes(unsent)]
            unsent.clear()
        try:
            start = 0
            while start < len(out):
                some = out[start : start + _IOV] if len(out) > _IOV else out
                wanted = sum(map(len, some))
                sent = peer.sock.sendmsg(some)
                start += len(some)
                if sent < wanted:
                    _keep(unsent, some, sent)
                    for piece in out[start:]:
                        unsent += piece
                    break
        except BlockingIOError:
            for piece in out[start:]:
                unsent += piece
        except OSError:
            self._close(peer)
            return False
        endpoint = peer.endpoint
        if len(unsent) > _HIGH:
            endpoint.congested = True
        elif endpoint.congested and len(unsent) < _LOW:
            self._engine.uncongested(endpoint)
        if endpoint.closing and not unsent:
            self._close(peer)
            return False
        self._watch(peer)
        return True

    def _watch(self, peer: _Peer) -> None:
        events = (0 if peer.endpoint.paused else select.EPOLLIN) | (select.EPOLLOUT if peer.unsent else 0)
        if events != peer.events:
            peer.events = events
            self._epoll.modify(peer.sock, events)

    def _close(self, peer: _Peer) -> None:
        if self._peers.pop(peer.sock.fileno(), None) is None:
            return
        del self._by_endpoint[peer.endpoint]
        self._leaving.pop(peer, None)
        self._epoll.unregister(peer.sock)
        peer.sock.close()
        self._engine.disconnect(peer.endpoint)

    def _shut_down(self, listener: socket.socket) -> None:
        self._epoll.unregister(listener)
        self._engine.drain(self._now())
        deadline = time.monotonic() + self._grace
        while self._peers and time.monotonic() < deadline:
            self._engine.wake()
            self._pass(None)
            time.sleep(0.001)


def _keep(unsent: bytearray, pieces: list[Buffer], sent: int) -> None:
    """Copies what follows the first ``sent`` bytes of ``pieces``."""
    for piece in pieces:
        size = len(piece)
        if sent >= size:
            sent -= size
            continue
        unsent += memoryview(piece)[sent:]
        sent = 0
