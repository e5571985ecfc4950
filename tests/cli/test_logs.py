"""Logs: JSON for machines, text for people, never a payload."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import structlog

from portask.admin import logs
from portask.config import tokens


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Handlers that libraries, or commands that ran in this process, left behind are put aside."""
    loggers = [logging.getLogger(), logging.getLogger("portask")]
    kept = [(each.handlers[:], each.level) for each in loggers]
    for each in loggers:
        each.handlers.clear()
    yield
    for each, (handlers, level) in zip(loggers, kept, strict=True):
        each.handlers[:] = handlers
        each.setLevel(level)
    structlog.reset_defaults()


def test_piped_logs_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    structlog.get_logger("portask.test").info("ready", port=7, name="ä")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first["event"] == "ready"
    assert (first["port"], first["name"], first["level"], first["logger"]) == (7, "ä", "info", "portask.test")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"], second["logger"]) == ("slow callback", "warning", "asyncio")


def test_the_level_holds_and_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger("portask.test")
    logs.configure("warning", "json")
    log.info("one")
    logging.getLogger("other").info("two")
    logs.set_level("debug")
    log.debug("three")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["three"]


def test_configuring_again_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logs.configure("info", "json")
    structlog.get_logger().info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_payloads_are_never_logged(capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("json", "console"):
        logs.configure("info", style)
        structlog.get_logger().info(
            "got", payload=b"secret", view=memoryview(b"secret"), other=bytearray(b"secret")
        )
        err = capsys.readouterr().err
        assert "secret" not in err
        assert err.count("<6 bytes>") == 3


def test_exceptions_are_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_terminals_get_text_and_colours_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for color in (True, False):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        logs.configure("info", "auto", color=color)
        structlog.get_logger("portask.test").info("ready", port=7)
        assert "ready" in terminal.getvalue()
        assert ("\x1b[" in terminal.getvalue()) is color
        assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize("style", ["json", "console"])
def test_tokens_stay_out_wherever_they_stand(capsys: pytest.CaptureFixture[str], style: Any) -> None:
    logs.configure("info", style)
    token = tokens.mint("orders")
    log = structlog.get_logger("portask.test")
    log.info(token, where=token, deep=[{"a": token}], bad=ValueError(token))
    logging.getLogger("asyncio").warning("%s", token)
    try:
        raise ValueError(token)
    except ValueError:
        log.exception("failed")
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert token[-40:] not in said
    assert said.count("portask_…") >= 6


def test_a_line_that_cannot_be_written_shows_nothing_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("info", "json")
    (handler,) = [each for each in logging.getLogger().handlers if each.get_name() == "portask"]
    monkeypatch.setattr(handler, "format", lambda _record: 1 / 0)
    structlog.get_logger("portask.test").info("ready", token="a secret")
    said = capsys.readouterr().err
    assert said == "a log line of portask.test could not be written: <class 'ZeroDivisionError'>\n"
