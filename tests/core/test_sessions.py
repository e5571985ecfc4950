"""Connections as the broker sees them: handshake, limits, timers, drain, faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portask.messages import RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire import control
from portask.wire.frames import REPLY, Opcode
from tests.core.harness import SECOND, Harness, LateStorage, batch


def test_a_handshake_that_takes_too_long_is_ended() -> None:
    harness = Harness(hello_timeout=3 * SECOND)
    silent, polite = harness.connect(greet=False), harness.connect()
    harness.turn(2 * SECOND)
    assert not silent.hung_up_on()
    harness.turn(2 * SECOND)
    assert silent.hung_up_on()
    assert "HELLO" in silent.errors[0][1].message
    assert not polite.hung_up_on()


def test_silence_ends_a_connection_and_any_frame_breaks_it() -> None:
    harness = Harness(keepalive=10 * SECOND)
    silent, alive = harness.connect(), harness.connect()
    for _ in range(4):
        alive.send(Opcode.PING, b"", 5)
        harness.turn(4 * SECOND)
    assert silent.hung_up_on()
    assert "PING" in silent.errors[0][1].message
    assert not alive.hung_up_on()


def test_a_deadline_is_asked_for_as_long_as_there_is_somebody() -> None:
    harness = Harness()
    assert harness.broker.deadline() is None
    peer = harness.connect()
    due = harness.broker.deadline()
    assert due is not None
    assert harness.now < due <= harness.now + SECOND
    harness.broker.disconnect(peer.session)
    harness.turn(2 * SECOND)
    assert harness.broker.deadline() is None


def test_too_many_connections_are_told_so() -> None:
    harness = Harness(max_connections=2)
    first, _ = harness.connect(), harness.connect()
    refused = harness.connect(greet=False)
    harness.turn()
    assert refused.hung_up_on()
    assert refused.errors[0][1].code == "not-permitted"
    harness.broker.disconnect(first.session)
    assert not harness.connect().hung_up_on()


def test_too_much_under_way_pauses_reading_until_it_is_stored() -> None:
    storage = LateStorage()
    harness = Harness(storage, max_unacked_bytes=1000)
    publisher = harness.connect()
    publisher.open()
    harness.turn()
    storage.holding = True
    for _ in range(10):
        publisher.publish(batch(bytes(200)))
    harness.turn()
    assert publisher.paused()
    assert publisher.session in harness.departures, "the server is told"
    storage.holding = False
    harness.turn()
    harness.turn()
    assert not publisher.paused()
    assert len(publisher.acked) == 10


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: p.send(Opcode.OPEN, control.Open("a b"), 5, 1), "invalid-topic"),
        (lambda p: p.send(Opcode.OPEN, control.Open("t", partition=9), 5, 1), "unknown-partition"),
        (lambda p: p.send(Opcode.OPEN, control.Open("t", partitions=10**6), 5, 1), "not-permitted"),
        (lambda p: p.send(Opcode.OPEN, control.Open("t"), 5, 0), "remote-protocol"),
        (lambda p: p.send(Opcode.OPEN, b"\x00", 5, 1), "remote-protocol"),
        (lambda p: p.send(Opcode.PUBLISH, batch(b"x"), 5, 3), "remote-protocol"),
        (lambda p: p.send(Opcode.SUBSCRIBE, control.Subscribe("a..b"), 5, 7), "invalid-topic"),
        (lambda p: p.send(Opcode.SUBSCRIBE, control.Subscribe("t", start=-3), 5, 7), "remote-protocol"),
        (lambda p: p.send(Opcode.SUBSCRIBE, control.Subscribe("t", messages=-1), 5, 7), "remote-protocol"),
        (lambda p: p.send(Opcode.FETCH, control.Fetch("nowhere"), 5), "unknown-topic"),
        (lambda p: p.send(Opcode.DESCRIBE, control.Describe("a..b"), 5), "invalid-topic"),
    ],
)
def test_a_bad_request_is_answered_and_the_connection_goes_on(make: Callable[[Any], None], code: str) -> None:
    harness = Harness()
    peer = harness.connect()
    make(peer)
    harness.turn()
    assert [(correlation, error.code) for correlation, error in peer.errors] == [(5, code)]
    peer.open()
    assert not peer.hung_up_on()
    assert peer.frames[-1].opcode == Opcode.OPEN


def test_a_bad_one_way_frame_ends_the_connection() -> None:
    harness = Harness()
    peer, bystander = harness.connect(), harness.connect()
    peer.send(Opcode.PUBLISH, batch(b"x"), 0, 3)
    harness.turn()
    assert peer.hung_up_on()
    bystander.open()
    assert not bystander.hung_up_on()


def test_an_error_comes_after_the_acks_of_what_was_before_it() -> None:
    harness = Harness()
    peer = harness.connect()
    peer.open()
    good = peer.publish(batch(b"1"))
    damaged = bytearray(batch(b"2"))
    damaged[-1] ^= 1
    bad = peer.publish(bytes(damaged))
    other = peer.publish(batch(b"3"))
    harness.turn()
    assert peer.acked == [(good, 0), (other, 1)]
    assert [(correlation, error.code) for correlation, error in peer.errors] == [(bad, "batch-corrupt")]


def test_a_full_storage_refuses_publishes_and_serves_readers() -> None:
    harness = Harness(MemoryStorage(max_bytes=2000))
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    for _ in range(10):
        publisher.publish(batch(bytes(300), producer=1))
    harness.turn()
    stored = len(publisher.acked)
    assert 2 < stored < 10
    assert {error.code for _, error in publisher.errors} == {"storage-full"}
    assert len(publisher.errors) == 10 - stored
    subscriber.subscribe()
    harness.turn()
    assert len(subscriber.got) == stored


def test_a_clients_drain_is_answered_after_its_last_ack() -> None:
    storage = LateStorage()
    harness = Harness(storage)
    peer = harness.connect()
    peer.open()
    harness.turn()
    storage.holding = True
    peer.publish(batch(b"last"))
    peer.send(Opcode.DRAIN)
    harness.turn()
    assert not peer.hung_up_on()
    storage.holding = False
    harness.turn()
    harness.turn()
    assert len(peer.acked) == 1
    assert (peer.frames[-1].opcode, peer.frames[-1].flags) == (Opcode.DRAIN, REPLY)
    assert peer.hung_up_on()


def test_a_draining_broker_takes_nothing_new_and_delivers_what_it_has() -> None:
    harness = Harness()
    publisher, subscriber = harness.connect(), harness.connect()
    publisher.open()
    subscriber.subscribe(messages=0, size=0)
    publisher.publish(batch(b"before"))
    harness.turn()
    harness.broker.drain(harness.now)
    late = publisher.publish(batch(b"after"))
    subscriber.credit(10, 10_000)
    harness.turn()
    assert publisher.frames[-1].opcode == Opcode.DRAIN
    assert [(correlation, error.code) for correlation, error in publisher.errors] == [(late, "draining")]
    assert [payload for _, payload in subscriber.got] == [b"before"]


def test_our_own_fault_costs_one_connection() -> None:
    class Faulty(MemoryStorage):
        def append(self, partition: TopicPartition, found: RecordBatch, now: int, done: Any) -> None:
            raise ZeroDivisionError

    harness = Harness(Faulty())
    unlucky, bystander = harness.connect(), harness.connect()
    unlucky.open()
    bystander.open("other")
    unlucky.publish(batch(b"x"))
    harness.turn()
    assert unlucky.hung_up_on()
    assert unlucky.errors[0][1].code == "broker"
    bystander.send(Opcode.DESCRIBE, control.Describe(), bystander.next())
    harness.turn()
    assert bystander.frames[-1].opcode == Opcode.DESCRIBE
