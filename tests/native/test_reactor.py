"""What the native reactor promises beside the contract of a server: memory, descriptors, signals, ways to wait.

Whatever moves its bytes.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from msgspec import structs

from portask import registry
from portask.contracts import Appended
from portask.core.session import Session
from portask.messages import RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.registry import Entry
from portask.wire import control
from portask.wire.connection import Connection, Role
from portask.wire.frames import Opcode, frame_header
from portask_lab.conformance.server_support import Client, Running, batch_of, eventually
from portask_lab.loadgen import broker as loadgen_broker
from portask_lab.loadgen.processes import Child

ENTRIES = [registry.get("server", name) for name in ("native-epoll", "native-uring")]
IDLE = ["sleep", "spin-then-sleep", "spin"]
MIB = 1 << 20


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    """The variant; skipped with its reason where it cannot run."""
    found: Entry = request.param
    if (reason := found.unavailable()) is not None:
        pytest.skip(reason)
    return found


# ── memory of received bytes ──────────────────────────────────────────────────────────────────────────────


class Keeping(MemoryStorage):
    """Breaks the contract: keeps views of the batches beyond the call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, bytes]] = []

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        self.kept.append((batch.data, bytes(batch.data)))
        super().append(partition, batch, now, done)


def test_a_view_that_is_kept_too_long_never_shows_other_bytes(entry: Entry) -> None:
    storage = Keeping()
    with Running(entry, storage=storage) as broker, Client(broker) as client:
        client.open()
        for number in range(300):
            client.publish(batch_of(number.to_bytes(4, "little") * (number * 30), producer=1), 10 + number)
            client.expect(Opcode.PUBACK)
    assert len(storage.kept) == 300
    assert all(bytes(view) == copy for view, copy in storage.kept)


def test_views_outlive_the_server_and_are_read_only(entry: Entry) -> None:
    storage = Keeping()
    with Running(entry, storage=storage) as broker, Client(broker) as client:
        client.open()
        client.publish(batch_of(bytes(100_000)), 10)
        client.expect(Opcode.PUBACK)
    ((view, copy),) = storage.kept
    del broker, client
    gc.collect()
    assert view.readonly
    assert bytes(view) == copy
    storage.kept.clear()


def test_endpoints_are_let_go_without_the_garbage_collector(entry: Entry) -> None:
    gc.collect()
    gc.disable()
    try:
        with Running(entry) as broker, Client(broker) as bystander:
            for topic in ("a", "b", "c"):
                with Client(broker) as client:
                    client.open(topic)
                    client.subscribe(topic)
                    client.publish(batch_of(b"x"), 10)
                    client.deliveries(1)
            eventually(lambda: sessions() == 1, "sessions are alive of which no client is left")
            bystander.ping()
    finally:
        gc.enable()


def sessions() -> int:
    return sum(isinstance(thing, Session) for thing in gc.get_objects())


# ── brokers in processes of their own ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def start(entry: Entry) -> Iterator[Callable[..., Child]]:
    """Starts brokers that end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(loadgen_broker.start(entry.name, **options))


def connected(child: Child) -> socket.socket:
    """A connection that was welcomed."""
    sock = socket.create_connection(("127.0.0.1", child.port), 5)
    greet(sock)
    return sock


def greet(sock: socket.socket) -> None:
    hello = Connection(Role.CLIENT)
    hello.send_hello("test")
    sock.sendall(b"".join(hello.take_output()))
    while hello.welcome is None:
        hello.receive(sock.recv(4096))


def answers(sock: socket.socket) -> bool:
    sock.sendall(frame_header(Opcode.PING, 0, 7))
    return sock.recv(4096) == frame_header(Opcode.PONG, 0, 7)


def descriptors(child: Child) -> int:
    return len(list(Path(f"/proc/{child.pid}/fd").iterdir()))


@pytest.mark.parametrize("idle", IDLE)
def test_a_signal_ends_it_however_it_waits(start: Callable[..., Child], idle: str) -> None:
    child = start(idle=idle)
    with connected(child) as sock:
        assert answers(sock)
        os.kill(child.pid, signal.SIGTERM)
        eventually(lambda: not child.alive, "the signal was not heard")
    assert child.said() == ""


@pytest.mark.parametrize("idle", IDLE)
def test_it_answers_and_turns_when_woken_however_it_waits(entry: Entry, idle: str) -> None:
    spin_us = {"spin_us": 20_000} if idle == "spin-then-sleep" else {}
    _made.clear()
    _made.append(lambda **options: entry.make(idle=idle, **spin_us, **options))
    with Running(structs.replace(entry, target=f"{__name__}:made")) as broker, Client(broker) as client:
        for _ in range(20):
            client.ping()
        time.sleep(0.03)
        before = broker.broker.turns
        broker.broker.wake()
        eventually(lambda: broker.broker.turns > before, "no turn came")
        client.ping()


_made: list[Callable[..., Any]] = []


def made(**options: Any) -> Any:
    return _made[0](**options)


@pytest.mark.parametrize("idle", ["sleep", "spin-then-sleep"])
def test_it_sleeps_when_nothing_comes(start: Callable[..., Child], idle: str) -> None:
    child = start(idle=idle, spin_us=1000)
    with connected(child):
        time.sleep(0.1)
        before = child.cpu()
        time.sleep(1)
        assert child.cpu() - before < 0.1


def test_an_unknown_way_to_wait_is_said_before_anything_runs(entry: Entry) -> None:
    with pytest.raises(ValueError, match="idle is sleep, spin-then-sleep or spin, not 'nap'"):
        entry.make(idle="nap")


@pytest.mark.slow
def test_an_idle_connection_costs_less_than_a_kilobyte(start: Callable[..., Child]) -> None:
    child = start()
    held = [connected(child) for _ in range(500)]
    little = child.private()
    held += [connected(child) for _ in range(5000)]
    assert all(answers(sock) for sock in held)
    assert (child.private() - little) / 5000 < 1024
    for sock in held:
        sock.close()


@pytest.mark.slow
def test_thousands_come_and_go_and_leave_nothing(start: Callable[..., Child]) -> None:
    child = start()
    before: list[int] = []
    for _ in range(6):
        peers = [connected(child) for _ in range(5000)]
        assert all(answers(sock) for sock in peers[::500])
        before.append(child.private())
        assert descriptors(child) > 5000
        for number, sock in enumerate(peers):
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        eventually(lambda: descriptors(child) < 50, "descriptors are left")
    # The allocator grows now and then; what connections leave behind they leave in each round.
    growth = median(later - earlier for earlier, later in pairwise(before))
    assert growth < MIB, f"private memory at 5,000 connections, round by round: {before}"


@pytest.mark.slow
def test_a_slow_reader_costs_a_bounded_amount_of_memory(start: Callable[..., Child]) -> None:
    child: Any = start()
    batch = batch_of(bytes(60_000), producer=1)
    with Client(child, receive_buffer=65_536) as slow, Client(child) as publisher:
        publisher.open()
        slow.subscribe()
        memory = []
        for round_ in range(1, 4):
            acked = 0
            for number in range(400):
                publisher.publish(batch, 10 + number)
            while acked < 400:
                acked += len(control.decode_puback(publisher.expect(Opcode.PUBACK).body))
            memory.append(child.private() - round_ * 400 * len(batch))  # beside the log
        assert max(memory) - memory[0] < 4 * MIB, f"memory beside the log, round by round: {memory}"


def test_without_descriptors_it_waits_and_does_not_spin(entry: Entry) -> None:
    allowed = 40
    parts = loadgen_broker.encoded({"server": (entry.name, {}), "storage": ("memory", {})})
    broker = [sys.executable, "-m", "portask_lab.loadgen.broker", parts]
    with Child(["sh", "-c", f'ulimit -n {allowed} && exec "$@"', "sh", *broker]) as child:
        first = connected(child)
        waiting = [socket.create_connection(("127.0.0.1", child.port), 5) for _ in range(allowed)]
        time.sleep(0.1)
        before = child.cpu()
        assert answers(first)
        time.sleep(0.5)
        assert child.cpu() - before < 0.2
        assert descriptors(child) == allowed
        for sock in waiting[:-3]:
            sock.close()
        for sock in waiting[-3:]:
            greet(sock)
            sock.close()
        first.close()
