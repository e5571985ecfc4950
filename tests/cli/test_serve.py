"""``portask serve``: starting, telling, reloading, stopping."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from portask import registry
from portask.wire.connection import Connection, Role
from portask.wire.frames import Opcode
from tests.cli.conftest import Running, run

Start = Callable[..., Running]
SERVERS = [entry.name for entry in registry.entries("server")]


@pytest.mark.parametrize("server", SERVERS)
def test_a_broker_says_what_it_is_made_of_and_ends_when_told(serving: Start, server: str) -> None:
    reason = registry.get("server", server).unavailable()
    if reason:
        pytest.skip(reason)
    broker = serving("--server", server)
    assert f"server={server} storage=memory" in broker.ready_line
    assert "codec=cbor2" in broker.ready_line
    assert "durability=memory (lost when the broker ends)" in broker.ready_line
    with socket.create_connection(("127.0.0.1", broker.port), timeout=5):
        pass
    result = broker.end(signal.SIGTERM)
    assert result.code == 0
    assert "Traceback" not in result.err
    events = [json.loads(line) for line in result.err.splitlines()]
    assert [event["event"] for event in events] == ["ready", "stopped"]
    assert events[0]["port"] == broker.port


def test_ctrl_c_ends_it_gracefully_too(serving: Start) -> None:
    result = serving().end(signal.SIGINT)
    assert result.code == 0
    assert json.loads(result.err.splitlines()[-1])["event"] == "stopped"


def test_a_second_signal_ends_it_at_once(serving: Start, toml: Callable[[str], str]) -> None:
    broker = serving("--config", toml("[server]\noptions.grace = 60.0\n"))
    with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as silent:
        client = Connection(Role.CLIENT)
        client.send_hello()
        silent.sendall(b"".join(client.take_output()))
        assert client.receive(silent.recv(4096))[0].opcode == Opcode.WELCOME
        broker.process.send_signal(signal.SIGTERM)
        assert client.receive(silent.recv(4096))[0].opcode == Opcode.DRAIN
        # a client that never answers keeps the broker waiting for as long as the settings say
        assert broker.process.poll() is None
        assert broker.end(signal.SIGTERM).code == 128 + signal.SIGTERM


def test_a_port_in_use_is_one_clear_line(serving: Start) -> None:
    port = serving().port
    result = run("serve", "--port", str(port))
    assert result.code == 1
    assert result.out == ""
    (line,) = [line for line in result.err.splitlines() if not line.startswith("{")]
    assert (
        line
        == f"portask: 127.0.0.1:{port} is in use; stop the program that has it, or choose another with --port"
    )


def test_settings_come_from_file_environment_and_flags(serving: Start, toml: Callable[[str], str]) -> None:
    path = toml('[server]\nvariant = "asyncio-protocol"\nport = 1\n[compression]\nvariant = "never"\n')
    broker = serving("--config", path, "--log-level", "error", PORTASK_CODEC_VARIANT="struct")
    assert "server=asyncio-protocol" in broker.ready_line
    assert "codec=struct" in broker.ready_line
    assert broker.end().err == ""  # nothing of level error happened


def test_wrong_settings_are_listed_one_a_line(toml: Callable[[str], str]) -> None:
    path = toml("[server]\nprot = 1\n[limits]\nmax_channels = 0\n")
    result = run("serve", "--config", path)
    assert result.code == 1
    assert [line.partition(" = ")[0] for line in result.err.splitlines()] == [
        f"portask: {path}: server.prot",
        f"portask: {path}: limits.max_channels",
    ]


def test_what_a_variant_refuses_is_a_setting_error(toml: Callable[[str], str]) -> None:
    result = run("serve", "--config", toml("[server]\noptions.grace = 'long'\n"))
    assert result.code == 1
    assert 'server.options.grace = "long": does not fit the option grace: float = ' in result.err


def test_an_option_out_of_range_is_a_setting_error_too(toml: Callable[[str], str]) -> None:
    if reason := registry.get("compression", "threshold").unavailable():
        pytest.skip(reason)
    result = run("serve", "--config", toml("[compression]\nvariant = 'threshold'\noptions.level = 99\n"))
    assert result.code == 1
    assert result.err.startswith("portask: compression.options: compression/threshold refuses level = 99: ")
    assert result.err.count("\n") == 1


def test_a_receipt_of_another_machine_is_mentioned(serving: Start, toml: Callable[[str], str]) -> None:
    broker = serving("--config", toml("[receipt]\ncores = 4096\nkernel = 'Plan 9'\n"))
    (warning, *_) = [json.loads(line) for line in broker.end().err.splitlines()]
    assert warning["level"] == "warning"
    assert "measure again" in warning["event"]
    assert warning["differences"][0].startswith("cores was 4096 and is ")
    assert warning["differences"][1].startswith("kernel was Plan 9 and is ")


def test_options_that_are_left_behind_are_mentioned(serving: Start, toml: Callable[[str], str]) -> None:
    path = toml('[server]\nvariant = "epoll"\noptions.grace = 1.0\n')
    broker = serving("--config", path, "--server", "asyncio-streams")
    (warning, *_) = [json.loads(line) for line in broker.end().err.splitlines()]
    assert warning["event"] == "setting not used"
    assert "server.options.grace" in warning["reason"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("server", ["asyncio-streams", "epoll", "uvloop"])
def test_settings_are_read_again_on_sighup(serving: Start, toml: Callable[[str], str], server: str) -> None:
    reason = registry.get("server", server).unavailable()
    if reason:
        pytest.skip(reason)
    path = Path(toml("[limits]\nmax_connections = 100\n"))
    broker = serving("--config", str(path), "--server", server)
    broker.wait_for_log('"ready"')

    path.write_text("[limits]\nmax_connections = 1\nmax_frame_bytes = 70000\n")
    broker.process.send_signal(signal.SIGHUP)
    event = json.loads(broker.wait_for_log("settings read again"))
    assert event["applied"] == ["limits.max_connections: 100 → 1"]
    assert event["needs_restart"] == ["limits.max_frame_bytes: 8388608 → 70000"]

    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=5),
        socket.create_connection(("127.0.0.1", broker.port), timeout=5) as second,
    ):
        assert b"limits.max_connections" in second.recv(4096)

    path.write_text("[limits]\nmax_conections = 2\n")
    broker.process.send_signal(signal.SIGHUP)
    event = json.loads(broker.wait_for_log("settings not taken over"))
    assert "did you mean limits.max_connections?" in event["problems"][0]
    assert broker.end().code == 0
