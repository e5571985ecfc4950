"""At the storage's limit publishers wait as long as waiting helps; nothing is dropped, and nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest

from portask.contracts import EARLIEST
from portask.core.broker import SWEEP, Options
from portask.core.pacing import SIGN
from portask.core.retention import Retention
from portask.core.shortage import SPARE
from portask.errors import RemoteProtocolError
from portask.reference.storage import MemoryStorage
from portask.storage.metered import metered
from portask.wire.frames import FrameParser, Opcode
from tests.core.talking import SECOND, Client, Desk, batch_of

LIMIT = 1 << 20
AGE = 5 * SECOND
BATCH = 100_000
FITS = LIMIT // (BATCH + 200)
"""Batches below the limit."""


def desk_with(*, limit: int = LIMIT, wrapped: bool = False, policy: Retention | None = None) -> Desk:
    storage = MemoryStorage(max_bytes=limit)
    options = Options(retention={"": policy} if policy else {})
    return Desk(options, metered(storage) if wrapped else storage)


def publish(client: Client, first: int, count: int) -> list[int]:
    return [client.publish(batch_of(b"%06d" % n, bytes(BATCH), b"")) for n in range(first, first + count)]


def numbers(client: Client) -> list[int]:
    return [int(payload) for payload in client.payloads() if len(payload) == 6]


@pytest.mark.parametrize("wrapped", [False, True])
def test_publishers_wait_at_the_limit_and_go_on_when_records_expire(wrapped: bool) -> None:
    desk = desk_with(wrapped=wrapped, policy=Retention(age=AGE))
    reader, loud = desk.client(), desk.client()
    loud.open("a")
    reader.subscribe("a", start=EARLIEST)
    sent = publish(loud, 0, 2 * FITS)
    desk.settle()
    assert len(loud.acked()) == FITS, "as many as fit"
    assert loud.session.paused
    assert not loud.errors()
    assert numbers(reader) == list(range(FITS)), "consumers are served meanwhile"
    due = desk.broker.deadline()
    assert due is not None
    assert due > desk.now, "it waits without turns"
    desk.settle(AGE + SECOND)
    desk.settle()
    assert len(loud.acked()) + FITS == len(sent)
    assert numbers(reader) == list(range(FITS, 2 * FITS)), "in order, nothing lost"


def test_what_retention_by_bytes_can_free_is_freed_at_once() -> None:
    desk = desk_with(policy=Retention(bytes=LIMIT // 2))
    loud = desk.client()
    loud.open("a")
    sent = publish(loud, 0, 5 * FITS)
    desk.settle(0)
    assert len(loud.acked()) == len(sent), "no timer had to come"
    assert not loud.errors()


@pytest.mark.parametrize("policy", [None, Retention(bytes=2 * LIMIT), Retention(count=1_000_000)])
def test_where_time_makes_no_room_the_publish_is_refused(policy: Retention | None) -> None:
    desk = desk_with(policy=policy)
    loud = desk.client()
    loud.open("a")
    publish(loud, 0, FITS + 2)
    desk.settle()
    assert [code for _, code in loud.codes()] == ["storage-full"] * 2
    assert not loud.session.paused


def test_a_batch_that_never_fits_is_refused_in_the_end() -> None:
    desk = desk_with(limit=BATCH, policy=Retention(age=AGE))
    loud = desk.client()
    loud.open("a")
    publish(loud, 0, 1)
    desk.settle()
    assert loud.session.paused
    for _ in range((AGE + SPARE) // SWEEP + 2):
        desk.settle(SWEEP)
    assert [code for _, code in loud.codes()] == ["storage-full"]
    assert not loud.session.paused


def test_quiet_publishers_of_small_batches_are_not_held_by_a_large_one() -> None:
    desk = desk_with(policy=Retention(age=AGE))
    loud, quiet = desk.client(), desk.client()
    loud.open("a")
    quiet.open("b")
    publish(loud, 0, FITS + 3)
    desk.settle()
    assert loud.session.paused
    quiet.publish(batch_of(b"small"))
    desk.settle()
    assert len(quiet.acked()) == 1


def test_who_waits_gets_signs_of_life_and_is_not_hung_up_on() -> None:
    desk = Desk(
        Options(retention={"": Retention(age=100 * SECOND)}, keepalive=10 * SECOND),
        MemoryStorage(max_bytes=LIMIT),
    )
    loud = desk.client()
    loud.open("a")
    publish(loud, 0, FITS + 1)
    desk.settle()
    loud.deaf = True
    for _ in range(60):
        desk.settle(SECOND)
    assert not loud.session.closing
    heard = FrameParser().feed(b"".join(loud.session.take_output()))
    assert [frame.opcode for frame in heard] == [Opcode.PING] * len(heard)
    assert len(heard) >= 60 * SECOND // (SIGN + SWEEP) - 1


@pytest.mark.parametrize("end", ["hangs up", "drains", "is hung up on"])
def test_who_waits_may_leave(end: str) -> None:
    desk = desk_with(policy=Retention(age=AGE))
    loud = desk.client()
    loud.open("a")
    publish(loud, 0, FITS + 1)
    desk.settle()
    if end == "hangs up":
        loud.hang_up()
    elif end == "drains":
        desk.broker.drain(desk.now)
    else:
        loud.session.connection.fail(RemoteProtocolError("it was something else"))
        desk.broker.mark(loud.session)
    desk.settle(2 * SWEEP)
    assert not desk.broker.shortage.waiting
    assert end != "drains" or [code for _, code in loud.codes()] == ["draining"]


def test_many_wait_in_order_and_all_come_through() -> None:
    desk = desk_with(policy=Retention(age=AGE))
    clients = [desk.client() for _ in range(8)]
    sent = 0
    for number, client in enumerate(clients):
        client.open(f"t{number}")
        sent += len(publish(client, 0, 6))
    acked = 0
    used: list[Any] = []
    for _ in range(60):
        desk.settle(SECOND)
        acked += sum(len(client.acked()) for client in clients)
        assert [client.codes() for client in clients] == [[]] * 8
        used.append(desk.storage._used)  # type: ignore[attr-defined]
    assert acked == sent
    assert max(used) <= LIMIT
