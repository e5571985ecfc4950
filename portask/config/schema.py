"""The keys there are, read from the structs of `portask.config.settings`, and the check of one value.

A key is a tuple of names, ``("server", "port")``; people see ``server.port``. `Problems` gathers every
complaint of one load, so that a file with three typos is corrected once and not three times.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from portask.config.access import IdentityLimits, IdentitySettings
from portask.config.settings import Retention, Settings, TopicOverride, quote, text
from portask.config.tokens import hide
from portask.contracts import FAMILIES
from portask.errors import ConfigError

Key = tuple[str, ...]
SECTIONS = Settings.__struct_fields__


class Field(NamedTuple):
    """One setting: the type that `msgspec.convert` checks, and the end of the sentence "must be …"."""

    type: Any
    description: str


@cache
def fields(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    """The settings of one section that hold a value (not tables)."""
    found = {}
    for name, hint in get_type_hints(struct, include_extras=True).items():
        if get_origin(hint) is Annotated:
            about = [meta.description for meta in get_args(hint)[1:] if meta.description]
            found[name] = Field(hint, about[-1])
    return found


@cache
def section_type(section: str) -> type[msgspec.Struct]:
    """The struct of one section; `Settings` knows which."""
    kind: type[msgspec.Struct] = get_type_hints(Settings)[section]
    return kind


def find_field(key: Key) -> Field | None:
    """The setting behind a key; ``None`` for one that does not exist, for options and for the receipt."""
    if key[0] == "auth" and len(key) > 2:
        return _find_in_auth(key)
    if key[0] == "topics" and len(key) > 2:
        if key[1] == "retention" and len(key) == 3:
            return fields(Retention).get(key[2])
        if len(key) == 3:
            return fields(TopicOverride).get(key[2])
        return fields(Retention).get(key[3]) if key[2] == "retention" and len(key) == 4 else None
    if len(key) != 2 or key[0] not in SECTIONS or key[0] == "receipt":
        return None
    return fields(section_type(key[0])).get(key[1])


def _find_in_auth(key: Key) -> Field | None:
    if key[1] == "limits":
        return fields(IdentityLimits).get(key[2]) if len(key) == 3 else None
    if key[1] != "identities":
        return None
    if len(key) == 4:
        return fields(IdentitySettings).get(key[3])
    return fields(IdentityLimits).get(key[4]) if len(key) == 5 and key[3] == "limits" else None


def is_option(key: Key) -> bool:
    """Whether the key is an option of a variant: ``storage.options.path``."""
    return len(key) == 3 and key[0] in FAMILIES and key[1] == "options"


def dotted(key: Key) -> str:
    """The key as people write it."""
    return ".".join(map(quote, key))


_SECRET = re.compile(r"passw|secret|token|credential|api_?key", re.IGNORECASE)
_SHOWN = 80


def show(key: str, value: Any, *, whole: bool = False) -> str:
    """A value as TOML, shortened unless ``whole``, with what looks like a secret left out."""
    value = redact(value, key.rpartition(".")[2])
    shown = toml(value)
    return shown if len(shown) <= _SHOWN or whole else shown[: _SHOWN - 1] + "…"


def toml(value: Any) -> str:
    """A value as TOML, tables inline; dates and the like as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quote(str(name))} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return text(str(value))


def redact(value: Any, name: str = "") -> Any:
    """``value`` with whatever looks like a secret left out, down to the last table."""
    if isinstance(value, dict):
        return {inner: redact(setting, inner) for inner, setting in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner, name) for inner in value]
    if _SECRET.search(name):
        return "…"
    return hide(value) if isinstance(value, str) else value


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of ``words`` that was probably meant."""
    close = difflib.get_close_matches(word, list(words), 1, cutoff)
    return close[0] if close else None


def check_value(key: Key, field: Field, value: Any, *, is_text: bool) -> tuple[Any, str]:
    """The value in its type and an empty complaint, or the value as it is and the complaint.

    Args:
        key: The setting.
        field: What `find_field` gave for it.
        value: From the file (a TOML value) or from outside.
        is_text: Whether ``value`` is text that stands for another type, as environment variables are.
    """
    try:
        good = msgspec.convert(value, field.type, strict=not is_text)
        if isinstance(good, float) and not math.isfinite(good):
            raise ValueError("not finite")
    except (ValueError, OverflowError):  # msgspec.ValidationError is a ValueError
        complaint = f"must be {field.description}"
        if isinstance(value, str) and not is_text and not check_value(key, field, value, is_text=True)[1]:
            complaint += f"; write it without quotes: {key[-1]} = {value}"
        return value, complaint
    return good, ""


class Problems:
    """Complaints about one load, in the order in which they were found."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, where: str, key: str, complaint: str, value: Any = msgspec.UNSET) -> None:
        """One line: ``where: key = value: complaint``."""
        shown = "" if value is msgspec.UNSET else f" = {show(key, value)}"
        self._lines.append(hide(f"{where}: {key}{shown}: {complaint}"))

    def unknown(self, where: str, key: Key, names: Iterable[str], value: Any = msgspec.UNSET) -> None:
        """A name that does not exist at its place, and those that do."""
        names = list(names)
        close = nearest(key[-1], names)
        there = f"did you mean {dotted((*key[:-1], close))}?" if close else f"there are: {', '.join(names)}"
        self.add(where, dotted(key), f"there is no such setting; {there}", value)

    def not_a_table(self, where: str, key: Key, value: Any) -> None:
        """A value stands where a table belongs."""
        self.add(where, dotted(key), f"must be a table: write [{dotted(key)}] above its keys", value)

    def __len__(self) -> int:
        return len(self._lines)

    def raise_if_any(self) -> None:
        """Raises `ConfigError` with one line a problem."""
        if self._lines:
            raise ConfigError("\n".join(self._lines))
