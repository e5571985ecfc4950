"""``sub --group`` in several shells, and ``groups``."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from portask import sync
from portask.client import OffsetRange
from tests.cli.conftest import PROGRAM, Running, environment, run

_names = count()


@pytest.fixture
def topic() -> str:
    return f"jobs{next(_names)}"


class Shell:
    """``portask sub TOPIC --group g`` in a process of its own, its lines read as they come."""

    def __init__(self, broker: Running, topic: str, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*PROGRAM, "sub", topic, "--group", "g", "--url", broker.url, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode().strip())

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(20)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


@pytest.fixture
def shells(broker: Running) -> Iterator[Callable[..., Shell]]:
    with ExitStack() as stack:

        def start(topic: str, *arguments: str) -> Shell:
            shell = Shell(broker, topic, *arguments)
            stack.callback(shell.end)
            return shell

        yield start


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_three_shells_share_the_work_and_one_that_is_killed_hands_its_part_over(
    broker: Running, shells: Callable[..., Shell], topic: str
) -> None:
    with sync.connect(broker.url) as client:
        client.create_topic(topic)
        members = [shells(topic) for _ in range(3)]
        until(lambda: sum(len(info.members) for info in client.groups("g")) == 3)

        def publish(first: int, end: int) -> list[OffsetRange]:
            return client.publish_many(topic, [b"%d" % number for number in range(first, end)]).ranges

        publish(0, 3000)
        until(lambda: sum(len(member.lines) for member in members) == 3000)
        assert all(member.lines for member in members)
        # Stopped, not killed: it goes on to be given records, and says nothing of them.
        members[0].process.send_signal(signal.SIGSTOP)
        publish(3000, 6000)
        until(lambda: client.groups("g")[0].members[0].in_flight > 0)
        members[0].end(signal.SIGKILL)
        until(lambda: client.groups("g")[0].lag == 0)
        (info,) = client.groups("g")
        seen = [line for member in members for line in member.lines]
        assert set(seen) == {str(number) for number in range(6000)}
        assert info.partitions[0].redelivered >= len(seen) - 6000
        for member in members[1:]:
            assert member.end(signal.SIGINT) == 130
        result = run("groups", "drop", "g", "--url", broker.url)
        assert (result.code, result.err) == (0, "")


def test_a_member_that_had_enough_leaves_the_rest_to_others(broker: Running, topic: str) -> None:
    with sync.connect(broker.url) as client:
        client.publish_many(topic, [b"%d" % number for number in range(10)])
    wanted = ("sub", topic, "--group", "h", "--from", "earliest", "--timeout", "10", "--url", broker.url)
    first = run(*wanted, "--count", "4", "--json", "--ack-wait", "20s")
    assert (first.code, first.err) == (0, "")
    read = [json.loads(line) for line in first.out.splitlines()]
    assert [(each["offset"], each["deliveries"]) for each in read] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    second = run(*wanted, "--count", "6", "--json")
    assert [json.loads(line)["deliveries"] for line in second.out.splitlines()] == [1] * 6
    (info,) = json.loads(run("groups", "--filter", "h", "--json", "--url", broker.url).out)
    assert (info["group"], info["lag"], info["pending"], info["ack_wait"]) == ("h", 0, 0, 20_000)
    assert info["partitions"][0]["committed"] == 10
    refused = run(*wanted, "--ack-wait", "5s")
    assert refused.code == 1
    assert "ack_wait" in refused.err


def test_a_group_goes_on_after_its_broker_was_killed(
    serving: Callable[..., Running],
    toml: Callable[[str], str],
    tmp_path: Path,
    topic: str,
) -> None:
    path = tmp_path / "log"
    settings = toml(f"[storage]\nvariant = 'segment-log'\n[storage.options]\npath = '{path}'")
    first = serving("--config", settings, "--log-level", "warning")
    with sync.connect(first.url) as client:
        client.create_topic(topic)
        one = Shell(first, topic)
        until(lambda: len(client.groups()) == 1)
        client.publish_many(topic, [b"%d" % number for number in range(2000)])
        until(lambda: len(one.lines) >= 1000)
        client.publish_many(topic, [b"%d" % number for number in range(2000, 3000)])
        first.end(signal.SIGKILL)
    one.end()
    second = serving("--config", settings, "--log-level", "warning")
    with sync.connect(second.url) as client:
        assert client.groups("g")[0].members == []
        another = Shell(second, topic)
        try:
            until(lambda: client.groups("g")[0].lag == 0)
        finally:
            another.end()
    assert {*one.lines, *another.lines} == {str(number) for number in range(3000)}


def test_what_cannot_be_printed_is_left_to_others(broker: Running, topic: str) -> None:
    with sync.connect(broker.url) as client:
        client.publish_many(topic, [b"x" * 1000] * 20_000)
        command = " ".join(
            [*PROGRAM, "sub", topic, "--group", "p", "--from", "earliest", "--url", broker.url]
        )
        done = subprocess.run(
            ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
            capture_output=True,
            env=environment(),
            timeout=30,
            check=True,
        )
        assert (done.stdout, done.stderr) == (b"x" * 1000 + b"\n141\n", b"")
        (info,) = client.groups("p")
        assert info.lag > 0
        assert info.members == []


def test_groups_are_listed(broker: Running, topic: str) -> None:
    with sync.connect(broker.url) as client:
        client.publish_many(topic, [b"x"] * 5)
        client.subscribe(topic, "earliest", group="t.one").start()
        result = run("groups", "--filter", "t.*", "--url", broker.url)
        titles, row = [line.split() for line in result.out.splitlines()]
        found = dict(zip(titles, row, strict=True))
    assert found == {
        "group": "t.one",
        "members": "1",
        "topic": topic,
        "partition": "0",
        "committed": "0",
        "next": "5",
        "end": "5",
        "lag": "5",
        "pending": "5",
        "redelivered": "0",
        "dead": "0",
        "skipped": "0",
    }
    nothing = run("groups", "--filter", "nobody", "--url", broker.url)
    assert (nothing.code, nothing.out) == (0, "")
    assert "no group matches nobody" in nothing.err
    missing = run("groups", "--url", broker.url, "drop", "nobody")
    assert missing.code == 1
    assert "`portask groups`" in missing.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--ack-wait", "30s"), "--group"),
        (("--group", "g", "--ack-wait", "soon"), "30s"),
        (("--group", "g", "--ack-wait", "5"), "30s"),
        (("--group", "g", "--max-deliveries", "-1"), "max-deliveries"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], part: str) -> None:
    result = run("sub", "jobs", *arguments)
    assert result.code == 2
    assert part in result.err
