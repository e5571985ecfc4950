"""A worker process: built like a broker of one process, and linked to the others before it listens."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from portask import registry
from portask.admin import logs
from portask.contracts import Closeable, Multicore, Server
from portask.core.describing import promise_of
from portask.errors import PortaskError
from portask.multicore import talk
from portask.multicore.broker import WorkerBroker
from portask.multicore.links import Link
from portask.multicore.shared import Board, EventBell
from portask.server.build import build_as, settle
from portask.server.driver import clock
from portask.server.reload import take_over
from portask.server.tls import Tls, tls

log = structlog.get_logger("portask.worker")


class Worker:
    """The process.

    Args:
        boot: What it is.
        sock: To the supervisor.
        commands: What it says.
    """

    def __init__(self, boot: talk.Boot, sock: socket.socket, commands: Iterator[talk.ToWorker]) -> None:
        self._boot = boot
        self._sock = sock
        self._commands = commands
        self._bells = [EventBell(fd) for fd in boot.bells]
        self._bell = self._bells[boot.place]
        self._over = False
        self._leave = False
        settings = boot.settings
        logs.configure(settings.logging.level, settings.logging.format, color=boot.color, worker=boot.place)
        self._encryption: Tls | None = tls(settings)
        self.engine, self.server = self._build()
        self._ring: Any = registry.get("ring", boot.ring).load()

    def _build(self) -> tuple[WorkerBroker, Server]:
        boot = self._boot
        counts = Board(boot.board)

        def make(*parts: Any) -> WorkerBroker:
            return WorkerBroker(*parts, place=boot.place, places=boot.places, bell=self._bell, counts=counts)

        engine, server = build_as(make, boot.settings, self._encryption)
        if not isinstance(server, Multicore):
            raise PortaskError(f"the server {boot.settings.server.variant} does not say how it shares a port")
        server.share(self._bell.fd)
        return engine, server

    def run(self) -> None:
        """Serves until the supervisor says that it is over."""
        engine, place = self.engine, self._boot.settings.server
        engine.wake = self._bell.ring
        threading.Thread(target=self._listen, name="portask-supervisor", daemon=True).start()
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._stop())
        settle()
        try:
            pump(engine, self._bell.fd, lambda: engine.joined or self._over)
            self.server.run(engine, place.host, self._boot.port, self._ready)
            engine.wake = self._bell.ring
            self._say(talk.Empty())
            pump(engine, self._bell.fd, lambda: self._leave)
        finally:
            if isinstance(engine.storage, Closeable):
                engine.storage.close()

    def _ready(self, host: str, port: int) -> None:
        log.info("ready", host=host, port=port, pid=os.getpid())
        storage = self.engine.storage
        self._say(talk.Ready(storage.durability.value, promise_of(storage)))

    def _say(self, message: talk.ToSupervisor) -> None:
        try:
            talk.say(self._sock, message)
        except OSError:
            self._leave = self._over = True  # the supervisor is gone, which `_listen` sees, too

    def _stop(self) -> None:
        self._over = True
        self.server.stop()

    def _listen(self) -> None:
        """The thread that hears the supervisor; what concerns the broker is done in its next turn."""
        for message in self._commands:
            match message:
                case talk.Linked():
                    self.engine.told.append(lambda each=message: self._link(each))  # type: ignore[misc]  # no inference
                case talk.Unlinked(place):
                    self.engine.told.append(lambda gone=place: self.engine.unlink(gone))  # type: ignore[misc]  # likewise
                case talk.Reload():
                    self.engine.told.append(lambda new=message: self._reload(new))  # type: ignore[misc]  # likewise
                case talk.Stop():
                    self._stop()
                case talk.Leave():
                    self._leave = True
                case _:
                    log.error("the supervisor said something strange", what=type(message).__name__)
            self._bell.ring()
        self._leave = True
        self._stop()
        self._bell.ring()

    def _link(self, linked: talk.Linked) -> None:
        try:
            outgoing, incoming = self._ring.attach(linked.outgoing), self._ring.attach(linked.incoming)
        except PortaskError as error:
            log.warning("a worker went before it was reached", place=linked.place, reason=str(error))
            return
        self.engine.link(Link(linked.place, outgoing, incoming, self._bells[linked.place].ring))

    def _reload(self, new: talk.Reload) -> None:
        try:
            take_over(self.engine, self._encryption, new.settings)
            logs.set_level(new.settings.logging.level)
        except PortaskError as error:
            self._say(talk.Reloaded(new.number, str(error).splitlines()))
        else:
            self._say(talk.Reloaded(new.number, []))


def pump(engine: WorkerBroker, bell: int, done: Callable[[], bool]) -> None:
    """Takes turns without a server until ``done()``, which is looked at after each. ``bell`` is an eventfd."""
    now = clock()
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    while True:
        engine.turn(now())
        if done():  # before it sleeps: the turn may have been what it waited for
            return
        due = engine.deadline()
        seconds = math.inf if due is None else (due - now()) / 1e6
        poll.poll(max(0.0, min(seconds, 1.0)) * 1000)


def main() -> None:
    """``python -m portask.multicore FD``: the other end of the socket is a `portask.multicore.supervisor`."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to hear: it says what is to be done
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    commands = talk.commands(sock)
    boot = next(commands)
    if not isinstance(boot, talk.Boot):
        raise SystemExit(f"the supervisor begins with {type(boot).__name__}")
    try:
        worker = Worker(boot, sock, commands)
    except (PortaskError, OSError) as error:
        talk.say(sock, talk.Failed(_reason(error)))
        raise SystemExit(1) from None
    try:
        worker.run()
    except OSError as error:
        talk.say(sock, talk.Failed(_reason(error)))
        raise SystemExit(1) from None


def _reason(error: PortaskError | OSError) -> str:
    if isinstance(error, PortaskError) or not error.filename:
        return str(error)
    return f"{error.filename}: {error.strerror}"
