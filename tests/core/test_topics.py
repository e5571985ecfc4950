"""Topic names and filters, against a matcher that walks tokens instead of building a pattern."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portask.core.topics import MAX_LENGTH, check_filter, check_name, covers, is_literal, matcher
from portask.errors import InvalidTopic

# Few tokens, so that names and filters meet; some are prefixes of others, and one looks like a pattern.
TOKENS = st.sampled_from(["a", "ab", "A", "a-b", "_", "0"])
NAMES = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
FILTERS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(TOKENS | st.just("*"), max_size=4),
    st.lists(st.just(">"), max_size=1),
).filter(bool)


def matches(tokens: list[str], topic: list[str]) -> bool:
    """What a filter means, token by token."""
    if not tokens or not topic:
        return tokens == topic
    head, *rest = tokens
    return head == ">" or (head in {"*", topic[0]} and matches(rest, topic[1:]))


@given(FILTERS, NAMES)
@settings(max_examples=400)
@example("a.>", "a")
@example("a.*", "a.b.c")
@example(">", "a")
@example("*.>", "a")
def test_a_filter_matches_what_its_tokens_say(text: str, topic: str) -> None:
    found = matcher(check_filter(text))
    assert bool(found(check_name(topic))) == matches(text.split("."), topic.split("."))


def test_a_filter_covers_another_if_and_only_if_it_matches_all_of_its_topics() -> None:
    """Every pair of short filters, over every name of up to one token more.

    One of the tokens is in no filter: what a filter matches of these names decides what it matches of all.
    """
    names = [list(tokens) for length in range(1, 5) for tokens in product(("a", "ab", "new"), repeat=length)]
    filters = [
        [*tokens, *rest]
        for length in range(3)
        for tokens in product(("a", "ab", "*"), repeat=length)
        for rest in ([], ["a"], ["*"], [">"])
        if tokens or rest
    ]
    matched = {
        ".".join(tokens): {".".join(name) for name in names if matches(tokens, name)} for tokens in filters
    }
    for (allowed, more), (asked, fewer) in product(matched.items(), repeat=2):
        assert covers(allowed, asked) is (fewer <= more), (allowed, asked)


@given(FILTERS, NAMES)
def test_a_filter_covers_a_name_if_it_matches_it(text: str, topic: str) -> None:
    assert covers(text, topic) is bool(matcher(text)(topic))


@given(NAMES)
def test_a_name_is_a_filter_for_itself_alone(topic: str) -> None:
    assert is_literal(check_filter(topic))
    assert matcher(topic)(topic)
    assert not matcher(topic)(topic + ".a")
    assert not matcher(topic)(topic + "a")


@given(st.text(max_size=12) | st.text("ab.*>- \n", max_size=8))
@settings(max_examples=300)
def test_any_text_is_a_name_a_filter_or_refused(text: str) -> None:
    tokens = text.split(".")
    plain = [
        bool(token) and all(c.isascii() and (c.isalnum() or c in "_-") for c in token) for token in tokens
    ]
    is_name = all(plain)
    is_filter = all(
        known or token == "*" or (token == ">" and place == len(tokens))
        for place, (known, token) in enumerate(zip(plain, tokens, strict=True), 1)
    )
    for check, expected in ((check_name, is_name), (check_filter, is_filter)):
        if expected:
            assert check(text) == text
        else:
            with pytest.raises(InvalidTopic):
                check(text)


@pytest.mark.parametrize("check", [check_name, check_filter])
def test_long_names_are_refused_with_their_length(check: Callable[[str], str]) -> None:
    assert check("a" * MAX_LENGTH)
    with pytest.raises(InvalidTopic, match=f"{MAX_LENGTH + 1} characters"):
        check("a" * (MAX_LENGTH + 1))


@pytest.mark.parametrize(
    "text", ["orders.>.eu", "orders.**", "or*", ".orders", "orders.", "a..b", "", ">>", "a b"]
)
def test_malformed_filters_name_the_text(text: str) -> None:
    with pytest.raises(InvalidTopic) as raised:
        check_filter(text)
    assert repr(text) in str(raised.value)
