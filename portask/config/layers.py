"""The three places that settings come from, each brought to the same form: key → value and source.

Names are checked here, values are not: what a name that does not exist should have been depends on the place,
what a value should have been does not (`portask.config.loading`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from portask.config.access import ANONYMOUS, AuthSettings, IdentityLimits, IdentitySettings
from portask.config.schema import (
    SECTIONS,
    Key,
    Problems,
    dotted,
    fields,
    find_field,
    is_option,
    nearest,
    section_type,
)
from portask.config.settings import Retention, TopicOverride, TopicSettings
from portask.config.tokens import IDENTITY
from portask.contracts import FAMILIES
from portask.errors import ConfigError

PREFIX = "PORTASK_"
PATH_VARIABLE = "PORTASK_CONFIG"
COMMAND_LINE = "command line"
DECLARED = ""
"""Last part of the key that stands for an empty table: a topic, or an identity, that is named and nothing more."""
# The rule of portask.core.topics, which settings may not import; a test holds the two together.
_TOPIC = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_TOPIC_KEYS = (*fields(TopicSettings), "retention")
_OVERRIDE_KEYS = (*fields(TopicOverride), "retention")
_AUTH_KEYS = (*fields(AuthSettings), "limits", "identities")
_IDENTITY_KEYS = (*fields(IdentitySettings), "limits")


class Value(Struct):
    """A raw value, where it came from, and whether it is text from the environment."""

    raw: Any
    source: str
    text: bool = False


Layer = dict[Key, Value]
_Values = Iterator[tuple[Key, Any]]


def read(path: Path) -> dict[str, Any]:
    """A TOML file as plain data.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a TOML file, or none for the defaults") from None
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; give the path of a TOML file") from error
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; TOML files are UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}; see https://toml.io for the syntax") from error
    except (RecursionError, ValueError) as error:  # nested or long beyond what tomllib takes
        raise ConfigError(f"{path}: not a settings file: {error}") from error


def from_file(data: dict[str, Any], where: str, problems: Problems) -> Layer:
    """The values of a file; names that do not exist become problems."""
    layer: Layer = {}
    for section, table in data.items():
        if section not in SECTIONS:
            value = msgspec.UNSET if isinstance(table, dict) else table
            problems.unknown(where, (section,), SECTIONS, value)
        elif not isinstance(table, dict):
            problems.not_a_table(where, (section,), table)
        else:
            walk = _WALKS.get(section, _section)
            layer |= {key: Value(value, where) for key, value in walk(section, table, where, problems)}
    return layer


def _section(section: str, table: dict[str, Any], where: str, problems: Problems) -> _Values:
    for name, value in table.items():
        key = (section, name)
        if name == "options" and section in FAMILIES:
            if isinstance(value, dict):
                yield from (((*key, option), setting) for option, setting in value.items())
            else:
                problems.not_a_table(where, key, value)
        elif find_field(key):
            yield key, value
        else:
            names = [*fields(section_type(section)), *(["options"] if section in FAMILIES else [])]
            problems.unknown(where, key, names, msgspec.UNSET if isinstance(value, dict) else value)


def _topics(section: str, table: dict[str, Any], where: str, problems: Problems) -> _Values:
    for name, value in table.items():
        key = (section, name)
        if name == "retention":
            yield from _plain(key, value, Retention, where, problems)
        elif find_field(key):
            yield key, value
        elif not isinstance(value, dict):
            problems.unknown(where, key, _TOPIC_KEYS, value)
        elif complaint := _topic_name(name):
            problems.add(where, dotted(key), complaint)
        else:
            yield from _topic(key, value, where, problems)


def _topic(key: Key, table: dict[str, Any], where: str, problems: Problems) -> _Values:
    if not table:
        yield (*key, DECLARED), True
    meant = nearest(key[1], _TOPIC_KEYS, 0.8)
    hint = f"; or did you mean [topics.{meant}]?" if meant else ""
    for name, value in table.items():
        if name == "retention":
            yield from _plain((*key, name), value, Retention, where, problems)
        elif name in _OVERRIDE_KEYS:
            yield (*key, name), value
        else:
            complaint = f"a topic's table takes {', '.join(_OVERRIDE_KEYS)}; this is none of them{hint}"
            shown = msgspec.UNSET if isinstance(value, dict) else value
            problems.add(where, dotted((*key, name)), complaint, shown)


def _plain(key: Key, table: Any, struct: type[msgspec.Struct], where: str, problems: Problems) -> _Values:
    """A table of values: the fields of ``struct``."""
    if not isinstance(table, dict):
        problems.not_a_table(where, key, table)
        return
    for name, value in table.items():
        if name in fields(struct):
            yield (*key, name), value
        else:
            problems.unknown(where, (*key, name), fields(struct), value)


def _auth(section: str, table: dict[str, Any], where: str, problems: Problems) -> _Values:
    yield (section, "required"), table.get("required", True)  # that there is such a table says so
    for name, value in table.items():
        key = (section, name)
        if name == "limits":
            yield from _plain(key, value, IdentityLimits, where, problems)
        elif name == "identities":
            yield from _identities(key, value, where, problems)
        elif find_field(key):
            yield key, value
        else:
            problems.unknown(where, key, _AUTH_KEYS, msgspec.UNSET if isinstance(value, dict) else value)


def _identities(key: Key, tables: Any, where: str, problems: Problems) -> _Values:
    if not isinstance(tables, dict):
        problems.not_a_table(where, key, tables)
        return
    for name, table in tables.items():
        place = (*key, name)
        if not isinstance(table, dict):
            problems.not_a_table(where, place, table)
        elif name == ANONYMOUS:
            problems.add(where, dotted(place), "is for those who show nothing: set auth.anonymous")
        elif not re.fullmatch(IDENTITY, name):
            problems.add(where, dotted(place), "is no identity's name: use 1 to 64 of A-Z a-z 0-9 _ -")
        else:
            yield (*place, DECLARED), True
            for inner, value in table.items():
                if inner == "limits":
                    yield from _plain((*place, inner), value, IdentityLimits, where, problems)
                elif inner in _IDENTITY_KEYS:
                    yield (*place, inner), value
                else:
                    shown = msgspec.UNSET if isinstance(value, dict) else value
                    problems.unknown(where, (*place, inner), _IDENTITY_KEYS, shown)


_WALKS = {"topics": _topics, "auth": _auth}
"""Sections with tables of the user's own naming."""


def _topic_name(name: str) -> str:
    if "*" in name or ">" in name:
        return "is a filter; a table here is for one topic: write its whole name"
    if not _TOPIC.fullmatch(name):
        return "is not a topic name: use tokens of A-Z a-z 0-9 _ - joined by dots, 255 characters at most"
    return ""


def from_environment(environ: Mapping[str, str], problems: Problems) -> Layer:
    """The values of ``PORTASK_<SECTION>_<KEY>`` variables; wrong keys of our sections become problems."""
    layer: Layer = {}
    for variable, text in sorted(environ.items()):
        section, _, rest = variable.removeprefix(PREFIX).partition("_")
        if not variable.startswith(PREFIX) or variable == PATH_VARIABLE:
            continue
        section = section.lower()
        if section not in SECTIONS:
            # other programs have PORTASK_ variables too; only what looks like a slip of the pen is judged
            meant = nearest(section, SECTIONS, 0.8) if rest else None
            if meant:
                fixed = f"{PREFIX}{meant.upper()}_{rest}"
                complaint = f"there is no such section; did you mean {fixed}?"
                problems.add(_variable(variable), section, complaint, text)
            continue
        key = _environment_key(section, rest.lower())
        if key is None:
            _unknown_variable(variable, section, rest.lower(), text, problems)
        else:
            layer[key] = Value(text, _variable(variable), text=True)
    return layer


_ENVIRONMENT_TABLES = {"topics": "retention", "auth": "limits"}
"""The table of a section whose values have variables: ``PORTASK_TOPICS_RETENTION_AGE_S``."""


def _environment_key(section: str, rest: str) -> Key | None:
    if section in FAMILIES and rest.startswith("options_") and rest != "options_":
        return (section, "options", rest.removeprefix("options_"))
    table = _ENVIRONMENT_TABLES.get(section)
    if table and rest.startswith(f"{table}_"):
        key: Key = (section, table, rest.removeprefix(f"{table}_"))
    else:
        key = (section, rest)
    return key if find_field(key) else None


def _unknown_variable(variable: str, section: str, rest: str, text: str, problems: Problems) -> None:
    if section == "receipt":
        complaint = "the receipt stands in the file only; unset the variable"
        problems.add(_variable(variable), section, complaint, text)
        return
    names = [*fields(section_type(section))]
    if section == "topics":
        names += [f"retention_{name}" for name in fields(Retention)]
    if section == "auth":
        names += [f"limits_{name}" for name in fields(IdentityLimits)]
    if section in FAMILIES:
        names.append("options_<name>")
    close = nearest(rest, names)
    if text.startswith("tcp://") or rest.startswith(("service_", "port_")):
        hint = "Kubernetes sets it for a service of that name: set enableServiceLinks to false"
    elif close:
        hint = f"did you mean {PREFIX}{section.upper()}_{close.upper()}?"
    else:
        hint = "there are: " + ", ".join(f"{PREFIX}{section.upper()}_{name.upper()}" for name in names)
    problems.add(_variable(variable), f"{section}.{rest}", f"there is no such setting; {hint}", text)


def _variable(name: str) -> str:
    return f"environment variable {name}"


def from_overrides(overrides: Mapping[str, Any], problems: Problems) -> Layer:
    """The values of the command line, by dotted key."""
    layer: Layer = {}
    for name, value in overrides.items():
        key = tuple(name.split(".", 2))
        if find_field(key) or is_option(key):
            layer[key] = Value(value, COMMAND_LINE)
        else:
            names = fields(section_type(key[0])) if key[0] in SECTIONS and key[0] != "receipt" else SECTIONS
            problems.unknown(COMMAND_LINE, key, names, value)
    return layer
