"""Compiled helpers for what the wire does to every frame and batch, where a package brings them.

They are found by entry point, because nothing here may name a package outside::

    [project.entry-points."portask.accelerators"]
    wire-1 = "my_package.accelerators:HELPERS"      # a mapping of names to functions

The name of the entry point is the contract: ``wire-1`` is what stands below, with these signatures. Each has
a twin in Python beside its caller, which is the specification and says what is wrong with bytes: a helper handles
what is sound and leaves the rest to it. So nothing depends on a helper but speed.

``scan_frames(view, start, limit, flags, frames) -> (stop, length)``
    As `portask.wire.frames.scan_frames`; a PUBLISH comes with its batch, if that is sound.
``parse_batch(data, max_raw_length) -> RecordBatch | None``
    As `portask.wire.batches.parse`, or ``None`` for what is not sound.
``split_batches(view, max_raw_length) -> list[RecordBatch] | None``
    As `portask.wire.batches.split`, likewise.
``Coalescer(first, base_offset, now, target=65536)``
    As `portask.wire.coalesce.Coalescer`, without ``fits``.
``gather_batches(found, target, window, finish) -> list[Buffer]``
    As `portask.storage.gathering.gather`.

``PORTASK_NO_NATIVE=1`` leaves them out. `status` says what is in use and why; ``portask serve`` prints it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

GROUP = "portask.accelerators"
CONTRACT = "wire-1"
SWITCH = "PORTASK_NO_NATIVE"
NAMES = ("scan_frames", "parse_batch", "split_batches", "Coalescer", "gather_batches")


class Status(NamedTuple):
    """What is in use.

    Attributes:
        source: Distribution and version of the helpers, empty for none.
        reason: Why there are none, empty if there are.
    """

    source: str
    reason: str

    def __str__(self) -> str:
        return self.source or f"none ({self.reason})"


@cache
def _found() -> tuple[Status, Mapping[str, Callable[..., Any]]]:
    if os.environ.get(SWITCH, "") not in {"", "0"}:
        return Status("", f"{SWITCH} is set"), {}
    from importlib.metadata import entry_points  # noqa: PLC0415 - 20 ms that only a first look-up should pay

    points = sorted(entry_points(group=GROUP, name=CONTRACT), key=lambda point: point.value)
    if not points:
        return Status("", "no package brings them"), {}
    point = points[0]
    try:
        offered = dict(point.load())
    except Exception as error:  # noqa: BLE001 - a stranger's package must not break the wire
        return Status("", f"{point.value}: {type(error).__name__}: {error}"), {}
    missing = [name for name in NAMES if name not in offered]
    if missing:
        return Status("", f"{point.value} lacks {', '.join(missing)}"), {}
    distribution = point.dist
    source = f"{distribution.name} {distribution.version}" if distribution else point.value
    return Status(source, ""), offered


def status() -> Status:
    """What is in use, and why."""
    return _found()[0]


@cache
def helper(name: str) -> Callable[..., Any] | None:
    """The helper of that name; ``None`` where the twin must do. The first call looks for them, about 10 ms.

    Args:
        name: One of `NAMES`.
    """
    return _found()[1].get(name)


def refresh() -> None:
    """Looks again: after a package was installed in this process, or the switch was changed."""
    _found.cache_clear()
    helper.cache_clear()
