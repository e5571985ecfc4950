"""The conformance suite of the servers catches servers that break their contract."""

from __future__ import annotations

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
    ],
)
def test_it_catches(broken: type[EpollServer], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server", "server_support"):
        monkeypatch.setattr(f"portask_lab.conformance.{module}.PATIENCE", 1.5)
    entry = Entry("server", "broken", f"{__name__}:{broken.__name__}", "")
    (item,) = [each for each in checks("server") if each.name == check]
    with pytest.raises((Violation, PortaskError, OSError)):
        item.run(entry)


def test_the_epoll_server_that_they_are_made_of_is_not_broken() -> None:
    assert epoll.why_not() is None
