"""The plug-in is a distribution of its own, found by its entry point."""

import subprocess
import sys
from importlib.metadata import version

from portask import registry


def test_the_compiled_part_is_the_one_that_was_installed() -> None:
    from portask_native import _native

    assert _native.__version__ == version("portask-native")


def test_its_variants_are_found_and_say_that_they_are_compiled() -> None:
    offered = [entry for entry in registry.entries() if entry.target.startswith("portask_native")]
    assert offered
    assert all("native" in entry.capabilities and entry.unavailable() is None for entry in offered)
    assert registry.problems() == ()


def test_listing_its_variants_loads_nothing_compiled() -> None:
    program = (
        "import sys; from portask import registry; [e.unavailable() for e in registry.entries('codec')]; "
        "print([m for m in sys.modules if m.startswith('portask_native.') and m != 'portask_native.registry'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
