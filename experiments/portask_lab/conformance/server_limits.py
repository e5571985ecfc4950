"""What a server must keep within bounds: what clients that do not read cost, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from portask.contracts import Appended, Read
from portask.contracts.server import FRAMES_A_READ
from portask.core.broker import Options
from portask.core.session import Session
from portask.errors import PortaskError
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.registry import Entry
from portask.wire import control
from portask.wire.frames import Opcode
from portask_lab.conformance.server_support import (
    GRACE,
    PATIENCE,
    TOPIC,
    Client,
    Running,
    batch_of,
    eventually,
    settles,
)
from portask_lab.conformance.suite import Check, NotApplicable, check, require

SUITE: list[Check] = []
_MIB = 1 << 20


class SlowStorage(MemoryStorage):
    """Stores at once and says so when `release` is called, on any thread. Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.notify: Callable[[], None] = lambda: None
        self._released = threading.Event()
        self.read_bytes = 0
        self._stored: deque[Callable[[], None]] = deque()

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """Completes in a later `poll`."""
        super().append(partition, batch, now, lambda o, e: self._stored.append(lambda: done(o, e)))
        if self._released.is_set():
            self.notify()

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """Completes at once."""

        def count(found: Sequence[Buffer], error: PortaskError | None) -> None:
            self.read_bytes += sum(map(len, found))
            done(found, error)

        super().read(partition, offset, limit, count)

    def release(self) -> None:
        """From now on appends complete."""
        self._released.set()
        self.notify()

    def poll(self) -> int:
        """See `portask.contracts.Deferred`."""
        if not self._released.is_set():
            return 0
        done = 0
        while self._stored:
            self._stored.popleft()()
            done += 1
        return done


@check(SUITE)
def takes_many_frames_in_one_write(entry: Entry) -> None:
    """Thousands of frames that arrive together are all handled, in order."""
    count = 3000
    with Running(entry) as broker, Client(broker) as client:
        client.open()
        for number in range(count):
            client.connection.send(Opcode.PUBLISH, batch_of(b"%d" % number), 10 + number, 1)
        client.flush()
        offsets: list[int] = []
        while len(offsets) < count:
            offsets += control.decode_puback(client.expect(Opcode.PUBACK).body)
        require(offsets == list(range(count)), "the acks are not those of the publishes in their order")


class HeldStorage(MemoryStorage):
    """Its first append does not return before it is let go: whatever is sent meanwhile waits in the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = threading.Event()
        self.let_go = threading.Event()

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `portask.contracts.Storage.append`."""
        self.holds.set()
        self.let_go.wait(PATIENCE)
        super().append(partition, batch, now, done)


@check(SUITE)
def takes_what_came_before_a_hang_up(entry: Entry) -> None:
    """What a client sent before it closed its sending side is handled, and then the broker hangs up too."""
    storage, batch = HeldStorage(), batch_of(bytes(5_000), producer=1)
    with (
        Running(entry, storage=storage) as broker,
        Client(broker) as reader,
        Client(broker, send_buffer=_MIB) as client,
    ):
        client.open()
        reader.subscribe()
        try:
            client.publish(batch, 10)
            require(storage.holds.wait(PATIENCE), "a publish does not reach the storage")
            for number in range(1, 20):
                client.publish(batch, 10 + number)
            client.sock.shutdown(socket.SHUT_WR)
        finally:
            storage.let_go.set()
        require(len(reader.deliveries(20)) == 20, "publishes were lost")
        client.expect_end()
        eventually(
            lambda: len(broker.broker.sessions) == 1, "the broker still counts a connection that is gone"
        )


@check(SUITE)
def gives_each_connection_a_turn_s_worth(entry: Entry) -> None:
    """What one client sends in one piece is handled in many turns, for others wait as long as one takes."""
    count, batch = 4_000, batch_of(bytes(300), producer=1)
    most = 0
    with Running(entry) as broker, Client(broker, send_buffer=4 * _MIB) as loud:
        loud.open()
        turn: Callable[[int], Sequence[Session]] = broker.broker.turn

        def counted(now: int) -> Sequence[Session]:
            nonlocal most
            most = max([most, *(len(session.inbox or ()) for session in broker.broker.sessions)])
            return turn(now)

        broker.broker.turn = counted
        for number in range(count):
            loud.connection.send(Opcode.PUBLISH, batch, 10 + number, 1)
        loud.flush()
        partition = broker.broker.topics[TOPIC].partitions[0]
        eventually(lambda: partition.next == count, "not everything that was published is stored")
    require(most <= 4 * FRAMES_A_READ, f"one turn had {most:,} frames of one connection")


@check(SUITE)
def pauses_reading_when_asked(entry: Entry) -> None:
    """A client whose publishes wait for the storage is not read from further; others are, and it goes on later."""
    storage = SlowStorage()
    count, batch = 384, batch_of(bytes(65_536), producer=1)
    most = 10 * _MIB  # what is under way, and the reads of one wake-up: up to 6 MB where libuv reads
    with (
        Running(entry, Options(max_unacked_bytes=_MIB), storage=storage) as broker,
        Client(broker, send_buffer=65_536) as client,
        Client(broker) as bystander,
    ):

        def taken() -> int:
            # of several workers, what waits for the storage is counted where the partition is
            return sum(session.unacked for session in list(broker.broker.readers()))

        client.open()
        for number in range(count):
            client.connection.send(Opcode.PUBLISH, batch, 10 + number, 1)
        sending = threading.Thread(target=client.flush)
        sending.start()
        try:
            eventually(
                lambda: any(session.paused for session in broker.broker.sessions),
                "the broker takes more than it may, and does not pause the connection",
            )
            settles(taken)
            require(taken() < most, f"{taken():,} bytes were read from a paused connection")
            bystander.ping()
        finally:
            storage.release()
            sending.join(PATIENCE)
        require(not sending.is_alive(), "the connection was not read from again")
        offsets: list[int] = []
        while len(offsets) < count:
            offsets += control.decode_puback(client.expect(Opcode.PUBACK).body)
        require(offsets == list(range(count)), "publishes were lost or reordered")


@check(SUITE)
def forgets_who_hung_up_while_paused(entry: Entry) -> None:
    """A client that is gone while it was not read is forgotten, at the latest once what it published is stored."""
    storage = SlowStorage()
    batch = batch_of(bytes(65_536), producer=1)
    with (
        Running(entry, Options(max_unacked_bytes=_MIB), storage=storage) as broker,
        Client(broker, send_buffer=65_536) as client,
        Client(broker) as bystander,
    ):
        client.open()
        for number in range(384):
            client.connection.send(Opcode.PUBLISH, batch, 10 + number, 1)
        sending = threading.Thread(target=_as_far_as_it_goes, args=(client,))
        sending.start()
        try:
            eventually(
                lambda: any(session.paused for session in broker.broker.sessions),
                "the broker takes more than it may, and does not pause the connection",
            )
            client.sock.shutdown(socket.SHUT_RDWR)
            sending.join(PATIENCE)
            client.reset()
            bystander.ping()
        finally:
            storage.release()
        eventually(
            lambda: len(broker.broker.sessions) == 1, "the broker still counts a connection that is gone"
        )


def _as_far_as_it_goes(client: Client) -> None:
    with suppress(OSError):
        client.flush()


@check(SUITE)
def bounds_answers_that_nobody_reads(entry: Entry) -> None:
    """A client that asks for much and reads nothing gets no more than a few MB ahead; once it reads, it gets all."""
    storage = SlowStorage()
    storage.release()
    asked, most = 48, 16 * _MIB
    with Running(entry, storage=storage) as broker, Client(broker) as publisher:
        publisher.open()
        for number in range(16):
            publisher.publish(batch_of(bytes(65_536)), 10 + number)
            publisher.expect(Opcode.PUBACK)
        with Client(broker, receive_buffer=65_536) as client:
            for number in range(asked):
                client.connection.send_control(Opcode.FETCH, control.Fetch(TOPIC, bytes=_MIB), 10 + number)
            client.flush()
            eventually(lambda: storage.read_bytes > 0, "no FETCH was handled")
            settles(lambda: storage.read_bytes)
            require(
                storage.read_bytes < most,
                f"{storage.read_bytes:,} bytes were read for a client that reads none",
            )
            publisher.ping()
            for number in range(asked):
                answer = client.expect(Opcode.DELIVER, 10 + number)
                require(
                    len(answer.body) > _MIB - 2 * 65_536, f"answer {number} has {len(answer.body):,} bytes"
                )
            client.ping()


@check(SUITE)
def lets_go_of_those_who_do_not_read(entry: Entry) -> None:
    """A client that is hung up on and does not read what is still due to it is let go of after the grace."""
    with (
        Running(entry) as broker,
        Client(broker) as publisher,
        Client(broker, receive_buffer=65_536) as client,
    ):
        publisher.open()
        client.subscribe()
        for number in range(128):
            publisher.publish(batch_of(bytes(65_536), producer=1), 10 + number)
        settles(lambda: broker.broker.turns)
        client.send(b"garbage" * 10)
        eventually(
            lambda: len(broker.broker.sessions) == 1,
            "a connection that is closed and not read from is still there",
            GRACE + PATIENCE,
        )
        publisher.connection.take_output()


@check(SUITE)
def leaves_nothing_behind(entry: Entry) -> None:
    """After `run` no descriptor, thread or unclosed resource is left, however its clients ended."""
    if not Path("/proc/self/fd").is_dir():
        raise NotApplicable("descriptors are counted in /proc, which is not here")
    _one_life(entry)  # what a first life imports and caches stays
    gc.collect()
    before, threads = _descriptors(), threading.active_count()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        _one_life(entry)
        gc.collect()
    resources = [str(warning.message) for warning in warned if issubclass(warning.category, ResourceWarning)]
    require(not resources, f"not closed: {'; '.join(resources[:3])}")
    require(threading.active_count() <= threads, f"{threading.active_count() - threads} threads are left")
    left = _descriptors() - before
    require(left <= 0, f"{left} file descriptors are left")


def _one_life(entry: Entry) -> None:
    with Running(entry) as broker, ExitStack() as stack:
        clients = [stack.enter_context(Client(broker)) for _ in range(20)]
        for number, client in enumerate(clients):
            match number % 4:
                case 0:
                    client.close()
                case 1:
                    client.reset()
                case 2:
                    client.send(b"garbage" * 10)
                    client.expect_end()
        broker.server.stop()
        for client in clients[3::4]:
            client.connection.send(Opcode.DRAIN)
            client.flush()
            client.expect_end()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a list, to be counted


@check(SUITE)
def can_be_stopped_before_it_runs(entry: Entry) -> None:
    """`stop` before `run` is not forgotten: `run` returns soon."""
    broker = Running(entry)
    broker.server.stop()
    broker.thread.start()
    began = time.monotonic()
    broker.thread.join(GRACE + PATIENCE)
    require(not broker.thread.is_alive(), "run() did not return after a stop() that came first")
    require(time.monotonic() - began < GRACE + PATIENCE, "it took longer than its grace")
    require(broker.failure is None, f"run() raised {broker.failure!r}")
