"""``portask config check``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable

from portask.config import Settings, load
from tests.cli.conftest import run


def test_what_is_printed_is_a_settings_file(toml: Callable[[str], str]) -> None:
    path = toml(
        '[server]\nport = 1\noptions.grace = 2.0\n[topics."a.b"]\npartitions = 2\n[receipt]\nrun = 1\n'
    )
    result = run("config", "check", path, PORTASK_LIMITS_MAX_CHANNELS="7")
    assert result.code == 0
    assert result.err == ""
    assert f"port = 1  # {path}" in result.out
    assert "max_channels = 7  # environment variable PORTASK_LIMITS_MAX_CHANNELS" in result.out
    assert 'host = "127.0.0.1"  # default' in result.out
    before = load(path, {"PORTASK_LIMITS_MAX_CHANNELS": "7"})
    again = load(toml(result.out))
    assert again.flat() == before.flat()


def test_defaults_are_printed_too() -> None:
    printed = tomllib.loads(run("config", "check").out)
    assert printed["server"] == {
        "variant": "asyncio-streams",
        "host": "127.0.0.1",
        "port": Settings().server.port,
        "insecure": "",
        "workers": 1,
    }
    assert printed["storage"] == {
        "variant": "segment-log",
        "options": {"path": "portask-data", "mode": "os"},
    }


def test_a_machine_reads_json(toml: Callable[[str], str]) -> None:
    path = toml('[server]\nport = 1\n[receipt]\ncores = 4096\ntoken = "hidden"\n')
    result = run("config", "check", "--config", path, "--json")
    read = json.loads(result.out)
    assert read["settings"]["server"]["port"] == 1
    assert read["sources"]["server.port"] == path
    assert read["sources"]["server.host"] == "default"
    assert read["receipt_mismatch"][0].startswith("cores was 4096")
    assert "hidden" not in result.out


def test_remarks_go_to_stderr(toml: Callable[[str], str]) -> None:
    path = toml("[codec.options]\n[storage.options]\nmax_bytes = 5\n[receipt]\ncores = 4096\n")
    result = run("config", "check", path)
    assert result.code == 0
    assert "portask: note: the receipt is of another machine: cores was 4096" in result.err
    tomllib.loads(result.out)


def test_wrong_settings_fail(toml: Callable[[str], str]) -> None:
    path = toml("[server]\nprot = 1\n")
    result = run("config", "check", path)
    assert result.code == 1
    assert result.out == ""
    assert (
        result.err
        == f"portask: {path}: server.prot = 1: there is no such setting; did you mean server.port?\n"
    )
