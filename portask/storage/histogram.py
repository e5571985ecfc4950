"""A histogram whose buckets are all there from the start: recording allocates nothing and costs about 0.15 µs."""

from __future__ import annotations

from array import array

_BITS = 3  # 8 buckets for every doubling: a value is known to within 12.5%
_SUB = 1 << _BITS
_DOUBLINGS = 44  # up to 2^44 ns, about five hours; what is above goes to the last bucket


class Histogram:
    """Counts of non-negative integers, in log-linear buckets: exact below 8, then 8 for every doubling.

    One thread records; others may read, and see counts that are a moment old.

    Attributes:
        counts: One a bucket.
        total: Sum of what was recorded.
        largest: Of what was recorded.
    """

    __slots__ = ("counts", "largest", "total")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * _SUB * _DOUBLINGS))
        self.total = 0
        self.largest = 0

    def record(self, value: int) -> None:
        """Counts ``value``."""
        self.total += value
        if value > self.largest:  # noqa: PLR1730 - max() costs as much as all the rest
            self.largest = value
        shift = value.bit_length() - _BITS - 1
        if shift <= 0:
            self.counts[value] += 1
        elif shift < _DOUBLINGS - 1:
            self.counts[(shift << _BITS) + (value >> shift)] += 1
        else:
            self.counts[-1] += 1

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return sum(self.counts)

    def percentile(self, share: float) -> int:
        """What ``share`` (0 to 1) of the values do not exceed, at most 12.5% too high; 0 for none."""
        left = share * self.count
        for at, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return self.largest if at == len(self.counts) - 1 else min(_upper(at), self.largest)
        return self.largest

    def merge(self, other: Histogram) -> None:
        """Adds what the other one counted."""
        self.counts = array("Q", map(int.__add__, self.counts, other.counts))
        self.total += other.total
        self.largest = max(self.largest, other.largest)


def _upper(bucket: int) -> int:
    """The largest value that falls into a bucket."""
    shift = (bucket >> _BITS) - 1
    if shift <= 0:
        return bucket
    return ((bucket - (shift << _BITS) + 1) << shift) - 1
