"""``portask bench`` against real brokers: figures that account for every message, and faults that are noticed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from portask import sync
from portask.cli import app
from portask.cli.bench.consuming import Subscriber
from portask.cli.bench.orders import Load, Task, Timing
from portask.cli.bench.producing import Producer, open_loop, window
from portask.client import connect
from portask.messages import RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.wire import batches
from tests.cli.conftest import PROGRAM, Result, Running, environment, on_terminal, run
from tests.conftest import RunningBroker, StartBroker

_names = count()


@pytest.fixture
def topic() -> str:
    return f"load{next(_names)}"


def bench(broker: Running | RunningBroker, *arguments: str) -> Result:
    return run("bench", *arguments, "--url", broker.url)


def measured(broker: Running | RunningBroker, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a bench says in JSON."""
    result = bench(broker, *arguments, "--json")
    assert result.code == code, result
    found: dict[str, Any] = json.loads(result.out)
    assert found["ok"] is (code == 0), found
    return found


def stored(broker: Running | RunningBroker, topic: str) -> int:
    with sync.connect(broker.url) as client:
        return sum(part.next for info in client.topics(topic) for part in info.partitions)


# ── figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pub_counts_what_was_acknowledged(broker: Running, topic: str) -> None:
    found = measured(
        broker, "pub", topic, "--messages", "5003", "--batch", "500", "--producers", "3", "--partitions", "2"
    )
    assert found["published"]["messages"] == stored(broker, topic) == 5003
    assert found["published"]["messages_per_second"] > 0
    assert found["formed"]["messages"] == pytest.approx(5003 / found["formed"]["count"])
    assert found["received"] is found["faults"] is found["latency"] is None
    assert [each["does"] for each in found["cpu"]] == ["3 producers"]


def test_one_at_a_time_lets_the_linger_make_the_batches(broker: Running, topic: str) -> None:
    alone = measured(broker, "pub", topic, "--messages", "300", "--batch", "1", "--in-flight", "1")
    assert alone["formed"]["messages"] == 1
    together = measured(broker, "pub", topic, "--messages", "300", "--batch", "1", "--linger", "20ms")
    assert together["formed"]["messages"] > 10
    assert stored(broker, topic) == 600


async def test_acks_are_counted_as_they_come(start_broker: StartBroker) -> None:
    """Not only once so many messages are under way that one has to be waited for."""
    load = Load(url=start_broker().url, kind="pub", topic="t", messages=50, producers=1, batch=1, rate=250.0)
    async with connect(load.url) as client:
        await client.create_topic("t")
        producer = Producer(load, 0, client)
        counts = set()
        running = asyncio.create_task(producer.run(time.monotonic_ns()))
        while not running.done():
            counts.add(producer.acked)
            await asyncio.sleep(0.001)
        await running
    assert producer.acked == 50
    assert len(counts) > 5


@pytest.mark.parametrize("processes", [1, 3])
def test_both_accounts_for_every_message_at_every_subscriber(
    broker: Running, topic: str, processes: int
) -> None:
    found = measured(
        broker,
        *("both", topic, "--messages", "6001", "--batch", "100", "--partitions", "3", "--size", "24"),
        *("--producers", "2", "--subscribers", "3", "--processes", str(processes)),
    )
    assert found["published"]["messages"] == 6001
    assert found["received"]["messages"] == 3 * 6001
    assert found["faults"] == dict.fromkeys(("lost", "repeated", "reordered", "altered", "invented"), 0)
    assert found["foreign"] == 0
    assert len(found["cpu"]) == processes
    assert len(found["received"]["by_process"]) == (1 if processes == 1 else 2)
    assert found["delivered"]["messages"] * found["delivered"]["count"] == pytest.approx(3 * 6001)


def test_the_members_of_a_group_share(broker: Running, topic: str) -> None:
    found = measured(
        broker,
        *("both", topic, "--messages", "4000", "--batch", "50", "--partitions", "4", "--group", topic),
        *("--subscribers", "3", "--processes", "3"),
    )
    assert found["received"]["messages"] == 4000


def test_a_topic_in_use_is_measured_by_ones_own_messages(broker: Running, topic: str) -> None:
    with sync.connect(broker.url) as client:
        client.publish_many(topic, [b"x" * 100] * 50)
        measured(broker, "pub", topic, "--messages", "100", "--batch", "100")
        found = measured(broker, "both", topic, "--messages", "100", "--batch", "10")
        assert found["received"]["messages"] == 100
        read = measured(broker, "sub", topic, "--from", "earliest", "--timeout", "1")
    assert read["received"]["messages"] == 200
    assert read["foreign"] == 50
    assert "50 messages of others" in read["notes"][0]


def test_sub_proves_what_another_bench_published(broker: Running, topic: str) -> None:
    measured(
        broker,
        *("pub", topic, "--messages", "3000", "--batch", "100", "--producers", "2", "--partitions", "2"),
        *("--filler", "text", "--compression", "always"),
    )
    found = measured(
        broker,
        *("sub", topic, "--from", "earliest", "--messages", "3000", "--subscribers", "2", "--processes", "2"),
    )
    assert found["received"]["messages"] == 6000
    assert found["published"] is None
    few = measured(
        broker, "sub", topic, "--from", "earliest", "--messages", "3001", "--timeout", "0.5", code=1
    )
    assert few["problems"] == [f"3,000 of 3,001 messages of {topic} came, then none for 0.5 s"]
    none = measured(broker, "sub", topic, "--timeout", "0.3", code=1)
    assert "--from earliest" in none["problems"][0]


def test_sub_begins_with_the_first_message_that_comes(broker: Running, topic: str) -> None:
    with subprocess.Popen(
        [*PROGRAM, "bench", "sub", topic, "--messages", "2000", "--json", "--url", broker.url],
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        wait_for(lambda: subscribers(broker, topic) == 1, create=topic, broker=broker)
        time.sleep(3)  # it waits, and that is in no rate
        began = time.monotonic()
        measured(broker, "pub", topic, "--messages", "2000", "--batch", "100")
        out, _ = process.communicate(timeout=20)
        taken = time.monotonic() - began
    assert process.returncode == 0
    found = json.loads(out)
    assert found["received"]["messages"] == 2000
    assert found["received"]["seconds"] < taken


def subscribers(broker: Running, topic: str) -> int:
    with sync.connect(broker.url) as client:
        return sum(part.subscribers for info in client.topics(topic) for part in info.partitions)


def wait_for(met: Callable[[], bool], *, create: str = "", broker: Running | None = None) -> None:
    if broker is not None:
        with sync.connect(broker.url) as client:
            client.create_topic(create)
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.02)


def test_a_rate_is_kept(broker: Running, topic: str) -> None:
    found = measured(broker, "pub", topic, "--rate", "1000", "--batch", "10", "--duration", "1s")
    # the hundred batches that are due in a second and no more; a busy machine may not come to all of them
    assert 0 < found["published"]["messages"] <= 1000


@pytest.mark.parametrize("schedule", ["constant", "poisson"])
def test_latency_times_every_message_after_the_warm_up(broker: Running, topic: str, schedule: str) -> None:
    result = bench(
        broker,
        *("latency", topic, "--rate", "200", "--duration", "2s", "--schedule", schedule, "--json"),
        *("--subscribers", "2", "--producers", "2", "--partitions", "2", "--processes", "2"),
    )
    found = json.loads(result.out)
    assert result.code == (1 if found["latency"]["invalid"] else 0)  # the machine may be too busy
    latency = found["latency"]
    sent = found["published"]["messages"]
    assert sent == 400 if schedule == "constant" else 250 < sent < 550
    assert found["received"]["messages"] == 2 * sent
    assert latency["messages"] == 2 * latency["sends"]
    assert latency["sends"] == (320 if schedule == "constant" else pytest.approx(0.8 * sent, rel=0.2))
    ordered = [latency[name] for name in ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")]
    assert ordered[0] > 0
    assert ordered == sorted(ordered)


def test_latency_counts_from_the_time_at_which_a_message_was_due(
    start_broker: StartBroker, topic: str
) -> None:
    """The broker stands still for half a second: whatever was due meanwhile was late, not just one message."""
    broker = start_broker()
    with interfered(broker, _Standing(after=150)):
        result = bench(broker, "latency", topic, "--rate", "100", "--duration", "3s", "--json")
    latency = json.loads(result.out)["latency"]
    assert latency["messages"] == 240
    assert latency["max_us"] > 490_000
    assert latency["p90_us"] > 200_000, "a closed loop would have sent one message into the pause"


async def test_a_message_that_is_sent_late_took_longer(start_broker: StartBroker) -> None:
    """The generator itself stands still: what was due meanwhile was late, and its latency says so."""
    load = Load(
        url=start_broker().url,
        kind="latency",
        topic="t",
        seconds=1.0,
        rate=100.0,
        producers=1,
        subscribers=1,
    )
    timing = Timing()
    async with connect(load.url) as client:
        await client.create_topic("t")
        producer, subscriber = Producer(load, 0, client), Subscriber(load, 0, client)
        await subscriber.subscribe()
        start = time.monotonic_ns()
        receiving = asyncio.create_task(subscriber.run(window(load, start)))
        asyncio.get_running_loop().call_later(0.5, time.sleep, 0.3)
        await open_loop(Task(load, 0, 1, [0], [0]), [producer], start, timing)
        while subscriber.ledger.messages < 100:  # noqa: ASYNC110 - nothing tells when it is so
            await asyncio.sleep(0.01)
        receiving.cancel()
    assert timing.sends == subscriber.latencies.count == 80
    assert timing.late >= 25, "those that were due in the pause, but for its last 10 ms"
    assert timing.worst > 250_000_000
    assert subscriber.latencies.largest > timing.worst
    assert subscriber.latencies.percentile(0.75) > 10_000_000


def test_a_generator_that_cannot_keep_up_says_so(broker: Running, topic: str) -> None:
    found = measured(broker, "latency", topic, "--rate", "2000000", "--messages", "200000", code=1)
    assert found["latency"]["invalid"]
    assert found["problems"][0].startswith("the run is invalid: ")
    assert found["faults"]["lost"] == 0, "slow, and complete"


# ── faults of a broker ────────────────────────────────────────────────────────────────────────────────────────────────


class _Fault:
    """Takes the place of a storage's append."""

    def __init__(self, after: int = 5) -> None:
        self.calls = 0
        self.after = after

    def __call__(self, append: Callable[..., None], *arguments: Any) -> None:
        self.calls += 1
        if self.calls == self.after:
            self.act(append, *arguments)
        else:
            append(*arguments)

    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        raise NotImplementedError


class _Standing(_Fault):
    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        time.sleep(0.5)
        append(key, batch, now, done)


class _Losing(_Fault):
    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        done(0, None)


class _Repeating(_Fault):
    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        append(key, batch, now, done)
        append(key, batch, now, lambda *_: None)


class _Altering(_Fault):
    """Of what lies in the storage: those who wait at the end of the log get the bytes as they came."""

    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        body = bytearray(batch.body)
        body[-1] ^= 1
        made = batches.build(bytes(body), batch.count, codec=batch.codec, base_timestamp=batch.base_timestamp)
        append(key, batches.parse(made), now, done)


class _Reordering(_Fault):
    kept: tuple[Any, ...] = ()

    def __call__(self, append: Callable[..., None], *arguments: Any) -> None:
        super().__call__(append, *arguments)
        if self.kept and self.calls > self.after:
            append(*self.kept)
            self.kept = ()

    def act(
        self, append: Callable[..., None], key: TopicPartition, batch: RecordBatch, now: int, done: Any
    ) -> None:
        self.kept = (key, batches.parse(bytes(batch.data)), now, lambda *_: None)
        done(0, None)


@contextmanager
def interfered(broker: RunningBroker, fault: _Fault) -> Iterator[None]:
    """A real broker whose storage does one thing wrong."""
    storage = broker.engine.storage
    assert isinstance(storage, MemoryStorage)
    append = storage.append
    storage.append = lambda *arguments: fault(append, *arguments)  # type: ignore[method-assign]
    yield
    assert fault.calls >= fault.after


FAULTS: list[tuple[type[_Fault], dict[str, int]]] = [
    (_Losing, {"lost": 10}),
    (_Repeating, {"repeated": 10}),
    (_Reordering, {"reordered": 10}),
]


@pytest.mark.parametrize(("fault", "wrong"), FAULTS)
def test_a_broken_broker_is_noticed(
    start_broker: StartBroker, topic: str, fault: type[_Fault], wrong: dict[str, int]
) -> None:
    broker = start_broker()
    with interfered(broker, fault()):
        result = bench(broker, "both", topic, "--messages", "200", "--batch", "10", "--subscribers", "2")
    shout = ", ".join(f"{2 * number} {name}" for name, number in sorted(wrong.items(), reverse=True))
    assert result.code == 1
    assert re.search(rf"^received .*\n +\d+ messages, {shout.upper()}$", result.out, re.MULTILINE), result.out
    assert f"WRONG: what was received is not what was published: {shout}." in result.out
    assert result.err == f"portask: what was received is not what was published: {shout}\n"


@pytest.mark.parametrize(("fault", "wrong"), FAULTS[:2])
def test_a_broken_broker_is_noticed_by_a_group(
    start_broker: StartBroker, topic: str, fault: type[_Fault], wrong: dict[str, int]
) -> None:
    broker = start_broker()
    with interfered(broker, fault()):
        found = measured(
            broker,
            *("both", topic, "--messages", "200", "--batch", "10", "--group", "g"),
            *("--subscribers", "2", "--processes", "3"),
            code=1,
        )
    assert {name: number for name, number in found["faults"].items() if number} == wrong


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [(_Losing, {}), (_Repeating, {"repeated": 10}), (_Altering, {"altered": 1, "lost": 1})],
)
def test_a_broken_broker_is_noticed_later(
    start_broker: StartBroker, topic: str, fault: type[_Fault], wrong: dict[str, int]
) -> None:
    """By a bench that knows of the messages only what they say themselves."""
    broker = start_broker()
    with interfered(broker, fault()):
        published = bench(broker, "pub", topic, "--messages", "200", "--batch", "10", "--json")
    if fault is _Losing:
        assert published.code == 1
        assert f"acknowledged 200 messages and has 190 more than before in {topic}" in published.err
        wrong = {"lost": 10}
    found = measured(broker, "sub", topic, "--from", "earliest", "--timeout", "0.5", code=1)
    assert {name: number for name, number in found["faults"].items() if number} == wrong


# ── the end, too early ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [("both",), ("pub", "--batch", "1"), ("latency", "--rate", "200")],
    ids=lambda arguments: arguments[0],
)
def test_a_broker_that_is_killed_leaves_the_figures_up_to_then(
    serving: Callable[..., Running], topic: str, arguments: tuple[str, ...]
) -> None:
    broker = serving()
    with running(broker, topic, *arguments) as process:
        broker.end(signal.SIGKILL)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith(f"portask: the connection to 127.0.0.1:{broker.port} is lost")
    assert err.count("\n") == 1
    assert re.search(r"^published +[\d,]+ msg/s", out, re.MULTILINE)
    assert "Broke off: the connection" in out
    assert "WRONG" not in out, "nobody can tell what was still to come"


def test_a_broker_that_is_told_to_end_is_one_line(serving: Callable[..., Running], topic: str) -> None:
    broker = serving()
    with running(broker, topic, "both") as process:
        broker.end(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith("portask: ")
    assert err.count("\n") == 1
    assert "Broke off: " in out


@contextmanager
def running(broker: Running, topic: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A long bench that is past its beginning."""
    command = (arguments[0], topic, *arguments[1:], "--duration", "60s", "--url", broker.url)
    with subprocess.Popen(
        [*PROGRAM, "bench", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            wait_for(lambda: stored(broker, topic) > (100 if arguments[0] == "latency" else 5000))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [("both",), ("pub",), ("both", "--group", "g"), ("latency",)])
def test_an_interrupt_shows_the_figures_up_to_then(
    broker: Running, topic: str, arguments: tuple[str, ...]
) -> None:
    with running(broker, topic, *arguments) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert "Interrupted: these are the figures up to then." in out
    published = re.search(r"^published .*\n +([\d,]+) messages, acknowledged$", out, re.MULTILINE)
    assert published is not None
    assert int(published[1].replace(",", "")) == stored(broker, topic)
    if arguments[0] != "pub":
        assert f" {published[1]} messages, none lost, repeated, reordered or altered" in out


def test_an_interrupt_does_not_wait_for_a_broker_that_stands_still(broker: Running, topic: str) -> None:
    with running(broker, topic, "both") as process:
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=25)
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)
    assert process.returncode == 1
    assert err.startswith("portask: what was under way was not acknowledged within 5 s after the interrupt; ")
    assert err.count("\n") == 1
    assert re.search(r"^received +[\d,]+ msg/s", out, re.MULTILINE)
    assert "WRONG" not in out


def test_a_second_interrupt_ends_it_at_once(broker: Running, topic: str) -> None:
    with running(broker, topic, "both") as process:
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_load_process_that_dies_is_one_line(broker: Running, topic: str) -> None:
    with running(broker, topic, "both") as process:
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err == "portask: a process that made load ended before its report: it said nothing\n"


def test_load_ends_with_the_program_that_started_it(broker: Running, topic: str) -> None:
    with running(broker, topic, "both") as process:
        started = children(process.pid)
        assert len(started) == 2
        process.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


# ── manners ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_people_see_how_far_it_is_and_machines_do_not(broker: Running, topic: str) -> None:
    arguments = (
        "bench",
        "both",
        topic,
        "--duration",
        "1s",
        "--rate",
        "5000",
        "--batch",
        "10",
        "--url",
        broker.url,
    )
    shown = on_terminal(*arguments)
    assert "starting 2 processes" in shown
    assert re.search(r"█░+ +\d+%  received [\d,]+  [\d,]+ msg/s  0:01 left", shown)
    assert "\x1b[1m" in shown
    plain = on_terminal(*arguments, "--no-progress", NO_COLOR="1")
    assert "\x1b[1m" not in plain
    assert "left" not in plain
    piped = run(*arguments)
    assert (piped.code, piped.err) == (0, "")
    assert "\x1b" not in piped.out
    assert "left" not in piped.out


def test_the_summary_says_all_that_an_issue_needs(broker: Running, topic: str) -> None:
    out = bench(broker, "both", topic, "--messages", "2000", "--batch", "100", "--partitions", "2").out
    command = (
        f"portask bench both {topic} --messages 2000 --size 128 --filler random --batch 100 --producers 1 "
        f"--subscribers 1 --processes 2 --partitions 2 --codec cbor2 --compression never --url {broker.url}"
    )
    lines = out.splitlines()
    assert lines[0] == command
    with sync.connect(broker.url) as client:
        described = client.describe()
    assert described.broker.startswith("portask 0.")
    parts = f"server {described.settings['server']}, storage {described.settings['storage']}"
    assert lines[2].split(maxsplit=1) == ["broker", f"{described.broker} at 127.0.0.1:{broker.port}"]
    assert lines[3].strip() == f"{parts}, durability {described.durability}"
    for pattern in (
        r"client +portask \d\S*, codec cbor2, compression never",
        r"machine +\d+ cores?, .+",
        r" +CPython 3\.\d+\.\d+, Linux .+",
        r"published +[\d,]+ msg/s  [\d,.]+ MB/s  in \d\.\d\d s",
        r" +2,000 messages, acknowledged",
        r"received +[\d,]+ msg/s  [\d,.]+ MB/s  in \d\.\d\d s",
        r" +2,000 messages, none lost, repeated, reordered or altered",
        r"batches +published 20, of 100\.0 messages and [\d,]+ bytes on average",
        r" +delivered 20, of 100\.0 messages on average, median 100, largest 100",
        r"cpu +process 1: \d+% of a core, waited \d+% \(1 producer\)",
        r" +process 2: \d+% of a core, waited \d+% \(1 subscriber\)",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, out)
    again = run(*command.split()[1:])
    assert again.code == 0
    assert again.out.splitlines()[0] == command


def test_without_a_topic_a_new_one_is_used(broker: Running) -> None:
    made = [measured(broker, "pub", "--messages", "10")["load"]["topic"] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(name.startswith("bench.") for name in made)
    assert [stored(broker, name) for name in made] == [10, 10]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("pub", "--size", "23"), "23 bytes have no room for a message's number and time: use 24 or more"),
        (("pub", "--messages", "5", "--duration", "5s"), "both say when to end"),
        (("pub", "--duration", "5"), "'5' is no length of time"),
        (("both", "--processes", "3"), "3 is more than there are clients to spread, 2: raise --producers"),
        (("pub", "--linger", "5ms"), "add --batch 1"),
        (("pub", "--in-flight", "5"), "add --batch 1"),
        (("sub",), "Missing argument 'FILTER'"),
        (("latency", "--schedule", "bursts"), "'bursts' is not one of"),
    ],
)
def test_wrong_usage_needs_no_broker(arguments: tuple[str, ...], part: str) -> None:
    result = CliRunner().invoke(app.cli, ["bench", *arguments, "--url", "portask://127.0.0.1:1"])
    assert result.exit_code == 2
    assert part in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("pub", "a..b"), "is not a topic name"),
        (("sub", "a..b"), "is not a filter"),
        (("pub", "--codec", "nonsense"), "there is no codec named 'nonsense'; there are: cbor2"),
        (("both", "--compression", "nonsense"), "there is no compression named 'nonsense'"),
        (("pub", "--partitions", "2000"), "2,000 partitions: this broker allows 1 to 1,024"),
        (("both", "--size", "9000000", "--messages", "2"), "are above the broker's limit of 8,388,608"),
        (("pub", "--url", "http://x"), "does not begin with portask://"),
        (("latency", "--url", "portask://127.0.0.1:1"), "start a broker with `portask serve`"),
    ],
)
def test_what_cannot_begin_is_one_line(
    broker: Running,
    arguments: tuple[str, ...],
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORTASK_URL", broker.url)
    assert app.run(["bench", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("portask: ")
    assert err.count("\n") == 1
    assert part in err


def test_a_topic_that_is_different_is_one_line(broker: Running, topic: str) -> None:
    with sync.connect(broker.url) as client:
        client.create_topic(topic, 2)
    result = bench(broker, "pub", topic, "--partitions", "3")
    assert (result.code, result.out) == (1, "")
    assert (
        result.err
        == f"portask: {topic} has 2 partitions, not 3: name another topic, or leave --partitions out\n"
    )


def test_a_broker_that_makes_no_topics_is_one_line(
    serving: Callable[..., Running], toml: Callable[[str], str]
) -> None:
    broker = serving("--config", toml("[topics]\nauto_create = false"))
    result = bench(broker, "both", "new")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("name one that it has: `portask topics` lists them\n")
    assert result.err.count("\n") == 1


def test_a_full_broker_is_one_line(serving: Callable[..., Running], toml: Callable[[str], str]) -> None:
    settings = '[memory]\nmax_bytes = 8388608\n[storage]\nvariant = "memory"'
    broker = serving("--config", toml(settings))
    result = bench(broker, "pub", "--size", "100000", "--batch", "10", "--messages", "1000")
    assert result.code == 1
    assert "holds its 8,388,608 bytes" in result.err
    assert result.err.count("\n") == 1
    assert "Broke off: " in result.out
