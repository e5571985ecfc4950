"""The program: making tokens, showing them, refusing an open door, and never repeating a secret."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portask.config import load, tokens
from tests.access.conftest import Authority, People, Write, not_said
from tests.cli.conftest import Running, run

Start = Callable[..., Running]

# ── portask auth token ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_shown_once_and_its_hash_is_a_setting(tmp_path: Path) -> None:
    result = run("auth", "token", "orders")
    token = result.out.strip()
    assert tokens.identity_of(token) == "orders"
    with not_said(token) as said:
        said.append(result.err)
    config = tmp_path / "portask.toml"
    config.write_text(result.err)
    own = load(config).auth.identities["orders"]
    assert own.token_hash == (tokens.hash_line(token),)
    assert run("auth", "token", "orders").out != result.out


def test_a_token_goes_to_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    path = tmp_path / "orders.token"
    result = run("auth", "token", "orders", "--out", str(path))
    token = path.read_text().strip()
    assert (result.code, result.out) == (0, "")
    assert tokens.hash_line(token) in result.err
    assert path.stat().st_mode & 0o777 == 0o600
    again = run("auth", "token", "orders", "--out", str(path))
    assert again.code == 1
    assert again.err == f"portask: {path}: File exists; choose a new one: what is there is left alone\n"
    assert path.read_text().strip() == token


def test_a_machine_reads_json(tmp_path: Path) -> None:
    made = json.loads(run("auth", "token", "a", "--json").out)
    assert made["token_hash"] == tokens.hash_line(made["token"])
    kept = json.loads(run("auth", "token", "a", "--json", "--out", str(tmp_path / "t")).out)
    assert "token" not in kept
    assert kept["file"] == str(tmp_path / "t")


@pytest.mark.parametrize("name", ["a b", "", "anonymous", "a.b", "x" * 65])
def test_a_name_that_is_none(name: str) -> None:
    result = run("auth", "token", name)
    assert (result.code, result.out) == (2, "")
    assert "is no identity's name: use 1 to 64 of A-Z a-z 0-9 _ -" in result.err


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_commands_get_in_by_file_variable_and_certificate(
    serving: Start, authority: Authority, people: People, write: Write, tmp_path: Path
) -> None:
    token = people.add("boss")
    people.tables["ops"] = (
        '[auth.identities.ops]\ncertificate = ["CN:ops"]\nallow = [{action = "*", filter = ">"}]\n'
    )
    config = write(authority.issue("127.0.0.1"), people.toml, client_ca=authority.ca)
    broker = serving("--config", str(config), "--storage", "memory")
    url = f"portasks://127.0.0.1:{broker.port}"
    file = tmp_path / "boss.token"
    file.write_text(token + "\n")
    ops = authority.issue("ops.example", common_name="ops")
    ways: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("--token-file", str(file), "--ca", authority.ca), {}),
        ((), {"PORTASK_TOKEN": token, "PORTASK_CA": authority.ca}),
        (("--ca", authority.ca, "--cert", ops.certificate, "--cert-key", ops.key), {}),
        ((), {"PORTASK_CA": authority.ca, "PORTASK_CERT": ops.certificate, "PORTASK_CERT_KEY": ops.key}),
    ]
    for arguments, variables in ways:
        result = run("pub", "demo", "hello", "--url", url, *arguments, **variables)
        assert (result.code, result.err) == (0, "")
    how = ways[0][0]
    found = run("sub", "demo", "--from", "earliest", "--count", "4", "--url", url, *how)
    assert found.out == "hello\n" * 4
    for command in (("topics",), ("ping", "--count", "1"), ("groups",), ("sub", "demo", "--timeout", "0.1")):
        assert run(*command, "--url", url, *how).code == 0
    measured = run("bench", "both", "--messages", "2000", "--json", "--url", url, *how)
    assert measured.code == 0, measured.err
    with not_said(token) as said:
        said += [measured.out, measured.err]
    # a subcommand takes them on either side
    for arguments in (
        ("groups", *how, "--url", url, "drop", "g"),
        ("groups", "drop", "g", "--url", url, *how),
    ):
        assert run(*arguments).err.startswith("portask: there is no group 'g'")


@pytest.mark.parametrize("command", [("pub", "demo", "x"), ("sub", "demo"), ("topics",), ("ping",)])
def test_who_may_not_come_in_is_told_in_one_line_what_to_do(
    serving: Start, people: People, write: Write, command: tuple[str, ...]
) -> None:
    people.add("boss")
    broker = serving("--config", str(write(None, people.toml)), "--storage", "memory")
    token = tokens.mint("boss")
    result = run(*command, "--url", broker.url, PORTASK_TOKEN=token)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"portask: cannot connect: 127.0.0.1:{broker.port}: this broker asks who is there: show a valid token, or a "
        "certificate that it knows; give a token with --token-file or PORTASK_TOKEN, or a certificate with --cert\n"
    )


def test_what_is_wrong_with_getting_in_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty.token"
    empty.write_text("\n")
    token = tokens.mint("a")
    for arguments, part in [
        (
            ("--token-file", str(empty)),
            f"{empty} holds no token: `portask auth token NAME --out {empty}` makes one",
        ),
        (
            ("--token-file", str(tmp_path / "gone")),
            "gone: No such file or directory; see whether the path is right",
        ),
        (("--ca", "x.pem"), "ca is for TLS: begin the URL with portasks://"),
        (("--url", "portasks://127.0.0.1:1", "--ca", "x.pem"), "ca: x.pem cannot be read: No such file"),
        (
            ("--url", "portask://10.0.0.1:1"),
            "the token would travel readable to 10.0.0.1:1: use portasks://, or say",
        ),
        (
            ("--url", "portask://10.0.0.1:1", "--insecure", "yes"),
            "insecure is 'yes': it must be 'token in plain text'",
        ),
    ]:
        result = run("ping", "--url", "portask://127.0.0.1:1", *arguments, PORTASK_TOKEN=token)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1), result
        assert part in result.err
    # a variable is for all commands: it does not forbid a broker without TLS
    assert "cannot connect" in run("ping", "--url", "portask://127.0.0.1:1", PORTASK_CA="x.pem").err


# ── an open door ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [("serve", "--host", "0.0.0.0", "--port", "0"), ("config", "check")])
def test_an_address_for_everybody_is_refused_without_a_word_about_it(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    result = run(*command, cwd=tmp_path, PORTASK_SERVER_HOST="0.0.0.0")
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert 'server.host = "0.0.0.0": everybody who reaches this address could do everything' in result.err
    assert not list(tmp_path.iterdir())


def test_it_is_opened_by_words_or_by_asking(
    serving: Start, authority: Authority, people: People, write: Write
) -> None:
    arguments = ("--host", "0.0.0.0", "--storage", "memory")
    serving(*arguments, PORTASK_SERVER_INSECURE="anyone may connect")
    people.add("boss")
    config = write(authority.issue("127.0.0.1"), people.toml)
    serving(*arguments, "--config", str(config))


def test_a_broker_says_how_it_is_protected_and_that_nobody_can_come_in(serving: Start, write: Write) -> None:
    broker = serving("--config", str(write(None, "[auth]\n")), "--storage", "memory")
    assert "portask auth token NAME" in broker.wait_for_log("nobody can come in")
    ready = json.loads(broker.wait_for_log('"ready"'))
    assert (ready["tls"], ready["authentication"]) == (False, True)


def test_config_check_reads_the_certificates(write: Write, authority: Authority) -> None:
    pair = authority.issue("127.0.0.1")
    assert run("config", "check", str(write(pair))).code == 0
    result = run("config", "check", str(write(pair._replace(key="gone.key"))))
    assert (result.code, result.out) == (1, "")
    assert (
        result.err
        == "portask: tls.key: gone.key cannot be read: No such file or directory; give the path of a PEM file\n"
    )


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_secret_is_in_anything_that_anybody_says(
    serving: Start, authority: Authority, people: People, write: Write, tmp_path: Path
) -> None:
    token, wrong = people.add("boss"), tokens.mint("boss")
    pair = authority.issue("127.0.0.1")
    key = "".join(Path(pair.key).read_text().split("\n")[1:-2])
    config = write(pair, people.toml)
    with not_said(token, wrong, key, tokens.digest(token).hex(), tokens.digest(wrong).hex()) as said:
        broker = serving(
            "--config", str(config), "--storage", "memory", "--log-level", "debug", PORTASK_TOKEN=token
        )
        url = f"portasks://127.0.0.1:{broker.port}"
        for shown in (token, wrong, f"{token}x", f"x{token}", token[:-1], ""):
            for command in (("pub", "demo", "x"), ("sub", "demo", "--timeout", "0.1"), ("topics", "--json")):
                result = run(
                    *command,
                    "--url",
                    url,
                    PORTASK_TOKEN=shown,
                    PORTASK_CA=authority.ca,
                    PORTASK_TRACEBACK="1",
                )
                said += [result.out, result.err]
        for place in (f"portasks://{token}@127.0.0.1", f"portask://127.0.0.1/{token}", token):
            result = run("ping", "--url", place)
            assert result.code == 1
            said.append(result.err)
        for more in ((), ("--json",)):
            result = run("config", "check", str(config), *more, PORTASK_TOKEN=token)
            assert result.code == 0
            assert "boss" in result.out
            said += [result.out, result.err]
        for text in (
            f'token = "{token}"',
            f'token_hash = "{token}"',
            f'token_hash = ["{token}"]',
            f'certificate = ["{token}"]',
        ):
            result = run("config", "check", str(write(pair, f"[auth.identities.boss]\n{text}")))
            assert result.code == 1
            said.append(result.err)
            broker.process.send_signal(signal.SIGHUP)
            said.append(broker.wait_for_log("settings not taken over"))
        end = broker.end()
        assert end.code == 0
        said += [end.out, end.err]
    assert not re.search(r"Traceback", end.err)
