"""Without the compiled plug-in its tests are skipped, unless PORTASK_REQUIRE_NATIVE=1 forbids that."""

import os
from importlib.util import find_spec

import pytest


def compiled() -> bool:
    return find_spec("portask_native") is not None and find_spec("portask_native._native") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if compiled() or os.environ.get("PORTASK_REQUIRE_NATIVE") == "1":
        return
    for item in items:
        if item.path.parent.name == "native":
            item.add_marker(pytest.mark.skip(reason="portask-native is not compiled: make native"))
