"""What a connection costs that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portask.core.nothing import NOTHING
from tests.core.talking import Desk, batch_of

CHANGES: list[Callable[[dict[Any, Any]], Any]] = [
    lambda nothing: nothing.__setitem__("a", 1),
    lambda nothing: nothing.setdefault("a", 1),
    lambda nothing: nothing.update(a=1),
    lambda nothing: nothing.__ior__({"a": 1}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_all_share_cannot_be_filled(change: Callable[[dict[Any, Any]], Any]) -> None:
    with pytest.raises(TypeError, match="shared by all"):
        change(NOTHING)
    assert NOTHING == {}
    NOTHING.clear()
    assert NOTHING.pop("a", None) is None


def test_an_idle_session_has_no_containers_of_its_own_and_a_busy_one_has_them() -> None:
    desk = Desk()
    idle, busy = desk.client(), desk.client()
    busy.open("a")
    busy.publish(batch_of(b"x"))
    busy.subscribe("a")
    desk.turn()
    for name in ("channels", "acking", "subscriptions", "cursors"):
        assert getattr(idle.session, name) is NOTHING
        assert getattr(busy.session, name) is not NOTHING
    assert idle.session.inbox is None
