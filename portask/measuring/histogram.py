"""A histogram whose buckets are all there from the start: recording allocates nothing and costs about 0.15 µs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

_DOUBLINGS = 44  # up to 2^44 ns, about five hours; what is above goes to the last bucket


class Histogram:
    """Counts of non-negative integers, in log-linear buckets: exact below 2^bits, then 2^bits for every doubling.

    One thread records; others may read, and see counts that are a moment old.

    Args:
        bits: A value is known to within 2^-bits of itself: 3 for 12.5%, 7 for 0.8% (45 kB).

    Attributes:
        counts: One a bucket.
        total: Sum of what was recorded.
        largest: Of what was recorded.
    """

    __slots__ = ("_bits", "counts", "largest", "total")

    def __init__(self, bits: int = 3) -> None:
        self._bits = bits
        self.counts = array("Q", bytes(8 * (_DOUBLINGS << bits)))
        self.total = 0
        self.largest = 0

    def record(self, value: int) -> None:
        """Counts ``value``."""
        self.total += value
        if value > self.largest:  # noqa: PLR1730 - max() costs as much as all the rest
            self.largest = value
        bits = self._bits
        shift = value.bit_length() - bits - 1
        if shift <= 0:
            self.counts[value] += 1
        elif shift < _DOUBLINGS - 1:
            self.counts[(shift << bits) + (value >> shift)] += 1
        else:
            self.counts[-1] += 1

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return sum(self.counts)

    def percentile(self, share: float) -> int:
        """What ``share`` (0 to 1) of the values do not exceed, at most 2^-bits too high; 0 for none."""
        left = share * self.count
        for at, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return self.largest if at == len(self.counts) - 1 else min(self._upper(at), self.largest)
        return self.largest

    def merge(self, other: Histogram) -> None:
        """Adds what the other one, of as many bits, counted."""
        self.add(other.filled(), other.total, other.largest)

    def filled(self) -> list[tuple[int, int]]:
        """``(bucket, count)`` where there is something: what a histogram is stored or sent as."""
        return [(at, count) for at, count in enumerate(self.counts) if count]

    def add(self, filled: Iterable[tuple[int, int]], total: int, largest: int) -> None:
        """Adds what another one, of as many bits, had `filled`, with its ``total`` and ``largest``."""
        for at, count in filled:
            self.counts[at] += count
        self.total += total
        self.largest = max(self.largest, largest)

    def _upper(self, bucket: int) -> int:
        """The largest value that falls into a bucket."""
        bits = self._bits
        shift = (bucket >> bits) - 1
        if shift <= 0:
            return bucket
        return ((bucket - (shift << bits) + 1) << shift) - 1
