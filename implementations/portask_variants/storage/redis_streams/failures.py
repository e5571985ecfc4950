"""What went wrong, in words that name the server and what to do next; and whether trying again may help."""

from __future__ import annotations

import os
import ssl

from redis import exceptions

from portask.errors import PortaskError, StorageError, StorageFull, StorageUnavailable

Failure = Exception
"""What a command may end with instead of a reply."""

_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.AskError,  # MovedError is one
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    OSError,
    TimeoutError,
    EOFError,
)
_LASTING = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


class NotReplicated(Exception):
    """Too few replicas have what was written."""


def is_passing(failure: Exception) -> bool:
    """Whether the same may work a moment later: the server is away, busy, loading, failing over."""
    if isinstance(failure, _LASTING) or _says(failure, "NOAUTH", "WRONGPASS"):
        return False
    if isinstance(_cause(failure), ssl.SSLCertVerificationError):
        return False
    return isinstance(failure, (*_PASSING, NotReplicated)) or _says(failure, "LOADING", "BUSY ", "NOREPLICAS")


def is_moving(failure: Exception) -> bool:
    """Whether the cluster's map is to be read again."""
    return is_passing(failure) and not _says(failure, "LOADING", "BUSY ", "NOREPLICAS")


_UNKNOWN = "so nobody knows whether it was done: try again"
AT_A_START = "see that it runs, and that storage.options lead there"


def explain(
    failure: Exception, server: str, waited: float | None = None, advice: str = _UNKNOWN
) -> PortaskError:
    """The error for whoever waits.

    Args:
        failure: What redis-py raised, or what we did.
        server: Where, for people.
        waited: Seconds after which it was given up; ``None`` if it was not tried again.
        advice: What to do about a server that did not answer.
    """
    text = _line(failure)
    if isinstance(failure, exceptions.OutOfMemoryError) or _says(failure, "OOM"):
        return StorageFull(f"{server} is full ({text}): trim, raise its maxmemory, or publish later")
    if _says(failure, "MISCONF"):
        return StorageFull(f"{server} takes no writes, for it cannot save them ({text}): see to its disk")
    if isinstance(failure, _LASTING) or _says(failure, "NOAUTH", "WRONGPASS", "NOPERM"):
        return StorageError(
            f"{server} refuses the login or a command: {text}: see to username, password and its ACL"
        )
    if isinstance(_cause(failure), ssl.SSLCertVerificationError):
        return StorageError(
            f"{server} shows a certificate that is not trusted ({text}): see to storage.options.ca"
        )
    if waited is None:
        return StorageError(f"{server} refused: {text}")
    if isinstance(failure, NotReplicated):
        return StorageError(
            f"{server}: {text}, after {waited:.3g} s: it is stored, and a failover may lose it"
        )
    if isinstance(failure, TimeoutError | exceptions.TimeoutError):
        how = "does not answer"
    elif isinstance(failure, exceptions.ConnectionError | OSError):
        how = f"cannot be reached: {text}"
    else:
        how = f"is not ready: {text}"
    return StorageUnavailable(f"{server} {how}; given up after {waited:.3g} s, {advice}")


def _cause(failure: Exception) -> BaseException:
    """What redis-py's exception stands for."""
    return failure.__cause__ or failure.__context__ or failure


def _says(failure: Exception, *codes: str) -> bool:
    text = str(failure)
    return any(text.startswith(code) or f" {code} " in text for code in codes)


def _line(failure: Exception) -> str:
    cause = _cause(failure)
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno)
    text = (
        str(cause if isinstance(cause, ssl.SSLError) else failure).partition("\n")[0].strip().rstrip(".")
        or type(failure).__name__
    )
    return text if len(text) < 300 else text[:300] + "…"
