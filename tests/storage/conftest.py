"""What every test of a storage gets: its own folder, in RAM where there is such a place, and quiet logs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

# A restart at every byte means thousands of renamed files, and some file systems wait for the device at each.
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - folders with random names in it


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders that go away with the session."""
    with tempfile.TemporaryDirectory(prefix="portask-test-", dir=ROOM) as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))


@pytest.fixture
def tmp_path(new_folder: Callable[[], Path]) -> Iterator[Path]:
    """A folder for one test."""
    folder = new_folder()
    yield folder
    shutil.rmtree(folder)
