"""The rules by which an open-loop run counts."""

from __future__ import annotations

import pytest

from portask.measuring.openloop import LATE_NS, judge


@pytest.mark.parametrize(
    ("due", "arrived", "sends", "late", "reason"),
    [
        (1000, 1000, 1000, 0, ""),
        (1000, 990, 1000, 0, ""),
        (1000, 989, 1000, 0, "98.9% of the intended rate"),
        (1000, 1000, 1000, 10, ""),
        (1000, 1000, 1000, 11, "1.1% of its sends began over 1 ms after their time, the worst 2.0 ms"),
        (0, 0, 0, 0, "too short"),
    ],
)
def test_when_a_run_is_void(due: int, arrived: int, sends: int, late: int, reason: str) -> None:
    found = judge(due, arrived, sends, late=late, worst=2_000_000, limit=LATE_NS)
    assert (reason in found) if reason else not found
