"""Which variants there are, found by name and loaded when used.

A variant is one `Entry`: a line that says its family, its name, where its class is, and which libraries it
needs. The reference variants are listed here by name; everything else comes through the entry-point group
``portask.variants``, each entry point being an iterable of `Entry`. A newcomer adds one file and one such
line, in this tree or in a package of its own:

    [project.entry-points."portask.variants"]
    my_rings = "my_package.portask_variants:VARIANTS"

Nothing is imported until `Entry.load`. A missing library makes the variant unavailable, with the pip line
that brings it; an error inside the variant's own module is that module's bug and is raised as it is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from portask.contracts import FAMILIES
from portask.errors import UnknownVariant, VariantError, VariantUnavailable

GROUP = "portask.variants"


class Entry(msgspec.Struct, frozen=True):
    """One variant of one family.

    Attributes:
        family: One of `portask.contracts.FAMILIES`.
        name: Unique within the family; what the config file says.
        target: ``"module:attribute"``, called with the config's options.
        summary: One line for people.
        needs: Importable modules it needs beyond the core; ``"module=distribution"`` where pip knows it by
            another name.
        capabilities: What cannot be seen from the class: ``"threads"``, ``"processes"`` for rings, ``"tls"`` for
            servers, ``"multicore"`` for servers and storages that several workers of one broker can have,
            ``"native"`` for compiled parts.
        requires: Why it may be unavailable besides libraries: ``"module:function"`` that returns a reason or
            ``None``.
        sandbox: For a variant that needs a server: ``"module:context_manager"`` that yields options for an instance to
            try things on, which shares nothing with anybody.
    """

    family: str
    name: str
    target: str
    summary: str
    needs: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    requires: str = ""
    sandbox: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise VariantError(
                f"{self.name!r} names the family {self.family!r}; the families are {', '.join(FAMILIES)}"
            )

    @property
    def label(self) -> str:
        """``family/name``, as reports print it."""
        return f"{self.family}/{self.name}"

    def unavailable(self) -> str | None:
        """Why it cannot be used here, with what to do about it; ``None`` when it can."""
        missing = [need for need in self.needs if find_spec(need.partition("=")[0]) is None]
        if missing:
            names = " ".join(dict.fromkeys(need.partition("=")[2] or need for need in missing))
            return f"needs {names}: pip install {names}"
        if self.requires:
            reason: str | None = _resolve(self.requires)()
            return reason
        return None

    def load(self) -> Any:
        """The class or factory.

        Raises:
            VariantUnavailable: see `unavailable`.
        """
        reason = self.unavailable()
        if reason:
            raise VariantUnavailable(f"{self.label} {reason}")
        return _resolve(self.target)

    def make(self, **options: Any) -> Any:
        """An instance. Options are the target's keyword arguments.

        Raises:
            VariantUnavailable: see `unavailable`.
            TypeError: an option that it does not have.
        """
        return self.load()(**options)

    def sandboxed(self, **wishes: Any) -> AbstractContextManager[dict[str, Any]]:
        """Options for an instance to try things on, for as long as the context lasts; none where it needs none.

        Args:
            wishes: Keyword arguments of its ``sandbox``.
        """
        if not self.sandbox:
            return nullcontext({})
        found: AbstractContextManager[dict[str, Any]] = _resolve(self.sandbox)(**wishes)
        return found


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


REFERENCE = (
    Entry(
        "codec", "cbor2", "portask.reference.codec:Cbor2Codec", "CBOR by the cbor2 library: the specification"
    ),
    Entry(
        "ring",
        "deque",
        "portask.reference.ring:DequeRing",
        "collections.deque",
        capabilities=frozenset({"threads"}),
    ),
    Entry("pool", "none", "portask.reference.pool:NoPool", "allocates every time"),
    Entry("compression", "never", "portask.reference.compression:Never", "leaves every batch as it is"),
    Entry(
        "workers",
        "inline",
        "portask.reference.workers:InlineWorkers",
        "runs each step at once, on the caller's thread",
    ),
    Entry(
        "storage",
        "memory",
        "portask.reference.storage:MemoryStorage",
        "a log in RAM, small batches coalesced",
        capabilities=frozenset({"multicore"}),
    ),
    Entry(
        "server",
        "asyncio-streams",
        "portask.server.asyncio_streams:StreamsServer",
        "asyncio streams, a task a connection",
        capabilities=frozenset({"tls", "multicore"}),
    ),
)
REFERENCE_NAMES = {entry.family: entry.name for entry in REFERENCE}
"""The reference variant of each family."""

BUILT_IN = (
    Entry(
        "storage",
        "segment-log",
        "portask.storage:SegmentLog",
        "a log in a folder: survives kill -9 or power loss, as its mode says",
        capabilities=frozenset({"durable", "multicore"}),
        requires="portask.storage:why_not",
    ),
)
"""Variants that ship with the broker and are no reference: what a deployment wants and a reader does not begin with."""


class Problem(msgspec.Struct, frozen=True):
    """An entry point that could not be read: shown beside the variants, never hidden."""

    entry_point: str
    reason: str


@cache
def _discover() -> tuple[dict[tuple[str, str], Entry], tuple[Problem, ...]]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 20 ms that only a first look-up should pay

    found = {(entry.family, entry.name): entry for entry in (*REFERENCE, *BUILT_IN)}
    problems: list[Problem] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            offered = tuple(point.load())
        except Exception as error:  # noqa: BLE001 - a stranger's package must not break the others
            problems.append(Problem(point.value, f"{type(error).__name__}: {error}"))
            continue
        for entry in offered:
            if not isinstance(entry, Entry):
                problems.append(Problem(point.value, f"offers {entry!r}, which is no portask.registry.Entry"))
            elif (entry.family, entry.name) in found:
                problems.append(
                    Problem(point.value, f"offers {entry.label}, a name that is taken: rename it")
                )
            else:
                found[entry.family, entry.name] = entry
    return found, tuple(problems)


def entries(family: str | None = None) -> list[Entry]:
    """All variants (of one family), available or not: by family, the reference first, then by name."""
    reference = {(entry.family, entry.name) for entry in REFERENCE}
    chosen = [entry for entry in _discover()[0].values() if family in {None, entry.family}]
    return sorted(
        chosen, key=lambda e: (FAMILIES.index(e.family), (e.family, e.name) not in reference, e.name)
    )


def problems() -> tuple[Problem, ...]:
    """Entry points that could not be used, with the reason."""
    return _discover()[1]


def get(family: str, name: str) -> Entry:
    """The variant of that name.

    Raises:
        UnknownVariant: there is none; the text lists those that exist.
    """
    entry = _discover()[0].get((family, name))
    if entry is None:
        names = ", ".join(entry.name for entry in entries(family))
        raise UnknownVariant(f"there is no {family} named {name!r}; there are: {names}")
    return entry


def refresh() -> None:
    """Forgets what was found, after a package was installed in this process."""
    _discover.cache_clear()
