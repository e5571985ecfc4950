"""Failures in words: what is wrong, and what to do next."""

from __future__ import annotations

import errno
import os

from portask.config.tokens import hide
from portask.errors import (
    AuthenticationFailed,
    ConnectFailed,
    Draining,
    InvalidTopic,
    NotConnected,
    PortaskError,
    RequestTimeout,
    UnknownGroup,
)

_CREDENTIALS = "give a token with --token-file or PORTASK_TOKEN, or a certificate with --cert"
_NEXT: dict[type[PortaskError], str] = {
    ConnectFailed: "start a broker with `portask serve`, or say where it is with --url",
    AuthenticationFailed: _CREDENTIALS,
    NotConnected: "see whether the broker still runs: `portask ping`",
    RequestTimeout: "see whether the broker answers: `portask ping`",
    Draining: "wait for the broker to come back, or say where another is with --url",
    UnknownGroup: "`portask groups` lists them",
    InvalidTopic: "a topic is made of A-Z a-z 0-9 _ - and dots, a filter of * and > beside them",
}
_NEXT_BY_ERRNO = {
    errno.EADDRINUSE: "stop the program that has it, or choose another port",
    errno.EACCES: "see who may use it, or run as a user who may",
    errno.EPERM: "see who may use it, or run as a user who may",
    errno.ENOENT: "see whether the path is right",
    errno.EEXIST: "choose a new one: what is there is left alone",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "see whether the path is right",
    errno.ECONNREFUSED: "start a broker with `portask serve`, or say where it is with --url",
    errno.EMFILE: "raise the limit of open files: `ulimit -n`",
    errno.ENOSPC: "make room on the device",
}


def explain(error: Exception) -> list[str]:
    """Lines for stderr, without the program's name and without tokens. One line unless several settings are wrong."""
    return [hide(line) for line in _explain(error)]


def _explain(error: Exception) -> list[str]:
    if isinstance(error, PortaskError):
        lines = str(error).splitlines() or [type(error).__name__]
        hint = _NEXT.get(type(error))
        if hint and len(lines) == 1:
            lines[0] = f"{lines[0]}; {hint}"
        return lines
    if isinstance(error, OSError):
        return [_system(error)]
    what = " ".join(str(error).split())
    return [f"unexpected {type(error).__name__}: {what}; this is a bug: PORTASK_TRACEBACK=1 shows where"]


def _system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    name = error.filename
    place = f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: " if name is not None else ""
    number = error.errno if isinstance(error.errno, int) else 0
    return f"{place}{reason}; {_NEXT_BY_ERRNO.get(number, 'PORTASK_TRACEBACK=1 shows where')}"
