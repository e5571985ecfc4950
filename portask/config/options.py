"""Options of variants: found in the signature of what the registry names, checked before anything is built.

Which options a variant has, of which type and with which default is said once, by the parameters of its
class. Those that the broker itself hands in (callbacks, other variants) cannot stand in a file and are not
options.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from portask import registry
from portask.config.schema import Key, Problems, dotted, nearest, show
from portask.config.settings import Choice
from portask.errors import ConfigError, UnknownVariant
from portask.registry import Entry


class Option(msgspec.Struct, frozen=True):
    """One keyword argument of a variant. ``hint`` is ``None`` where the variant does not say its type."""

    name: str
    hint: Any = None
    default: Any = msgspec.UNSET

    @property
    def text(self) -> str:
        """For people: ``size: int = 4096``."""
        plain = inspect.isclass(self.hint) and not get_args(self.hint)
        kind = self.hint.__name__ if plain else str(self.hint).replace("typing.", "")
        kind = "" if self.hint is None else f": {kind}"
        return f"{self.name}{kind}" + ("" if self.default is msgspec.UNSET else f" = {self.default!r}")


def options(entry: Entry) -> tuple[dict[str, Option], bool]:
    """The options of a variant by name, and whether it takes others too (``**options``).

    Compiled classes have no annotations: there an option is of its default's type.

    Raises:
        VariantUnavailable: a library is missing, so nothing can be known.
    """
    target = entry.load()
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # noqa: BLE001 - a stranger's annotations may not resolve: then only names are checked
        hints = {}
    found: dict[str, Option] = {}
    open_ended = False
    compiled = inspect.isclass(target) and not inspect.isfunction(target.__init__)
    for parameter in inspect.signature(target).parameters.values():
        hint = hints.get(parameter.name)
        if compiled and type(parameter.default) in _SCALARS:
            hint = type(parameter.default)
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL} or not _fits_a_file(
            hint
        ):
            continue
        else:
            default = msgspec.UNSET if parameter.default is parameter.empty else parameter.default
            found[parameter.name] = Option(parameter.name, hint, default)
    return found, open_ended


_SCALARS = {bool, int, float, str}
_PLAIN = {None, NoneType, Any, bool, int, float, str, list, dict, tuple, Path}
_HOLDERS = {Union, UnionType, Annotated, list, dict, tuple, Sequence, Mapping}


def _fits_a_file(hint: Any) -> bool:
    """Whether values of the type can be written in TOML: no callbacks, no other variants."""
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin is not None:
        parts = get_args(hint)
        kinds = parts[:1] if origin is Annotated else parts
        return origin in _HOLDERS and all(part is ... or _fits_a_file(part) for part in kinds)
    return hint in _PLAIN or (inspect.isclass(hint) and issubclass(hint, Enum))


def check_choice(
    family: str, chosen: Choice, sources: dict[str, str], problems: Problems, texts: set[Key]
) -> Choice:
    """Checks that the variant exists and can run here, and its options; complains to ``problems``.

    Args:
        family: Of the variant.
        chosen: The name and the raw options.
        sources: Dotted key → where its value came from, for the complaints.
        problems: Takes the complaints.
        texts: Keys whose values are text from the environment, to be read as the option's type.

    Returns:
        The choice with text turned into values.
    """
    key = f"{family}.variant"
    where = sources.get(key, "default")
    try:
        entry = registry.get(family, chosen.variant)
    except UnknownVariant as error:
        close = nearest(chosen.variant, [known.name for known in registry.entries(family)])
        problems.add(where, key, str(error) + (f"; did you mean {close}?" if close else ""), chosen.variant)
        return chosen
    reason = entry.unavailable()
    if reason:
        other = "; or choose `--storage memory`, which keeps nothing" if family == "storage" else ""
        problems.add(where, key, f"cannot run here: {reason}{other}", chosen.variant)
        return chosen
    if not chosen.options:
        return chosen
    known, open_ended = options(entry)
    values: dict[str, Any] = {}
    for name, value in chosen.options.items():
        place = (family, "options", name)
        option = known.get(name) or (Option(name) if open_ended else None)
        if option is None:
            problems.add(sources[dotted(place)], dotted(place), _no_such(entry, name, known), value)
            continue
        try:
            values[name] = _read_text(option, value) if place in texts else value
            _convert(option, values[name])
        except ValueError:
            problems.add(
                sources[dotted(place)],
                dotted(place),
                f"does not fit the option {option.text} of {entry.label}",
                value,
            )
    return Choice(chosen.variant, values)


def _no_such(entry: Entry, name: str, known: dict[str, Option]) -> str:
    close = nearest(name, known)
    if close:
        return f"{entry.label} has no such option; did you mean {close}?"
    if not known:
        return f"{entry.label} takes no options: remove it"
    return f"{entry.label} has no such option; it has: {', '.join(option.text for option in known.values())}"


def _read_text(option: Option, text: str) -> Any:
    """What a text from the environment stands for: itself where the option is text, else a TOML value."""
    if option.hint is str or str in get_args(option.hint):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _convert(option: Option, value: Any) -> Any:
    """The value as the option's type.

    Raises:
        ValueError: it does not fit.
    """
    if option.hint is None:
        return value
    try:
        return msgspec.convert(value, option.hint, dec_hook=_path)
    except (TypeError, NotImplementedError):
        return value  # a type of the variant's own: its constructor judges


def _path(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def make(family: str, chosen: Choice, **context: Any) -> Any:
    """An instance of the chosen variant.

    Args:
        family: Of the variant.
        chosen: `portask.config.settings.Settings.choice`.
        context: What the broker hands in itself, e.g. ``notify``; only what the variant has parameters for is
            used, and options come first.

    Raises:
        ConfigError: the variant refuses its options; names the keys.
        UnknownVariant, VariantUnavailable: it cannot be had.
    """
    entry = registry.get(family, chosen.variant)
    target = entry.load()
    taken = inspect.signature(target).parameters
    known = options(entry)[0]
    given = {name: value for name, value in context.items() if name in taken}
    given |= {name: _convert(known.get(name, Option(name)), value) for name, value in chosen.options.items()}
    try:
        return target(**given)
    except (ConfigError, ValueError, TypeError) as error:
        if not chosen.options:
            raise  # nobody chose anything: this is no setting's fault
        shown = ", ".join(f"{name} = {show(name, value)}" for name, value in chosen.options.items())
        raise ConfigError(f"{family}.options: {entry.label} refuses {shown}: {error}") from error
