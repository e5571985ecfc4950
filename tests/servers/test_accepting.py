"""Many who connect at once do not hold up those who are there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from portask.core.session import Session
from tests.conftest import StartBroker

PATIENCE = 10.0


@pytest.mark.parametrize("server", ["asyncio-streams", "asyncio-protocol"])
def test_asyncio_accepts_a_bounded_number_in_one_pass(start_broker: StartBroker, server: str) -> None:
    broker = start_broker({"server.variant": server})
    engine = broker.engine
    held, go_on = threading.Event(), threading.Event()
    passes = [0]
    turn, connect = engine.turn, engine.connect

    def counting_turn(now: int) -> Sequence[Session]:
        if not go_on.is_set():
            held.set()
            go_on.wait(PATIENCE)
        passes.append(0)
        return turn(now)

    def counting_connect(peer: str, now: int, certificate: tuple[str, ...] = ()) -> Session:
        passes[-1] += 1
        return connect(peer, now, certificate)

    engine.turn, engine.connect = counting_turn, counting_connect  # type: ignore[method-assign]
    with ExitStack() as stack:
        stack.enter_context(socket.create_connection((broker.host, broker.port)))
        assert held.wait(PATIENCE)
        for _ in range(300):
            stack.enter_context(socket.create_connection((broker.host, broker.port)))
        go_on.set()
        end = time.monotonic() + PATIENCE
        while sum(passes) < 301 and time.monotonic() < end:
            time.sleep(0.01)
        assert sum(passes) == 301
        assert max(passes) <= 64
