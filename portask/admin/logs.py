"""Structured logs on stderr: one line an event, for people on a terminal, JSON everywhere else.

Everything goes through the standard library's handler, so that lines of asyncio and of other libraries get the same
form and the same level. What applications send is theirs: bytes never reach a log, whatever a call passes. Nor do
tokens.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

from portask.config.tokens import hide

_HANDLER = "portask"


class _Lines(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Says that a line is lost, and no more: logging's own complaint shows the event before tokens are hidden."""
        with contextlib.suppress(Exception):
            self.stream.write(f"a log line of {record.name} could not be written: {sys.exc_info()[0]}\n")


def configure(
    level: str,
    style: Literal["auto", "console", "json"] = "auto",
    *,
    color: bool = True,
    worker: int | None = None,
) -> None:
    """Sets up logging of this process. May be called again; the last call holds.

    Args:
        level: debug, info, warning, error or critical.
        style: ``auto`` is console when stderr is a terminal, else json.
        color: Whether the console style may use colours (``NO_COLOR`` says no).
        worker: Which of a broker's processes this is; stands in every line.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_bytes,
    ]
    if worker is not None:
        shared.append(_says_who(worker))
    renderer: structlog.typing.Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=color and sys.stderr.isatty(), pad_event_to=0)
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    handler = _Lines(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
                lambda _logger, _method, line: hide(str(line)),  # last: tracebacks are in it too
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers are made at import, before this is called
    )
    set_level(level)


def set_level(level: str) -> None:
    """Changes the level of a running process."""
    logging.getLogger().setLevel(level.upper())


def _says_who(worker: int) -> structlog.typing.Processor:
    def say(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["worker"] = worker
        return event

    return say


def hide_bytes(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: bytes become their length."""
    for name, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"<{len(value):,} bytes>"
    return event
