"""What a group has taken from a partition and not finished: ranges of offsets, sorted, without overlap.

One list says it all. Below `Share.next` every offset is either in one of the ranges here (delivered to a member, or
waiting to be delivered again) or acknowledged. So there is no second set of acknowledged offsets that could contradict
the first, and the committed offset is where the list begins.

Ranges are as long as deliveries were: an acknowledgement of a whole delivery costs one bisection and one deletion,
however many records it was. Only records that are acknowledged one by one split ranges, and only as far as they leave
holes: acknowledged from the front, a range just shrinks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portask.core.groups import Seat

NEVER = 1 << 62
"""A due time that does not come: of what is to become a dead letter."""
BURYING = NEVER + 1
"""Likewise: of what is written as a dead letter, and not stored yet."""
OVER = -1
"""The due time of a range that is finished."""

_last = attrgetter("last")


class Range:
    """Neighbouring records with one fate.

    In flight while it has a `seat`; without one it waits until `due`.

    Attributes:
        first: Offset.
        last: Offset, included.
        deliveries: How often it was delivered.
        seat: The member that has it.
        due: µs: until when the member may acknowledge it, or from when on it may be delivered again (0 for at
            once); `NEVER` and `BURYING` on its way to become a dead letter; `OVER` once it is finished.
        timer: The due time that a timer was last set for.
        reason: Why the last delivery failed.
    """

    __slots__ = ("deliveries", "due", "first", "last", "reason", "seat", "timer")

    def __init__(
        self, first: int, last: int, deliveries: int, seat: Seat | None = None, due: int = 0
    ) -> None:
        self.first = first
        self.last = last
        self.deliveries = deliveries
        self.seat = seat
        self.due = due
        self.timer = OVER
        self.reason = ""

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __repr__(self) -> str:
        return f"Range({self.first}-{self.last} ×{self.deliveries} {'held' if self.seat else 'free'} due {self.due})"


class Outstanding:
    """The ranges, in order of offset.

    Attributes:
        records: How many they are together.
    """

    __slots__ = ("_ranges", "records")

    def __init__(self) -> None:
        self._ranges: list[Range] = []
        self.records = 0

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    @property
    def first(self) -> int | None:
        """The lowest offset."""
        return self._ranges[0].first if self._ranges else None

    def append(self, added: Range) -> None:
        """Adds a range behind all others."""
        self._ranges.append(added)
        self.records += added.last - added.first + 1

    def insert(self, added: Range) -> bool:
        """Adds a range in its place; false, and nothing done, if one of its records is here already."""
        at = bisect_left(self._ranges, added.first, key=_last)
        if at < len(self._ranges) and self._ranges[at].first <= added.last:
            return False
        self._ranges.insert(at, added)
        self.records += len(added)
        return True

    def clear(self) -> list[Range]:
        """Takes everything out, and returns it."""
        gone, self._ranges = self._ranges, []
        self.records = 0
        for each in gone:
            each.due = OVER
        return gone

    def remove(self, first: int, last: int) -> tuple[list[tuple[Range, int]], Range | None]:
        """Takes the offsets ``first`` to ``last`` out, as far as they are here.

        Returns:
            The ranges that lost records, each with how many; and the second half of a range that lost its middle.
        """
        ranges = self._ranges
        start = at = bisect_left(ranges, first, key=_last)
        touched: list[tuple[Range, int]] = []
        born: Range | None = None
        while at < len(ranges) and ranges[at].first <= last:
            found = ranges[at]
            low, high = max(found.first, first), min(found.last, last)
            touched.append((found, high - low + 1))
            self.records -= high - low + 1
            if low > found.first:
                if high < found.last:
                    born = self._twin(found, high + 1)
                    ranges.insert(at + 1, born)
                found.last = low - 1
                start = at + 1
            elif high < found.last:
                found.first = high + 1
                break
            else:
                found.due = OVER
            at += 1
        del ranges[start:at]
        return touched, born

    def split(self, offset: int) -> Range | None:
        """Makes ``offset`` begin a range, if it lies inside one; returns the new one, which is the second half."""
        ranges = self._ranges
        at = bisect_left(ranges, offset, key=_last)
        if at == len(ranges) or ranges[at].first >= offset:
            return None
        found = ranges[at]
        born = self._twin(found, offset)
        found.last = offset - 1
        ranges.insert(at + 1, born)
        return born

    def within(self, first: int, last: int) -> list[Range]:
        """The ranges that lie wholly between ``first`` and ``last``."""
        ranges = self._ranges
        at = bisect_left(ranges, first, key=_last)
        found = []
        while at < len(ranges) and ranges[at].last <= last:
            if ranges[at].first >= first:
                found.append(ranges[at])
            at += 1
        return found

    def merge(self) -> None:
        """Joins neighbours that wait, are due at once and were delivered equally often."""
        kept: list[Range] = []
        for each in self._ranges:
            before = kept[-1] if kept else None
            if (
                before is not None
                and before.seat is None is each.seat
                and before.due == each.due == 0
                and before.last + 1 == each.first
                and before.deliveries == each.deliveries
            ):
                before.last = each.last
                each.due = OVER
            else:
                kept.append(each)
        self._ranges = kept

    @staticmethod
    def _twin(found: Range, first: int) -> Range:
        twin = Range(first, found.last, found.deliveries, found.seat, found.due)
        twin.reason = found.reason
        return twin
