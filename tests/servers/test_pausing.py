"""The reference server reads no more of one connection than others can wait for, and nothing of one that is paused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from portask import registry
from portask.core.broker import Options
from portask.core.session import Session
from portask.messages import Buffer
from portask.wire.frames import Opcode
from portask_lab.conformance.server_limits import SlowStorage
from portask_lab.conformance.server_support import Client, Running, batch_of, eventually, settles

BATCH = 65_536


def test_a_stream_that_breaks_while_its_reading_task_waits() -> None:
    storage = SlowStorage()  # never released
    entry = registry.get("server", "asyncio-streams")
    with Running(entry, Options(max_unacked_bytes=BATCH), storage=storage) as broker:
        engine = broker.broker

        def taken() -> int:
            return sum(each.unacked for each in engine.sessions)

        with Client(broker) as client:
            client.open()
            batch = batch_of(bytes(BATCH))
            for number in range(3):
                client.connection.send(Opcode.PUBLISH, batch, 10 + number, 1)
                client.flush()  # the last comes when the first has it paused
                if number == 1:
                    eventually(lambda: any(each.paused for each in engine.sessions), "it is not paused")
            settles(taken)
            assert taken() <= 2 * BATCH, "a paused connection was read"
            client.reset()
            eventually(lambda: not engine.sessions, "the broker still counts a connection that is gone", 5)


def test_a_stream_is_not_read_again_before_others_had_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [0]
    receive = Session.receive

    def counting(session: Session, data: Buffer) -> int:
        shares[-1] += len(data)
        return receive(session, data)

    monkeypatch.setattr(Session, "receive", counting)
    with Running(registry.get("server", "asyncio-streams"), Options()) as broker, Client(broker) as client:
        turn = broker.broker.turn

        def counting_turn(now: int) -> Sequence[Session]:
            shares.append(0)
            found: Sequence[Session] = turn(now)
            return found

        broker.broker.turn = counting_turn
        client.open()
        batch = batch_of(bytes(10_000))
        for number in range(800):
            client.connection.send(Opcode.PUBLISH, batch, 10 + number, 1)
        client.flush()
        eventually(lambda: sum(shares) > 800 * 10_000, "not all of it was read")
    assert max(shares) <= 64 * 1024
