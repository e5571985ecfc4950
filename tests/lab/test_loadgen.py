"""The load generator: keeps its schedule, proves what arrives, and says when a run must not count."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portask.sync
from portask.errors import ConnectFailed, RemoteProtocolError
from portask.measuring import schedule
from portask.wire import batches, compression
from portask.wire.frames import HEADER_SIZE, FrameParser, Opcode, frame_header
from portask_lab.loadgen import broker, closedloop, openloop, relay
from portask_lab.loadgen.consumer import CountingConsumer, TimedConsumer
from portask_lab.loadgen.crowd import Crowd
from portask_lab.loadgen.latencies import BOUNDS, histogram, percentile
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import HEAD, Batches, Ring
from portask_lab.loadgen.processes import Child, Machine
from portask_lab.workloads import WrongResult

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the load generator reads /proc and uses epoll"
)


# ── schedules and sums ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=200))
def test_a_histogram_counts_every_latency_near_its_place(taken: list[int]) -> None:
    found = histogram(taken, "p99")
    assert sum(found.counts) == len(taken)
    spread = [bound for bound, count in zip(BOUNDS, found.counts, strict=True) for _ in range(count)]
    for got, true in zip(spread, sorted(taken), strict=True):
        assert got == BOUNDS[-1] or max(1, true / 1000) <= got * 1.0001 <= max(1, true / 1000) * 1.021


@given(st.lists(st.integers(), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-6
    assert sum(value < found for value in ordered) <= share * len(ordered)


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("size", "count"), [(16, 1), (64, 1), (100, 50), (65_536, 2), (300, 7)])
def test_stamped_frames_are_publishes_that_the_broker_takes(size: int, count: int) -> None:
    source = Batches(size, count, channel=3, publisher=5, gap=1000)
    for sequence in (0, 1, 2000):
        (frame,) = FrameParser(1 << 30).feed(bytes(source.frame(sequence, 123_456_789)))
        assert (frame.opcode, frame.correlation, frame.channel) == (Opcode.PUBLISH, sequence + 1, 3)
        found = batches.parse(frame.body)
        assert (found.count, len(found.body) // count) == (count, len(found.body) / count)
        assert (
            abs(found.base_timestamp - time.time_ns() // 1000 + time.monotonic_ns() // 1000 - 123_456)
            < 2_000_000
        )
        head = HEAD.unpack_from(found.body, len(found.body) // count - size)
        assert head == (123_456_789, sequence, 5)
    assert list(source.offsets) == [-1000 * (count - 1 - place) for place in range(count)]


def test_a_payload_has_room_for_its_head() -> None:
    with pytest.raises(ValueError, match="16 at least"):
        Batches(15)


def test_a_ring_is_its_frames_in_order() -> None:
    ring = Ring(100, 10, 2, least=60)
    assert ring.length >= 120
    frames = FrameParser(1 << 30).feed(ring.frames(5, 3))
    assert [frame.correlation for frame in frames] == [6, 7, 8]
    assert len(ring.frames(ring.length - 2, 10)) == 2 * ring.frame_size, "it ends at its end"
    assert ring.frames(ring.length, 1) == ring.frames(0, 1)


# ── what is received ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def fake_broker(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose one client gets what ``answer`` sends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                answer(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def sends(data: bytes) -> Callable[[socket.socket], None]:
    """Sends, and waits until the other side hangs up."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.recv(1)

    return serve


def frames(size: int, sequences: list[int]) -> list[bytes]:
    source = Batches(size)
    return [bytes(source.frame(sequence, time.monotonic_ns())) for sequence in sequences]


def damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (frames(64, [0, 1, 3]), "message 2 was due, 3 came"),
        (frames(64, [0, 1, 1]), "message 2 was due, 1 came"),
        (frames(64, [1, 0]), "message 0 was due, 1 came"),
        ([*frames(64, [0]), damaged(frames(64, [1])[0])], "checksum"),
        ([*frames(64, [0]), b"x" * 24], "out of step"),
    ],
)
def test_lost_repeated_reordered_or_altered_is_shouted_about(sent: list[bytes], complaint: str) -> None:
    with fake_broker(lambda sock: sock.sendall(b"".join(sent))) as port:
        consumer = TimedConsumer(port, "", 1, 64, 10, bare=True)
        try:
            with pytest.raises(WrongResult, match=complaint):
                receive_all(consumer)
        finally:
            consumer.close()


def test_a_broker_that_hangs_up_is_an_error() -> None:
    with fake_broker(lambda sock: sock.sendall(frames(64, [0])[0])) as port:
        consumer = TimedConsumer(port, "", 1, 64, 10, bare=True)
        try:
            with pytest.raises(RemoteProtocolError, match="hung up"):
                receive_all(consumer)
        finally:
            consumer.close()


def test_frames_cut_anywhere_are_put_together() -> None:
    data = b"".join(frames(300, list(range(20))))

    def trickle(sock: socket.socket) -> None:
        for start in range(0, len(data), 37):
            sock.sendall(data[start : start + 37])
            time.sleep(0.0001)
        sock.recv(1)

    with fake_broker(trickle) as port:
        consumer = TimedConsumer(port, "", 1, 300, 20, bare=True)
        receive_all(consumer, 20)
        consumer.close()
        assert consumer.messages == consumer.batches == 20
        assert min(consumer.latency) > 0


def test_a_frame_larger_than_the_buffer_is_taken_whole() -> None:
    source = Batches(1_500_000, 2)
    with fake_broker(sends(bytes(source.frame(0, time.monotonic_ns())))) as port:
        consumer = TimedConsumer(port, "", 2, 1_500_000, 1, bare=True)
        receive_all(consumer, 1)
        consumer.close()
        assert consumer.messages == 2


def receive_all(consumer: TimedConsumer, count: int = 1 << 30) -> None:
    deadline = time.monotonic() + 10
    while consumer.batches < count and time.monotonic() < deadline:
        try:
            consumer.read()
        except BlockingIOError:
            time.sleep(0.0005)


@pytest.mark.parametrize("algorithm", [compression.NONE, compression.ZLIB])
def test_gathered_batches_are_read_from_where_the_reader_stands(algorithm: int) -> None:
    """A stored batch may begin before the offset that was due: those records are skipped, not counted twice.

    And a storage may compress what it gathered, which is unfolded before it is looked at.
    """
    source = Batches(64)
    bodies = [bytes(source.frame(n, time.monotonic_ns()))[HEADER_SIZE + 64 :] for n in range(6)]

    def gathered(first: int, last: int) -> bytes:
        body = b"".join(bodies[first:last])
        found = batches.build(
            zlib.compress(body) if algorithm else body,
            last - first,
            codec=1,
            base_timestamp=0,
            base_offset=first,
            attributes=compression.attributes_for(algorithm),
            raw_length=len(body),
        )
        return frame_header(Opcode.DELIVER, len(found)) + found

    with fake_broker(sends(gathered(0, 2) + gathered(0, 4) + gathered(3, 6))) as port:
        consumer = _Offsets(port, "", 1, 64, 6, bare=True)
        receive_all(consumer, 6)
        consumer.close()
        assert consumer.messages == 6


class _Offsets(TimedConsumer):
    """One that looks at offsets although nobody shook hands."""

    def __init__(self, port: int, topic: str, count: int, size: int, expected: int, *, bare: bool) -> None:
        super().__init__(port, topic, count, size, expected, bare=bare)
        self._bare = False


# ── whole runs ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def served() -> Iterator[Child]:
    with broker.start("epoll") as child:
        yield child


@pytest.mark.parametrize(("count", "spin"), [(1, True), (20, False)])
def test_an_open_loop_run_accounts_for_every_message(served: Child, count: int, spin: bool) -> None:
    times = schedule.constant(500, 0.2)
    source = Batches(100, count, gap=10_000)
    publisher, consumer = (
        Publisher(served.port, f"open{count}"),
        TimedConsumer(served.port, f"open{count}", count, 100, 100),
    )
    calls: list[int] = []
    try:
        found = openloop.run(
            [(publisher, source)], consumer, times, spin=spin, window=lambda: calls.append(1)
        )
    finally:
        publisher.close()
        consumer.close()
    assert (found.sent, found.received) == (100 * count, 100 * count)
    assert len(found.latencies) == 80 * count, "a fifth is warm-up"
    assert found.rate == pytest.approx(500 * count, rel=0.02)
    assert min(found.latencies) > 0
    assert len(calls) == 2
    assert publisher.acked == 100
    spread = max(source.offsets) - min(source.offsets)
    assert max(found.latencies) - min(found.latencies) >= spread, (
        "messages that waited for their batch took longer"
    )


def test_latency_counts_from_the_intended_time_not_from_the_sending(served: Child) -> None:
    """The generator is held up for 30 ms: what was due meanwhile was late by that much, and so is its latency."""
    times = schedule.constant(1000, 0.1)
    publisher, consumer = Publisher(served.port, "due"), TimedConsumer(served.port, "due", 1, 64, 100)
    try:
        found = openloop.run([(publisher, Batches(64))], consumer, times, window=lambda: time.sleep(0.03))
    finally:
        publisher.close()
        consumer.close()
    assert found.received == 100
    assert found.lateness[0] >= 29_000_000
    assert all(taken > late for taken, late in zip(found.latencies, found.lateness, strict=True))
    assert "late" in found.invalid or "arrived" in found.invalid


@pytest.mark.parametrize("times", [[], [0], [5, 5]])
def test_a_schedule_without_a_rate_is_refused(served: Child, times: list[int]) -> None:
    publisher, consumer = Publisher(served.port, "none"), TimedConsumer(served.port, "none", 1, 64, 2)
    try:
        with pytest.raises(ValueError, match="measure longer"):
            openloop.run([(publisher, Batches(64))], consumer, array("q", times))
    finally:
        publisher.close()
        consumer.close()


@pytest.mark.parametrize(
    ("publishers", "subscribers", "count"), [(1, 1, 1), (1, 1, 100), (2, 3, 10), (3, 1, 1)]
)
def test_a_closed_loop_run_accounts_for_every_message(
    served: Child, publishers: int, subscribers: int, count: int
) -> None:
    topic = f"closed{publishers}{subscribers}{count}"
    rings = [Ring(64, count, place, 50) for place in range(publishers)]
    senders = [(Publisher(served.port, topic), ring) for ring in rings]
    takers = [
        CountingConsumer(served.port, topic, count, 64, [ring.length for ring in rings])
        for _ in range(subscribers)
    ]
    try:
        found = closedloop.run(senders, takers, 0.15, 50)
    finally:
        for sender, _ in senders:
            sender.close()
        for taker in takers:
            taker.close()
    assert found.rate > 0
    assert found.received == sum(taker.messages for taker in takers)
    assert len({taker.messages for taker in takers}) == 1
    assert all(min(taker.taken) > 0 for taker in takers)


def test_a_relay_hands_on_what_it_gets() -> None:
    times = schedule.constant(500, 0.1)
    with relay.Sleeping().start() as child:
        publisher, consumer = (
            Publisher(child.port, "", bare=True),
            TimedConsumer(child.port, "", 1, 64, 50, bare=True),
        )
        found = openloop.run([(publisher, Batches(64))], consumer, times)
        publisher.close()
        consumer.close()
    assert found.received == 50


def test_a_crowd_is_alive_until_the_broker_ends() -> None:
    with broker.start("epoll") as child, Crowd(child.port, 2) as crowd:
        grown = crowd.grow(61)
        assert (grown.alive, grown.failed) == (61, 0)
        assert crowd.grow(9).alive == 9
        trip = crowd.round_trip()
        assert (trip.alive, trip.failed, len(trip.trips)) == (70, 0, 70)
        child.stop()
        lost = crowd.round_trip()
        assert (lost.alive, lost.failed) == (0, 70)
        assert sum(lost.reasons.values()) == 70


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────

_BUSY = """
import sys, threading, time
print("ready 1", flush=True)
def burn():
    end = time.thread_time() + 0.1
    while time.thread_time() < end: pass
for _ in range(2):
    thread = threading.Thread(target=burn); thread.start(); thread.join()
burn()
open("done", "w").close()
time.sleep(30)
"""


def test_cpu_is_that_of_the_process_as_the_kernel_counts_it() -> None:
    with Child([sys.executable, "-c", _BUSY]) as child:
        deadline = time.monotonic() + 20
        while not os.path.exists(f"{child.folder.name}/done") and time.monotonic() < deadline:  # noqa: PTH110 - polled
            time.sleep(0.005)
        clock = time.clock_gettime(
            (~child.pid << 3) | 2
        )  # CPUCLOCK_SCHED of another process; ended threads included
        assert 0.3 <= clock < 2
        assert 0.1 <= child.cpu() <= clock + 0.01
        assert child.private() > 1_000_000
        assert child.alive
    assert not child.alive


def test_descendants_count_too() -> None:
    nap = "import time; time.sleep(30)"
    code = f"import subprocess, sys; print('ready 1', flush=True); subprocess.run([sys.executable, '-c', '{nap}'])"
    with Child([sys.executable, "-c", code]) as child:
        deadline = time.monotonic() + 10
        while len(child.processes()) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(child.processes()) == 2


def test_a_server_that_dies_early_says_why() -> None:
    with pytest.raises(ConnectFailed, match=r"status 3.*no luck"):
        Child([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(ConnectFailed, match="instead of its port"):
        Child([sys.executable, "-c", "print('hello'); import time; time.sleep(9)"])


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ConnectFailed, match="no server named 'nonsense'"):
        broker.start("nonsense")


def test_the_machine_is_as_busy_as_we_are_at_least() -> None:
    before, began = Machine(), time.process_time()
    while time.process_time() < began + 0.1:
        pass
    assert 0.1 <= Machine().since(before) < 0.2 * (os.cpu_count() or 1) * 10


@pytest.mark.parametrize(("limits", "forgets"), [(broker.FLOW, True), (broker.Limits(), False)])
def test_a_broker_for_a_flow_keeps_no_more_than_its_limits(limits: broker.Limits, *, forgets: bool) -> None:
    child = broker.start("epoll", limits=limits)
    try:
        with portask.sync.connect(f"portask://127.0.0.1:{child.port}") as client:
            client.publish_many("a", [bytes(1 << 20)] * 80)
            until = time.monotonic() + 10
            while (first := client.topics("a")[0].partitions[0].first) == 0 and time.monotonic() < until:
                if not forgets and time.monotonic() > until - 7:
                    break  # three looks at the timers, and nothing was forgotten
                time.sleep(0.05)
            assert (first > 0) is forgets
    finally:
        child.stop()
