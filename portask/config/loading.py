"""From a file, the environment and the command line to checked `Settings`, and where each value came from.

Three layers, each over the one before: the file, ``PORTASK_…`` variables, the command line. All are first
brought to the same form, key → value, so that they are merged and checked once, and a complaint names the
place that the value came from.

What is merged is single values, with one exception: options belong to the variant that they were written for.
A layer that chooses another variant leaves the options of the layers below behind, and says so in a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from portask import registry
from portask.config import layers
from portask.config.access import AuthSettings, IdentityLimits, IdentitySettings, TlsSettings, contradictions
from portask.config.layers import DECLARED, Layer
from portask.config.options import check_choice
from portask.config.schema import Key, Problems, check_value, dotted, fields, find_field, is_option
from portask.config.settings import (
    Choice,
    LimitSettings,
    LogSettings,
    MemorySettings,
    Retention,
    ServerSettings,
    Settings,
    TopicOverride,
    TopicSettings,
    quote,
)
from portask.contracts import FAMILIES

DEFAULT = "default"


class Loaded(Struct, frozen=True):
    """Settings, and how they came about.

    Attributes:
        settings: Checked.
        sources: Dotted key → ``"default"``, the file's path, the variable's name, or ``"command line"``.
        notes: What a user may want to know: options that were left behind.
    """

    settings: Settings
    sources: dict[str, str]
    notes: tuple[str, ...] = ()


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a broker. Touches the file once and imports the chosen variants that have options.

    Args:
        path: A TOML file; ``None`` for the one that ``PORTASK_CONFIG`` names, or none at all.
        environ: ``PORTASK_<SECTION>_<KEY>`` variables; others are left alone. ``None`` for none.
        overrides: Dotted key → value, as the command line gives them.

    Raises:
        ConfigError: one line a problem: the place, the key, the value and the fix.
    """
    return resolve(path, environ, overrides).settings


def resolve(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """`load`, with the source of every value."""
    environ = environ or {}
    chosen = path if path is not None else environ.get(layers.PATH_VARIABLE) or None
    problems = Problems()
    found = []
    receipt: dict[str, Any] = {}
    if chosen is not None:
        data = layers.read(Path(chosen))
        given = data.pop("receipt", {})
        if isinstance(given, dict):
            receipt = given
        else:
            problems.not_a_table(str(chosen), ("receipt",), given)
        found.append(layers.from_file(data, str(chosen), problems))
    found.append(layers.from_environment(environ, problems))
    found.append(layers.from_overrides(overrides or {}, problems))
    merged, notes = _merge(found)
    return _build(merged, receipt, problems, notes)


def _merge(found: list[Layer]) -> tuple[Layer, list[str]]:
    merged: Layer = {}
    notes: list[str] = []
    for layer in found:
        for family in FAMILIES:
            new = layer.get((family, "variant"))
            if new is None:
                continue
            before = merged.get((family, "variant"))
            if new.raw == (before.raw if before else Settings().choice(family).variant):
                continue
            for key in [key for key in merged if key[0] == family and is_option(key)]:
                left = merged.pop(key)
                reason = f"{new.source} chose another {family}, {new.raw}"
                notes.append(f"{dotted(key)} from {left.source} is not used: {reason}")
        merged |= layer
    return merged, notes


def _build(merged: Layer, receipt: dict[str, Any], problems: Problems, notes: list[str]) -> Loaded:
    good, sources = _check_values(merged, problems)
    choices = _check_choices(merged, good, sources, problems)
    problems.raise_if_any()
    server = choices.pop("server")
    place = _plain("server", good) | {"variant": server.variant, "options": server.options}
    settings = Settings(
        server=ServerSettings(**place),
        tls=TlsSettings(**_plain("tls", good)),
        auth=_auth_settings(good),
        **choices,
        limits=LimitSettings(**_plain("limits", good)),
        topics=_topic_settings(good),
        memory=MemorySettings(**_plain("memory", good)),
        logging=LogSettings(**_plain("logging", good)),
        receipt=receipt,
    )
    _check_together(settings, sources)
    return Loaded(settings, _complete(settings, sources), tuple(notes))


def _complete(settings: Settings, sources: dict[str, str]) -> dict[str, str]:
    """A source for every value; what a topic or an identity does not say itself it has from the general table."""
    general = {
        f"auth.identities.{quote(identity)}.limits.{name}": sources.get(f"auth.limits.{name}", DEFAULT)
        for identity in settings.auth.identities
        for name in fields(IdentityLimits)
    }
    general |= {
        f"topics.{quote(topic)}.{key}": source
        for topic in settings.topics.named
        for key, source in {
            "partitions": sources.get("topics.default_partitions", DEFAULT),
            **{
                f"retention.{name}": sources.get(f"topics.retention.{name}", DEFAULT)
                for name in fields(Retention)
            },
        }.items()
    }
    return {key: sources.get(key, general.get(key, DEFAULT)) for key in settings.flat()}


def _check_values(merged: Layer, problems: Problems) -> tuple[dict[Key, Any], dict[str, str]]:
    """The values in their types, and the sources by dotted key; what is wrong is left out."""
    good: dict[Key, Any] = {}
    for key, value in merged.items():
        field = find_field(key)
        if field is None:  # an option, or a declared topic: checked elsewhere
            good[key] = value.raw
            continue
        checked, complaint = check_value(key, field, value.raw, is_text=value.text)
        if complaint:
            problems.add(value.source, dotted(key), complaint, value.raw)
        else:
            good[key] = checked
    return good, {dotted(key): value.source for key, value in merged.items()}


def _check_choices(
    merged: Layer, good: dict[Key, Any], sources: dict[str, str], problems: Problems
) -> dict[str, Choice]:
    texts = {key for key, value in merged.items() if value.text}
    defaults = Settings()
    choices = {}
    for family in FAMILIES:
        key = (family, "variant")
        default = defaults.choice(family)
        variant = good.get(key, default.variant)
        options = dict(default.options) if variant == default.variant else {}
        options |= {key[2]: value for key, value in good.items() if key[0] == family and is_option(key)}
        chosen = Choice(variant, options)
        if key in merged and key not in good:
            choices[family] = chosen  # the name is no name: said already, and no options are known for it
        else:
            choices[family] = check_choice(family, chosen, sources, problems, texts)
    return choices


def _plain(section: str, good: dict[Key, Any]) -> dict[str, Any]:
    return {key[1]: value for key, value in good.items() if key[0] == section and len(key) == 2}


def _topic_settings(good: dict[Key, Any]) -> TopicSettings:
    general = _plain("topics", good)
    deep = {key[1:]: value for key, value in good.items() if key[0] == "topics" and len(key) > 2}
    retention = {key[1]: value for key, value in deep.items() if key[0] == "retention"}
    partitions = general.get("default_partitions", TopicSettings().default_partitions)
    named = {}
    for topic in dict.fromkeys(key[0] for key in deep if key[0] != "retention"):
        own = {key[2]: value for key, value in deep.items() if key[:2] == (topic, "retention")}
        count = deep.get((topic, "partitions"), partitions)
        named[topic] = TopicOverride(count, Retention(**retention | own))
    return TopicSettings(**general, retention=Retention(**retention), named=named)


def _auth_settings(good: dict[Key, Any]) -> AuthSettings:
    deep = {key[1:]: value for key, value in good.items() if key[0] == "auth" and len(key) > 2}
    limits = {key[1]: value for key, value in deep.items() if key[0] == "limits"}
    identities = {}
    for name in dict.fromkeys(key[1] for key in deep if key[0] == "identities"):
        own = {key[2:]: value for key, value in deep.items() if key[:2] == ("identities", name)}
        plain = {key[0]: value for key, value in own.items() if len(key) == 1 and key[0] != DECLARED}
        of_its_own = {key[1]: value for key, value in own.items() if len(key) == 2}
        identities[name] = IdentitySettings(**plain, limits=IdentityLimits(**limits | of_its_own))
    return AuthSettings(**_plain("auth", good), limits=IdentityLimits(**limits), identities=identities)


def _check_together(settings: Settings, sources: dict[str, str]) -> None:
    """Values that are good alone and not with each other.

    Raises:
        ConfigError: see `load`.
    """
    problems = Problems()
    frame = settings.limits.max_frame_bytes
    for key, value in (
        ("limits.max_raw_bytes", settings.limits.max_raw_bytes),
        ("memory.max_bytes", settings.memory.max_bytes),
    ):
        if value < frame:
            complaint = f"must be at least limits.max_frame_bytes, {frame}: else no such frame fits"
            problems.add(sources.get(key, DEFAULT), key, complaint, value)
    values = settings.flat()
    for key, complaint in contradictions(settings):
        problems.add(sources.get(key, DEFAULT), key, complaint, values[key])
    chosen = settings.server.variant
    if settings.tls.on and "tls" not in registry.get("server", chosen).capabilities:
        able = ", ".join(entry.name for entry in registry.entries("server") if "tls" in entry.capabilities)
        complaint = f"the server {chosen} has no TLS: choose one that has, {able}"
        problems.add(sources.get("server.variant", DEFAULT), "server.variant", complaint, chosen)
    problems.raise_if_any()
