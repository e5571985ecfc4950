"""What a running broker takes over when its settings are read again, and what has to wait for a restart.

Limits, retention and the log level are numbers that the broker looks at each time it needs them; identities and
what they may do are looked at again for every connection; certificates serve the next handshake. Variants,
their options and the address are built into it; the frame limit and the idle timeout are agreed with each
client when it connects; a topic's partitions are where its messages already lie.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from portask.config.schema import show
from portask.config.settings import Settings, TopicOverride, TopicSettings

_AGREED = ("max_frame_bytes", "idle_timeout_s")
"""Limits that stand in the broker's WELCOME."""


class Change(Struct, frozen=True):
    """One setting that differs. `UNSET` stands for "is not there"."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self._text(self.old)} → {self._text(self.new)}"

    def _text(self, value: Any) -> str:
        return "not set" if value is msgspec.UNSET else show(self.key, value)


def changes(old: Settings, new: Settings) -> tuple[list[Change], list[Change]]:
    """``(applied, needs_restart)``: what `live` takes over from ``new``, and what stays as it is in ``old``.

    The receipt is evidence, not a setting: it is not compared.
    """
    middle = live(old, new)
    return _differences(old, middle), _differences(middle, new)


def live(old: Settings, new: Settings) -> Settings:
    """``old`` with everything of ``new`` that can change in a running broker."""
    replace = msgspec.structs.replace
    named = {name: _override(name, old.topics, new.topics) for name in new.topics.named}
    return replace(
        old,
        tls=new.tls if old.tls.on and new.tls.on else old.tls,
        auth=new.auth,
        limits=replace(new.limits, **{name: getattr(old.limits, name) for name in _AGREED}),
        topics=replace(new.topics, named=named),
        logging=replace(old.logging, level=new.logging.level),
        receipt=new.receipt,
    )


def _override(name: str, old: TopicSettings, new: TopicSettings) -> TopicOverride:
    wanted = new.named[name]
    before = old.named.get(name)
    return wanted if before is None else TopicOverride(before.partitions, wanted.retention)


def _differences(old: Settings, new: Settings) -> list[Change]:
    before, after = old.flat(), new.flat()
    return [
        Change(key, before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, msgspec.UNSET) != after.get(key, msgspec.UNSET)
    ]
