"""The plug-in is a distribution of its own, found by its entry point."""

import os
from importlib.metadata import PackageNotFoundError, version

import pytest

from portask import registry


def test_the_compiled_part_is_the_one_that_was_installed() -> None:
    try:
        installed = version("portask-native")
    except PackageNotFoundError:
        if os.environ.get("PORTASK_REQUIRE_NATIVE") == "1":
            raise
        pytest.skip("portask-native is not installed: make native")
    from portask_native import _native

    assert _native.__version__ == installed


def test_its_variants_say_that_they_are_compiled() -> None:
    offered = [entry for entry in registry.entries() if entry.target.startswith("portask_native")]
    assert all("native" in entry.capabilities for entry in offered)
    assert registry.problems() == ()
