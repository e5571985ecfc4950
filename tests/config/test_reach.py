"""What the file says reaches the broker: no setting is read, checked and then forgotten."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from portask.config.settings import LimitSettings, Settings, TopicSettings
from portask.server.build import options

UNUSUAL: list[tuple[type[msgspec.Struct], str, Any]] = [
    (LimitSettings, "max_frame_bytes", 70_001),
    (LimitSettings, "max_raw_bytes", 70_002),
    (LimitSettings, "hello_timeout_s", 7.5),
    (LimitSettings, "idle_timeout_s", 77.5),
    (LimitSettings, "max_connections", 73),
    (LimitSettings, "max_unacked_bytes", 70_004),
    (LimitSettings, "max_channels", 75),
    (LimitSettings, "max_assignments", 76),
    (LimitSettings, "max_partitions", 77),
    (LimitSettings, "max_group_partitions", 80),
    (LimitSettings, "max_published_per_s", 78),
    (LimitSettings, "max_published_bytes_per_s", 79),
    (TopicSettings, "auto_create", False),
    (TopicSettings, "default_partitions", 3),
    (TopicSettings, "max_partitions", 4),
]


def test_the_list_is_whole() -> None:
    listed = {(where, name) for where, name, _ in UNUSUAL}
    fields = {(where, field) for where in (LimitSettings, TopicSettings) for field in where.__struct_fields__}
    assert fields - listed == {(TopicSettings, "retention"), (TopicSettings, "named")}


@pytest.mark.parametrize(
    ("where", "name", "value"), [pytest.param(*each, id=f"{each[0].__name__}-{each[1]}") for each in UNUSUAL]
)
def test_every_limit_makes_a_difference(where: type[msgspec.Struct], name: str, value: Any) -> None:
    table = where(**{name: value})
    usual, changed = (
        msgspec.structs.asdict(options(settings))
        for settings in (
            Settings(),
            Settings(limits=table)
            if isinstance(table, LimitSettings)
            else Settings(topics=cast("TopicSettings", table)),
        )
    )
    different = {key for key in changed if changed[key] != usual[key]}
    assert len(different) == 1, f"{name} changes {different or 'nothing'}"
