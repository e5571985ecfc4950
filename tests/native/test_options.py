"""What the config file may say of the compiled rings, pools and workers."""

from __future__ import annotations

from typing import Any

import pytest

from portask import registry
from portask.config.loading import load
from portask.config.options import options
from portask.errors import ConfigError


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("ring", "native-spsc", {"capacity": (int, 1 << 20)}),
        ("ring", "native-mpmc", {"capacity": (int, 1 << 20)}),
        ("ring", "native-shm", {"capacity": (int, 1 << 20)}),
        (
            "pool",
            "native-slab",
            {"max_held": (int, 64 << 20), "arena": (int, 1 << 20), "checked": (bool, False)},
        ),
        ("workers", "native-threads", {"limit": (int, 64), "threads": (int, 0)}),
    ],
)
def test_options_have_types_and_defaults(family: str, name: str, expected: dict[str, Any]) -> None:
    found, open_ended = options(registry.get(family, name))
    assert {option.name: (option.hint, option.default) for option in found.values()} == expected
    assert not open_ended


def test_text_from_the_environment_becomes_the_options_type() -> None:
    environment = {"PORTASK_POOL_VARIANT": "native-slab", "PORTASK_POOL_OPTIONS_ARENA": "4096"}
    assert load(None, environment, {}).choice("pool").options == {"arena": 4096}
    with pytest.raises(ConfigError, match="arena"):
        load(None, environment | {"PORTASK_POOL_OPTIONS_ARENA": "large"}, {})
