"""``request`` and ``reply``, as two users run them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.conftest import PROGRAM, Result, Running, environment, on_terminal, run


@contextmanager
def replying(broker: Running, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A ``portask reply``, once it answers."""
    with subprocess.Popen(
        [*PROGRAM, "reply", *arguments, "--url", broker.url],
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("answering ")
            yield process
        finally:
            process.terminate()


def ask(broker: Running, *arguments: str, stdin: bytes = b"") -> Result:
    return run("request", *arguments, "--url", broker.url, stdin=stdin)


def test_a_command_answers(broker: Running) -> None:
    with replying(broker, "shout", "tr a-z A-Z"):
        assert ask(broker, "shout", "hello") == Result(0, "HELLO\n", "")
        assert ask(broker, "shout", "--raw", stdin=b"from stdin") == Result(0, "FROM STDIN", "")
        shown = on_terminal("request", "shout", "\x1b[2J", "--url", broker.url)
        assert shown == "\\x1b[2J\r\n"
        found = json.loads(ask(broker, "shout", "x", "--header", "traceparent=00-1-2-03", "--json").out)
        assert found.pop("headers").items() >= {"traceparent": "00-1-2-03"}.items()
        assert found == {"payload": "X"}


def test_a_group_gives_a_failed_request_to_somebody_again(broker: Running, tmp_path: Path) -> None:
    once = 'read name; mkdir "$name" 2>/dev/null && exit 7; echo done'
    with replying(broker, "jobs", once, "--group", "g", "--count", "2") as process:
        name = tmp_path / "failed-once"
        assert ask(broker, "jobs", stdin=f"{name}\n".encode()) == Result(0, "done\n\n", "")
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "portask: jobs:0@0: the command ended with 7\n"


def test_what_asks_for_no_reply_is_said(broker: Running) -> None:
    with replying(broker, "plain", "cat", "--count", "1") as process:
        assert run("pub", "plain", "x", "--url", broker.url).code == 0
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "plain:0@0: asks for no reply" in process.stderr.read()


def test_nobody_answers(broker: Running) -> None:
    result = ask(broker, "void", "x", "--timeout", "0.1")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("portask: nobody answered the request to void within 0.1 s: see whether")
    assert ask(broker, "void", "x", "--raw", "--json").code == 2
    assert "is not NAME=VALUE" in ask(broker, "void", "x", "--header", "oops").err
