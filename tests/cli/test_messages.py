"""``pub``, ``sub``, ``topics`` and ``ping`` against a broker, as a user runs them."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import click
import pytest

from portask import sync
from portask.cli.output import printable
from portask.cli.sub import parse_start
from tests.cli.conftest import PROGRAM, Running, environment, on_terminal, run

_names = count()


@pytest.fixture
def topic() -> str:
    return f"t{next(_names)}"


def pub(broker: Running, *arguments: str, stdin: bytes = b"") -> str:
    result = run("pub", *arguments, "--url", broker.url, stdin=stdin)
    assert (result.code, result.err) == (0, "")
    return result.out


def publish(broker: Running, topic: str, *payloads: bytes) -> None:
    """Messages for tests that are not about ``pub``: saves a process."""
    with sync.connect(broker.url) as client:
        client.publish_many(topic, payloads)


def sub(broker: Running, topic: str, number: int, *arguments: str) -> str:
    wanted = ("--from", "earliest", "--count", str(number), "--timeout", "10")
    result = run("sub", topic, *wanted, *arguments, "--url", broker.url)
    assert (result.code, result.err) == (0, "")
    return result.out


def test_what_is_published_is_what_is_printed(broker: Running, topic: str) -> None:
    assert pub(broker, topic, "hello") == ""  # piped: nothing to see
    assert sub(broker, topic, 1) == "hello\n"


def test_people_see_where_messages_lie_and_machines_do_not(broker: Running, topic: str) -> None:
    wanted = (topic, "--from", "earliest", "--count", "1", "--url", broker.url)
    assert on_terminal("pub", topic, "\x1b[2Jhello", "--url", broker.url) == f"{topic}:0@0\r\n"
    assert on_terminal("sub", *wanted, NO_COLOR="1") == f"{topic}:0@0  \\x1b[2Jhello\r\n"
    assert "\x1b[2m" in on_terminal("sub", *wanted)
    assert sub(broker, topic, 1) == "\x1b[2Jhello\n"


def test_json_has_everything(broker: Running, topic: str) -> None:
    out = pub(broker, topic, "hällo", "--key", "k", "--header", "a=b=c", "--header", "d=", "--json")
    assert json.loads(out) == {"topic": topic, "partition": 0, "offset": 0}
    read = json.loads(sub(broker, topic, 1, "--json"))
    assert abs(read.pop("timestamp") / 1e6 - time.time()) < 60
    assert read == {
        "topic": topic,
        "partition": 0,
        "offset": 0,
        "key": "k",
        "headers": {"a": "b=c", "d": ""},
        "payload": "hällo",
    }


def test_bytes_that_are_no_text_survive(broker: Running, topic: str, tmp_path: Path) -> None:
    payload = bytes(range(256)) * 3
    path = tmp_path / "payload"
    path.write_bytes(payload)
    pub(broker, topic, "--file", str(path))
    pub(broker, topic, "--file", "-", stdin=payload)
    read = [json.loads(line) for line in sub(broker, topic, 2, "--json").splitlines()]
    assert [base64.b64decode(each["payload_base64"]) for each in read] == [payload, payload]
    command = [*PROGRAM, "sub", topic, "--from", "earliest", "--count", "2", "--raw", "--url", broker.url]
    raw = subprocess.run(command, capture_output=True, env=environment(), timeout=30, check=True)
    assert raw.stdout == payload * 2


def test_lines_of_stdin_are_messages(broker: Running, topic: str) -> None:
    pub(broker, topic, stdin=b"one\ntwo\r\n\nlast")
    assert sub(broker, topic, 4) == "one\ntwo\n\nlast\n"


def test_lines_of_a_file_are_messages(broker: Running, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(300_000)))
    pub(broker, topic, "--file", str(path), "--lines")
    assert sub(broker, topic, 300_000) == path.read_text()


def test_a_line_is_published_before_the_next_one_comes(broker: Running, topic: str) -> None:
    with subprocess.Popen(
        [*PROGRAM, "pub", topic, "--url", broker.url, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="1"),
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in range(3):
            process.stdin.write(b"line\nhalf")
            assert json.loads(process.stdout.readline())["offset"] == offset
        process.stdin.close()
        assert json.loads(process.stdout.readline())["offset"] == 3
        assert process.wait(10) == 0


def test_a_payload_may_be_repeated(broker: Running, topic: str) -> None:
    out = pub(broker, topic, "x", "--count", "20001", "--json")
    assert [json.loads(line)["offset"] for line in out.splitlines()] == list(range(20001))
    assert pub(broker, topic, "x", "--count", "3", "--json", "--quiet") == ""
    assert sub(broker, topic, 20004, "--raw") == "x" * 20004


def test_from_an_offset_and_from_a_time(broker: Running, topic: str) -> None:
    publish(broker, topic, b"0", b"1", b"2")
    assert sub(broker, topic, 2, "--from", "1") == "1\n2\n"
    assert sub(broker, topic, 3, "--from", "-5m") == "0\n1\n2\n"
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    result = run("sub", topic, "--from", later, "--timeout", "0.3", "--url", broker.url)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_a_filter_takes_several_topics(broker: Running, topic: str) -> None:
    for part in ("a", "b"):
        publish(broker, f"{topic}.{part}", part.encode())
    read = [json.loads(line) for line in sub(broker, f"{topic}.*", 2, "--json").splitlines()]
    assert sorted((each["topic"], each["payload"]) for each in read) == [
        (f"{topic}.a", "a"),
        (f"{topic}.b", "b"),
    ]


def test_too_few_messages_in_time_is_a_failure(broker: Running, topic: str) -> None:
    result = run("sub", topic, "--count", "1", "--timeout", "0.2", "--url", broker.url)
    assert result.code == 1
    assert result.err.startswith(f"portask: 0 of 1 messages of '{topic}' came, then none for 0.2 s; ")
    assert run("sub", topic, "--timeout", "0.2", "--url", broker.url).code == 0


def test_an_interrupted_subscription_leaves_quietly(broker: Running, topic: str) -> None:
    publish(broker, topic, b"x")
    with subprocess.Popen(
        [*PROGRAM, "sub", topic, "--from", "earliest", "--url", broker.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"x\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip() == b""  # a line break, so that the prompt does not stand behind ^C


def test_a_subscription_whose_reader_leaves_ends(broker: Running, topic: str) -> None:
    publish(broker, topic, *[b"x" * 1000] * 20_000)
    command = " ".join([*PROGRAM, "sub", topic, "--from", "earliest", "--url", broker.url])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env=environment(),
        timeout=30,
        check=True,
    )
    assert done.stdout == b"x" * 1000 + b"\n141\n"
    assert done.stderr == b""


def test_a_broker_that_ends_is_one_line(serving: Callable[..., Running], topic: str) -> None:
    broker = serving("--server", "asyncio-protocol")
    with subprocess.Popen(
        [*PROGRAM, "pub", topic, "--url", broker.url, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="1"),
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        process.stdout.readline()
        broker.end(signal.SIGKILL)
        process.stdin.write(b"two\n")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith(b"portask: ")
    assert err.count(b"\n") == 1


def test_topics_are_listed(broker: Running, topic: str) -> None:
    publish(broker, topic, b"a", b"b")
    result = run("topics", topic, "--url", broker.url)
    titles, row = [line.split() for line in result.out.splitlines()]
    found = dict(zip(titles, row, strict=True))
    size = int(found.pop("bytes"))
    assert size > 64
    assert found == {
        "topic": topic,
        "partitions": "1",
        "partition": "0",
        "first": "0",
        "next": "2",
        "subscribers": "0",
    }
    (read,) = json.loads(run("topics", topic, "--json", "--url", broker.url).out)
    assert read == {
        "topic": topic,
        "partitions": [{"partition": 0, "first": 0, "next": 2, "bytes": size, "subscribers": 0}],
    }
    nothing = run("topics", f"{topic}.none", "--url", broker.url)
    assert (nothing.code, nothing.out) == (0, "")
    assert f"no topic matches {topic}.none" in nothing.err


def test_a_name_that_is_no_topic_is_explained(broker: Running) -> None:
    for command in (("pub", "a b", "x"), ("sub", "a..b"), ("topics", "a b")):
        result = run(*command, "--url", broker.url)
        assert result.code == 1
        assert result.err.startswith("portask: 'a")
        assert "A-Z a-z 0-9 _ -" in result.err
        assert result.err.count("\n") == 1


def test_ping_measures_round_trips(broker: Running) -> None:
    lines = run("ping", "--count", "3", "--interval", "0", "--url", broker.url).out.splitlines()
    assert len(lines) == 4
    assert all(float(line.removesuffix(" ms")) > 0 for line in lines[:3])
    assert lines[3].startswith("min ")
    read = json.loads(run("ping", "--count", "3", "--interval", "0", "--json", PORTASK_URL=broker.url).out)
    assert len(read["round_trips_ms"]) == 3
    assert read["min_ms"] <= read["median_ms"] <= read["max_ms"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("42", 42),
        ("2031-05-17T12:00:00+00:00", datetime(2031, 5, 17, 12, tzinfo=UTC)),
        ("2031-05-17", datetime(2031, 5, 17).astimezone()),
    ],
)
def test_where_to_start(text: str, start: object) -> None:
    command = click.Command("sub")
    option = click.Option(["--from"])
    assert parse_start(click.Context(command), option, text) == start


@pytest.mark.parametrize(("text", "seconds"), [("-90s", 90), ("-1.5m", 90), ("-2h", 7200), ("-1d", 86400)])
def test_so_long_ago(text: str, seconds: float) -> None:
    found = parse_start(click.Context(click.Command("sub")), click.Option(["--from"]), text)
    assert isinstance(found, datetime)
    assert abs(found.timestamp() - (time.time() - seconds)) < 30


@pytest.mark.parametrize(
    "text", ["", "5m", "-5", "-5x", "--5m", "٣", "1e3", "-1", "2031-13-01", "-999999999999d"]
)
def test_what_is_no_start(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is none of: earliest, latest, an offset"):
        parse_start(click.Context(click.Command("sub")), click.Option(["--from"]), text)


def test_a_payload_cannot_play_tricks_on_a_terminal() -> None:
    assert printable(b"plain \xc3\xa4\ttext") == "plain ä\ttext"
    assert printable(b"\x1b[2Jgone\r\n\xff") == r"\x1b[2Jgone\r\n\xff"
    assert os.linesep not in printable(b"a\nb")
