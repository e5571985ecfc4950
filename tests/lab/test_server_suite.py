"""The conformance suite of the servers catches servers that break their contract."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the broken ones are made of the epoll server"
)
if sys.platform == "linux":
    from portask.contracts import Engine
    from portask.errors import PortaskError
    from portask.messages import Buffer
    from portask.registry import Entry
    from portask_lab.conformance import checks
    from portask_lab.conformance.suite import Violation
    from portask_variants.servers import epoll
    from portask_variants.servers.epoll import EpollServer, _Peer


class Reordering(EpollServer):
    """Sends the last piece first when there are many."""

    def _write(self, peer: _Peer, out: list[Buffer]) -> bool:
        return super()._write(peer, out if len(out) < 4 else [*out[-2:], *out[:-2]])


class Overeager(EpollServer):
    """Never holds back, however much is unsent."""

    def _write(self, peer: _Peer, out: list[Buffer]) -> bool:
        alive = super()._write(peer, out)
        peer.endpoint.congested = False
        self._engine.uncongested(peer.endpoint)
        return alive


class Asleep(EpollServer):
    """Does not hear when it is woken."""

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        def told(at: str, number: int) -> None:
            engine.wake = lambda: None
            ready(at, number)

        super().run(engine, host, port, told)


class Quiet(EpollServer):
    """Keeps to itself that the port is taken."""

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        try:
            super().run(engine, host, port, ready)
        except OSError:
            ready(host, port)


class Abrupt(EpollServer):
    """Does not drain."""

    def _shut_down(self, listener: object) -> None:
        pass


class Timeless(EpollServer):
    """Never looks at the clock when nothing comes."""

    def _timeout(self) -> float:
        return -1.0 if (self._engine.deadline() or 1) > 0 else 0.0


class Leaking(EpollServer):
    """Does not tell the engine that a connection is gone."""

    def _close(self, peer: _Peer) -> None:
        engine, self._engine = self._engine, _Deaf()  # type: ignore[assignment] # only `disconnect` is called
        super()._close(peer)
        self._engine = engine


class _Deaf:
    def disconnect(self, endpoint: object) -> None:
        pass


class Short(EpollServer):
    """Forgets what the kernel did not take."""

    def _write(self, peer: _Peer, out: list[Buffer]) -> bool:
        alive = super()._write(peer, out)
        peer.unsent.clear()
        return alive


class Greedy(EpollServer):
    """Reads on from connections that are paused."""

    def _watch(self, peer: _Peer) -> None:
        paused, peer.endpoint.paused = peer.endpoint.paused, False
        super()._watch(peer)
        peer.endpoint.paused = paused


class Clinging(EpollServer):
    """Waits for ever for clients that do not read the rest."""

    def _depart(self, peer: _Peer) -> None:
        super()._depart(peer)
        self._leaving.clear()


class Untidy(EpollServer):
    """Keeps a descriptor of every connection."""

    def _close(self, peer: _Peer) -> None:
        kept.append(os.dup(self._wake_fd))
        super()._close(peer)


class Stubborn(EpollServer):
    """Forgets that it was stopped before it began."""

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        self._stopped = False
        super().run(engine, host, port, ready)


class Gluttonous(EpollServer):
    """Reads from a connection as much as there is."""

    def _read(self, peer: _Peer) -> memoryview | None:
        peer.expects = 1 << 20
        self._read_bytes = 1 << 20
        return super()._read(peer)


class Hasty(EpollServer):
    """Forgets what came when its client hangs up."""

    def _read(self, peer: _Peer) -> memoryview | None:
        state = peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == 8:  # CLOSE_WAIT: the client has closed its side
            self._close(peer)
            return None
        return super()._read(peer)


kept: list[int] = []


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Reordering, "delivers_what_was_published"),
        (Overeager, "bounds_slow_readers"),
        (Asleep, "takes_a_turn_when_woken"),
        (Quiet, "says_that_the_port_is_taken"),
        (Abrupt, "drains_when_stopped"),
        (Timeless, "hangs_up_on_the_silent"),
        (Leaking, "holds_many_connections"),
        (Short, "bounds_slow_readers"),
        (Overeager, "bounds_answers_that_nobody_reads"),
        (Greedy, "pauses_reading_when_asked"),
        (Clinging, "lets_go_of_those_who_do_not_read"),
        (Untidy, "leaves_nothing_behind"),
        (Stubborn, "can_be_stopped_before_it_runs"),
        (Gluttonous, "gives_each_connection_a_turn_s_worth"),
        (Hasty, "takes_what_came_before_a_hang_up"),
    ],
)
def test_it_catches(broken: type[EpollServer], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server", "server_limits", "server_support"):
        # what takes a second or so of a good server gets more than that of a broken one
        patience = 1.5 if check in {"hangs_up_on_the_silent", "lets_go_of_those_who_do_not_read"} else 0.5
        monkeypatch.setattr(f"portask_lab.conformance.{module}.PATIENCE", patience)
    entry = Entry("server", "broken", f"{__name__}:{broken.__name__}", "")
    (item,) = [each for each in checks("server") if each.name == check]
    with pytest.raises((Violation, PortaskError, OSError)):
        item.run(entry)
    while kept:
        os.close(kept.pop())


def test_the_epoll_server_that_they_are_made_of_is_not_broken() -> None:
    assert epoll.why_not() is None
