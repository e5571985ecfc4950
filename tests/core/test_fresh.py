"""Which batches of a turn go out as they came, and which are read back from the storage."""

from __future__ import annotations

import pytest

from portask.core.delivery import go_as_they_came
from portask.messages import RecordBatch
from portask.wire import batches
from portask.wire.frames import Opcode
from tests.core.talking import Desk, batch_of


def several(count: int) -> RecordBatch:
    return batch_of(*(b"%d" % number for number in range(count)))


@pytest.mark.parametrize(
    ("counts", "bases", "expected"),
    [
        ([1], [7], True),
        ([5], [7], True),
        ([2, 3], [7, 9], True),
        ([2, 3, 4], [0, 2, 5], True),
        ([1, 1], [7, 8], False),  # the storage gathers them
        ([3, 1], [7, 10], False),
        ([2, 3], [7, 10], False),  # another broker's record lies between
        ([2, 3], [7, 8], False),
    ],
)
def test_neighbours_of_several_records_go_as_they_came(
    counts: list[int], bases: list[int], expected: bool
) -> None:
    arrived = list(zip(bases, map(several, counts), strict=True))
    assert go_as_they_came(arrived) is expected


@pytest.mark.parametrize("counts", [[2, 3, 4], [1, 1, 1], [3, 1, 2], [5]])
def test_every_record_of_a_turn_arrives_once_and_in_order(counts: list[int]) -> None:
    desk = Desk()
    publisher, subscriber = desk.client(), desk.client()
    publisher.open("a")
    subscriber.subscribe("a")
    desk.settle()
    for count in counts:
        publisher.publish(several(count))
    desk.settle()
    found = [batch for frame in subscriber.take(Opcode.DELIVER) for batch in batches.split(frame.body)]
    assert sum(batch.count for batch in found) == sum(counts)
    offset = 0
    for batch in found:
        assert batch.base_offset == offset
        offset += batch.count
    assert publisher.acked() == [sum(counts[:at]) for at in range(len(counts))]


def test_neighbours_share_a_frame_as_far_as_credit_allows() -> None:
    desk = Desk()
    publisher, subscriber = desk.client(), desk.client()
    publisher.open("a")
    subscriber.subscribe("a", messages=3)
    desk.settle()
    for count in (2, 2, 2):
        publisher.publish(several(count))
    desk.settle()
    (frame,) = subscriber.take(Opcode.DELIVER)
    assert [batch.count for batch in batches.split(frame.body)] == [2, 2]
