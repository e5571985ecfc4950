"""Topic names and filters.

A topic name is tokens joined by dots: ``orders.eu.created``. A token is 1 or more of ``A-Z a-z 0-9 _ -``. A
filter may have ``*`` in place of any one token, and ``>`` as its last token for one or more of the rest (the
notation of NATS subjects):

    orders.*        orders.eu             not orders, not orders.eu.created
    orders.>        orders.eu, orders.eu.created, not orders
    >               everything
"""

from __future__ import annotations

import re
from collections.abc import Callable

from portask.errors import InvalidTopic

MAX_LENGTH = 255
_TOKEN = r"[A-Za-z0-9_-]+"  # noqa: S105 - a part of a name, no secret
_NAME = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_FILTER = re.compile(rf"(?:(?:{_TOKEN}|\*)\.)*(?:{_TOKEN}|\*|>)")


def check_name(topic: str) -> str:
    """``topic`` if it is a topic name.

    Raises:
        InvalidTopic: it is not; the text says why.
    """
    if len(topic) > MAX_LENGTH:
        raise InvalidTopic(f"a topic name of {len(topic)} characters: {MAX_LENGTH} is the most")
    if not _NAME.fullmatch(topic):
        raise InvalidTopic(f"{topic!r} is not a topic name: use tokens of A-Z a-z 0-9 _ - joined by dots")
    return topic


def check_filter(text: str) -> str:
    """``text`` if it is a topic name or a filter.

    Raises:
        InvalidTopic: it is neither.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidTopic(f"a filter of {len(text)} characters: {MAX_LENGTH} is the most")
    if not _FILTER.fullmatch(text):
        raise InvalidTopic(
            f"{text!r} is not a filter: use topic tokens, * for one token, > as the last for the rest"
        )
    return text


def is_literal(text: str) -> bool:
    """Whether a checked filter names exactly one topic."""
    return "*" not in text and ">" not in text


def covers(allowed: str, asked: str) -> bool:
    """Whether every topic that the checked filter ``asked`` matches is one that ``allowed`` matches.

    Exact: tokens come from an endless supply, so no list of names can take the place of ``*``. Costs a µs or two.
    """
    given, wanted = allowed.split("."), asked.split(".")
    for at, part in enumerate(given):
        if at == len(wanted):
            return False
        if part == ">":
            return True
        if wanted[at] == ">" or part not in {"*", wanted[at]}:
            return False
    return len(given) == len(wanted)


def matcher(text: str) -> Callable[[str], object]:
    """A function that is true for the topics that the checked filter ``text`` matches."""
    if is_literal(text):
        return text.__eq__
    pattern = re.escape(text).replace(r"\*", _TOKEN).replace(">", r".+")
    return re.compile(pattern).fullmatch
