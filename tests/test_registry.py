"""Variants are found by entry point, loaded when used, and say why they cannot be."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from portask import registry
from portask.contracts import FAMILIES
from portask.errors import UnknownVariant, VariantError, VariantUnavailable
from portask.registry import Entry


def test_every_family_has_its_reference_first_and_alternatives() -> None:
    for family in FAMILIES:
        names = [entry.name for entry in registry.entries(family)]
        assert names[0] == registry.REFERENCE_NAMES[family]
    assert len(registry.entries()) >= 24
    assert registry.problems() == ()


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UnknownVariant, match=r"no ring named 'dequeue'; there are: deque, .*simplequeue"):
        registry.get("ring", "dequeue")


def test_a_missing_library_is_named_with_the_line_that_brings_it() -> None:
    entry = Entry("codec", "x", "nowhere:X", "", needs=("no_such_library=its-distribution", "json"))
    with pytest.raises(
        VariantUnavailable, match="codec/x needs its-distribution: pip install its-distribution"
    ):
        entry.load()


def test_a_variants_own_import_error_is_not_swallowed() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"portask_variants\.no_such_module"):
        Entry("codec", "x", "portask_variants.no_such_module:X", "").load()


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(VariantError, match="names the family 'rings'"):
        Entry("rings", "x", "x:X", "")


def test_a_strangers_package_is_found_and_a_broken_one_breaks_nothing(tmp_path: Path) -> None:
    def install(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[portask.variants]\n{name} = {name}:VARIANTS\n")

    install(
        "stranger",
        """
        from portask.registry import Entry
        VARIANTS = [Entry("ring", "strange", "stranger:StrangeRing", "a list"), Entry("ring", "deque", "x:X", "taken")]
        class StrangeRing: ...
        """,
    )
    install("broken", "raise RuntimeError('at import')")
    program = (
        "from portask import registry\n"
        "print(registry.get('ring', 'strange').load().__name__)\n"
        "print([p.reason for p in registry.problems()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "StrangeRing",
        "['RuntimeError: at import', 'offers ring/deque, a name that is taken: rename it']",
    ]


def test_listing_variants_imports_none_of_them() -> None:
    program = (
        "import sys; from portask import registry; [e.unavailable() for e in registry.entries() if not e.requires]; "
        "print([m for m in sys.modules if m.startswith('portask_variants.') and m != 'portask_variants.registry'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
