"""``portask serve``: starting, telling, reloading, stopping."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from portask import registry
from portask.wire import accelerate
from portask.wire.connection import Connection, Role
from portask.wire.frames import Opcode
from tests.cli.conftest import PROGRAM, Running, environment, run

Start = Callable[..., Running]
SERVERS = [entry.name for entry in registry.entries("server")]


def complaints(err: str) -> list[str]:
    """Lines of stderr that are no log."""
    return [line for line in err.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize("server", SERVERS)
def test_a_broker_says_what_it_is_made_of_and_ends_when_told(serving: Start, server: str) -> None:
    reason = registry.get("server", server).unavailable()
    if reason:
        pytest.skip(reason)
    broker = serving("--server", server, "--storage", "memory")
    assert f"server={server} storage=memory" in broker.ready_line
    assert "codec=cbor2" in broker.ready_line
    assert broker.ready_line.endswith("durability=memory (lost when the broker ends)\n")
    with socket.create_connection(("127.0.0.1", broker.port), timeout=5):
        pass
    result = broker.end(signal.SIGTERM)
    assert result.code == 0
    assert "Traceback" not in result.err
    events = [json.loads(line) for line in result.err.splitlines()]
    assert [event["event"] for event in events] == ["ready", "stopped"]
    assert events[0]["port"] == broker.port


def test_the_ready_line_says_what_helps_the_wire(serving: Start) -> None:
    broker = serving("--storage", "memory", PORTASK_NO_NATIVE="1")
    assert "; wire helpers: none (PORTASK_NO_NATIVE is set); " in broker.ready_line
    ready = json.loads(broker.end(signal.SIGTERM).err.splitlines()[0])
    assert ready["wire_helpers"] == "none (PORTASK_NO_NATIVE is set)"
    broker = serving("--storage", "memory")
    assert f"; wire helpers: {accelerate.status()}; " in broker.ready_line


def test_without_a_word_messages_are_kept_below_the_working_directory(serving: Start, tmp_path: Path) -> None:
    first = serving(cwd=tmp_path)
    folder = tmp_path / "portask-data"
    assert " storage=segment-log " in first.ready_line
    assert first.ready_line.endswith(
        f"; durability=os (survives the broker, not a power loss); kept in {folder}\n"
    )
    assert run("pub", "demo", "hello", "--url", first.url).code == 0
    first.end(signal.SIGKILL)
    again = serving(cwd=tmp_path)
    told = run("sub", "demo", "--from", "earliest", "--count", "1", "--raw", "--url", again.url)
    assert told.out == "hello"


def test_a_flag_says_where_messages_are_kept(serving: Start, tmp_path: Path) -> None:
    broker = serving("--data", "elsewhere/deep", cwd=tmp_path)
    assert f"kept in {tmp_path}/elsewhere/deep\n" in broker.ready_line
    assert (tmp_path / "elsewhere/deep/topics").is_dir()
    assert not (tmp_path / "portask-data").exists()


def test_memory_is_one_flag_away_and_leaves_no_files(serving: Start, tmp_path: Path) -> None:
    broker = serving("--storage", "memory", cwd=tmp_path)
    assert "storage=memory" in broker.ready_line
    assert "kept in" not in broker.ready_line
    assert broker.end().code == 0
    assert not list(tmp_path.iterdir())


def test_a_second_broker_in_the_folder_is_told_what_to_do(serving: Start, tmp_path: Path) -> None:
    first = serving(cwd=tmp_path)
    result = run("serve", "--port", "0", cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    (line,) = complaints(result.err)
    assert line == (
        f"portask: portask-data is in use by the process {first.process.pid}: stop it, or choose another folder "
        "(portask serve --data FOLDER)"
    )


def test_another_storage_s_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "portask-data").mkdir()
    (tmp_path / "portask-data" / "storage").write_text("lmdb\n")
    result = run("serve", "--port", "0", cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    (line,) = complaints(result.err)
    assert line == (
        "portask: portask-data holds what the storage lmdb keeps: choose --storage lmdb, or another folder for "
        "segment-log (portask serve --data FOLDER)"
    )
    assert sorted(path.name for path in (tmp_path / "portask-data").iterdir()) == ["lock", "storage"]


def _without_override() -> None:
    """Root may write where its permissions say that it may not: give that up (capability 1, for the next program)."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, 1, 0, 0, 0) != 0:
        raise OSError("this root cannot give up CAP_DAC_OVERRIDE")


_PR_CAPBSET_DROP = 24


@pytest.mark.skipif(sys.platform != "linux", reason="gives up a capability of Linux")
def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [*PROGRAM, "serve", "--port", "0"],
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
        preexec_fn=_without_override,
        timeout=30,
        check=False,
    )
    tmp_path.chmod(0o755)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"portask: messages cannot be kept in {tmp_path}/portask-data: Permission denied; "
        "choose another folder with --data, or keep nothing with --storage memory\n"
    )


def test_a_file_in_the_folder_s_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "portask-data").write_text("mine")
    result = run("serve", "--port", "0", cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        f"portask: messages cannot be kept in {tmp_path}/portask-data: File exists; "
    )
    assert result.err.count("\n") == 1


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


def test_a_port_in_use_is_one_clear_line(serving: Start, tmp_path: Path) -> None:
    port = serving().port
    result = run("serve", "--port", str(port), cwd=tmp_path)
    assert result.code == 1
    assert result.out == ""
    (line,) = complaints(result.err)
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
