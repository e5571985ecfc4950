"""The compiled parts of Portask, a distribution of its own: variants under the same contracts, written in Rust.

Importing this package loads nothing compiled; `portask_native.registry` lists the variants, and each loads its part
when it is used.
"""

from importlib.util import find_spec


def why_not() -> str | None:
    """Why the compiled part cannot be used; ``None`` when it can. Asked by the registry."""
    if find_spec("portask_native._native") is None:
        return "is not compiled here: make native"
    return None
