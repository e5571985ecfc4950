"""What a conformance suite is made of: checks, one sentence each, that any variant of a family must pass.

A family's module (`codec.py`, `ring.py`, …) holds plain functions marked with `check`. They take the registry
entry, make instances themselves, and raise `Violation` through `require` when the variant breaks its
contract. Nothing here needs pytest, so that ``portask lab conform NAME`` runs the same checks on a stranger's
installed package; the tests parametrize over them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from importlib import import_module

import msgspec

from portask.registry import Entry

Body = Callable[[Entry], None]


class Violation(AssertionError):
    """The variant breaks its contract; the text says what was expected and what came."""


class NotApplicable(Exception):
    """This check is about an ability that the variant does not claim; the text says which."""


def require(condition: object, message: str) -> None:
    """Raises `Violation` with ``message`` unless ``condition`` is true."""
    if not condition:
        raise Violation(message)


class Check(msgspec.Struct, frozen=True):
    """One check: its name, the sentence it proves, and the function."""

    name: str
    sentence: str
    run: Body


class Outcome(msgspec.Struct, frozen=True):
    """What came of one check: ``passed``, ``failed`` or ``not applicable``, and why."""

    check: str
    sentence: str
    status: str
    detail: str = ""


def check(suite: list[Check]) -> Callable[[Body], Body]:
    """Marks a function as a check of ``suite``; its docstring's first line is the sentence."""

    def mark(body: Body) -> Body:
        sentence = (body.__doc__ or body.__name__).strip().splitlines()[0]
        suite.append(Check(body.__name__, sentence, body))
        return body

    return mark


def checks(family: str, *, thorough: bool = False) -> list[Check]:
    """The suite of a family, in the order of its file; a thorough one has what a run of the lab has no time for."""
    module = import_module(f"portask_lab.conformance.{family}")
    suite: list[Check] = module.SUITE
    return [*suite, *getattr(module, "MORE", ())] if thorough else suite


def conform(entry: Entry, *, thorough: bool = False) -> Iterator[Outcome]:
    """Runs the suite of the entry's family on it, one outcome a check. Only `KeyboardInterrupt` and the like escape."""
    for item in checks(entry.family, thorough=thorough):
        try:
            item.run(entry)
        except NotApplicable as reason:
            yield Outcome(item.name, item.sentence, "not applicable", str(reason))
        except Violation as violation:
            yield Outcome(item.name, item.sentence, "failed", str(violation))
        except Exception as error:  # noqa: BLE001 - whatever a variant raises is its failure, not ours
            where = traceback.extract_tb(error.__traceback__)[-1]
            yield Outcome(
                item.name,
                item.sentence,
                "failed",
                f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
            )
        else:
            yield Outcome(item.name, item.sentence, "passed")
