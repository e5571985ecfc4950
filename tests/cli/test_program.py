"""The program as a whole: help, exit codes, failures, colours, start-up, commands of others."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, version
from itertools import count
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from portask.cli import app
from portask.cli.failures import explain
from portask.errors import ConnectFailed, PortaskError
from tests.cli.conftest import environment, on_terminal, run


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in app.COMMANDS if group is app.cli else group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*names, name))
        if isinstance(command, click.Group):
            found += commands(command, *names, name)
    return found


@pytest.mark.parametrize("path", commands(app.cli), ids=" ".join)
def test_every_command_explains_itself_and_its_options(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app.cli, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert f"portask {' '.join(path)}" in result.output.replace("cli ", "portask ")
    command: click.Command = app.cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} has no help"


def test_the_list_of_commands_says_what_each_command_says_of_itself() -> None:
    context = click.Context(app.cli)
    for name, (_, line) in app.COMMANDS.items():
        command = app.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert line in CliRunner().invoke(app.cli, ["--help"]).output


def test_version() -> None:
    assert run("--version").out.strip() == f"portask, version {version('portask')}"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("serve", "--port", "99999"), "99999 is not in the range"),
        (("serve", "--log-level", "loud"), "'loud' is not one of"),
        (("pub",), "Missing argument 'TOPIC'"),
        (("pub", "t", "x", "--file", "y"), "PAYLOAD and --file both say what to publish"),
        (("pub", "t", "x", "--lines"), "--lines reads a file or stdin"),
        (("pub", "t", "--count", "2"), "--count repeats one payload"),
        (("pub", "t", "x", "--header", "novalue"), "'novalue' is not NAME=VALUE"),
        (("sub", "t", "--from", "noon"), "earliest, latest, an offset (42)"),
        (("sub", "t", "--from", "-99999999d"), "so long ago (-5m; s m h d)"),
        (("sub", "t", "--raw", "--json"), "--raw and --json"),
        (("sub", "t", "--count", "0"), "0 is not in the range"),
        (("ping", "--count", "x"), "'x' is not a valid integer"),
        (("config", "check", "a", "--config", "b"), "name two files: give one"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: tuple[str, ...], part: str) -> None:
    result = CliRunner().invoke(app.cli, list(arguments))
    assert result.exit_code == 2
    assert part in result.output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("serve", "--config", "/nowhere/p.toml"), ["portask: /nowhere/p.toml: no such file"]),
        (("serve", "--server", "asyncio-stream"), ["server.variant", "did you mean asyncio-streams?"]),
        (("pub", "t", "x", "--url", "http://x"), ["portask://"]),
        (
            ("pub", "t", "--file", "/nowhere"),
            ["portask: /nowhere: No such file", "see whether the path is right"],
        ),
        (("pub", "t", "--file", "/nowhere", "--lines"), ["portask: /nowhere: No such file"]),
        (("ping", "--url", "portask://127.0.0.1:1"), ["127.0.0.1:1", "`portask serve`", "--url"]),
        (("sub", "t", "--url", "portask://127.0.0.1:1"), ["127.0.0.1:1", "`portask serve`", "--url"]),
        (("topics", "--url", "portask://127.0.0.1:1"), ["127.0.0.1:1", "`portask serve`", "--url"]),
    ],
)
def test_a_failure_is_1_and_one_line(
    arguments: tuple[str, ...], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("portask: ")
    for part in parts:
        assert part in err


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    words = "anyone may connect"
    result = run("serve", "--host", host, "--storage", "memory", PORTASK_SERVER_INSECURE=words)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"portask: {host}:7711 is no address of this machine; choose one with --host, 0.0.0.0 for all\n"
    )


def test_a_failing_process_ends_with_1_and_without_a_traceback() -> None:
    result = run("ping", "--url", "portask://127.0.0.1:1")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("portask: cannot connect: 127.0.0.1:1: ")
    assert result.err.count("\n") == 1


def test_a_traceback_is_shown_to_those_who_ask_for_it() -> None:
    result = run("serve", "--config", "/nowhere", PORTASK_TRACEBACK="1")
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("portask: /nowhere")


def test_an_unexpected_failure_is_called_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(app.cli, "main", broken)
    assert app.run([]) == 1
    err = capsys.readouterr().err
    assert (
        err == "portask: unexpected RuntimeError: two lines; this is a bug: PORTASK_TRACEBACK=1 shows where\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PortaskError("what; do"), "what; do"),
        (
            ConnectFailed("h:1: refused"),
            "h:1: refused; start a broker with `portask serve`, or say where it is with --url",
        ),
        (FileNotFoundError(2, "No such file", "a/b"), "a/b: No such file; see whether the path is right"),
        (OSError("odd"), "odd; PORTASK_TRACEBACK=1 shows where"),
        (
            OSError(24, "Too many open files"),
            "Too many open files; raise the limit of open files: `ulimit -n`",
        ),
    ],
)
def test_failures_say_what_to_do_next(error: Exception, line: str) -> None:
    assert explain(error) == [line]


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.Commands, "get_command", interrupted)
    assert app.run(["ping"]) == 130


def test_a_reader_that_leaves_is_no_failure() -> None:
    program = f"{sys.executable} -m portask.cli config check"
    done = subprocess.run(
        ["bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env=environment(),
        timeout=30,
        check=True,
    )
    assert done.stdout.decode().strip() in {"0", "141"}  # whoever is faster
    assert done.stderr == b""


def test_colours_are_for_terminals_and_for_those_who_want_them() -> None:
    assert "\x1b[" in on_terminal("config", "check")
    assert "\x1b[" not in on_terminal("config", "check", NO_COLOR="1")
    assert "\x1b[" not in run("config", "check").out


def test_help_imports_no_more_than_it_needs() -> None:
    script = (
        "import sys\nfrom portask.cli.app import run\ncode = run(['--help'])\n"
        "heavy = {'asyncio', 'structlog', 'portask_lab', 'portask.client', 'portask.core', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment(), timeout=30, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert any(line.split()[:1] == ["lab"] for line in lines)
    assert lines[-1] == "[]"


# ── commands of others ────────────────────────────────────────────────────────────────────────────────────────────


_numbers = count()


class Others:
    """Entry points of a throwaway distribution."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._points: dict[str, EntryPoint] = {}
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(app, "_points", lambda: self._points)

    def add(self, name: str, source: str, attribute: str = "command") -> None:
        module = f"others_{name}_{next(_numbers)}"
        (self._folder / f"{module}.py").write_text(source)
        self._points[name] = EntryPoint(name, f"{module}:{attribute}", app.GROUP)


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(tmp_path, monkeypatch)


GOOD = "import click\n@click.command()\ndef command():\n    'Does it.'\n    click.echo('done')\n"


def test_a_command_of_others_is_found_and_run(others: Others, capsys: pytest.CaptureFixture[str]) -> None:
    others.add("extra", GOOD)
    assert app.run(["extra"]) == 0
    assert capsys.readouterr().out == "done\n"
    assert app.run(["extra", "--help"]) == 0
    assert "Does it." in capsys.readouterr().out
    assert app.run(["--help"]) == 0
    assert "extra" in capsys.readouterr().out


def test_a_command_of_others_cannot_take_a_name_of_ours() -> None:
    assert not set(app.COMMANDS) & set(app._points())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library.part\n", "portask extra needs no_such_library: pip install no_such_library"),
        (
            GOOD.replace("    click.echo", "    import no_such_library\n    click.echo"),
            "portask extra needs no_such_library",
        ),
        ("raise RuntimeError('broken')\n", "RuntimeError: broken; reinstall"),
        ("from os import nothing_of_that_name\n", "ImportError: cannot import name"),
        ("def (:\n", "SyntaxError"),
        ("command = 3\n", "portask extra is no command: others_"),
        ("", "has no attribute 'command'"),
    ],
)
def test_a_command_of_others_that_is_broken_harms_only_itself(
    others: Others, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    others.add("extra", source)
    others.add("good", GOOD)
    assert app.run(["extra"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("portask: portask extra ")
    assert err.count("\n") == 1
    assert said in err
    assert app.run(["--help"]) == 0
    assert app.run(["good"]) == 0


def test_a_module_that_is_not_there_is_not_blamed_on_a_library(
    others: Others, capsys: pytest.CaptureFixture[str]
) -> None:
    others.add("extra", GOOD)
    point = others._points["extra"]
    others._points["extra"] = EntryPoint("extra", "others_absent:command", app.GROUP)
    assert point.module != "others_absent"
    assert app.run(["extra"]) == 1
    assert "cannot be loaded: No module named 'others_absent'; reinstall" in capsys.readouterr().err


def test_an_extra_of_that_name_is_what_pip_should_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    assert app._points()["lab"].dist is not None  # the real one, of this distribution
    monkeypatch.setattr(EntryPoint, "load", missing)
    assert app.run(["lab", "run"]) == 1
    assert capsys.readouterr().err == "portask: portask lab needs numpy: pip install 'portask[lab]'\n"
