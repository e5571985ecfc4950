"""The storages that keep records in a database, and a database that fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from portask import registry

DATABASES = ("lmdb", "sqlite")


def database(variant: str, folder: Path, mode: str = "os", **options: Any) -> Any:
    """A storage of the variant; skips the test where it cannot run."""
    entry = registry.get("storage", variant)
    if reason := entry.unavailable():
        pytest.skip(reason)
    return entry.make(path=folder, mode=mode, **options)


class Faults:
    """Stands between a storage and its database.

    Attributes:
        errors: Raised by the next transactions, one each; ``None`` lets one through.
        works: How many works each transaction had.
        going: Clear it, and transactions wait.
    """

    def __init__(self, storage: Any) -> None:
        self.errors: list[Exception | None] = []
        self.works: list[int] = []
        self.going = threading.Event()
        self.going.set()
        self._write = storage._writer._write
        storage._writer._write = self._between

    def _between(self, works: Sequence[Any]) -> None:
        self.going.wait(10)
        self.works.append(len(works))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self._write(works)
