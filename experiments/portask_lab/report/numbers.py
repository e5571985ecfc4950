"""How figures become text: one scale for things that are compared, digits that the interval supports.

A number with its interval reads ``1.24 [1.21, 1.28] M msg/s``. Everything in one comparison shares the scale and
the digits, so that columns align and the eye compares lengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIME = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_COUNTS = {"connections", "messages"}
"""Things that come in whole numbers."""
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SIGNIFICANT = 3
_SMALL = 1e-3
_LONG = 10_000
_NOTHING = 1_000
"""From this ratio of its ends on, an interval is not worth its digits: two processes that have nothing in common."""


class Scale(msgspec.Struct, frozen=True):
    """A divisor, the unit it leads to, and how many decimals make sense there."""

    divisor: float
    unit: str
    decimals: int

    def text(self, value: float | None) -> str:
        """The number alone, an en dash for none."""
        if value is None or not math.isfinite(value):
            return "–"
        scaled = value / self.divisor
        if scaled and abs(scaled) < 10**-self.decimals / 2:
            return f"{scaled:.1e}"
        return f"{scaled:,.{self.decimals}f}"

    def interval(self, low: float | None, high: float | None) -> str:
        """``[low, high]``, empty when there is none; one that says nothing says just that."""
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return ""
        if low > 0 and high > low * _NOTHING:
            return f"[over {_NOTHING:,}× wide]"
        return f"[{self.text(low)}, {self.text(high)}]"

    def full(self, value: float | None, low: float | None = None, high: float | None = None) -> str:
        """Value, interval and unit on one line."""
        if value is None:
            return "–"
        return " ".join(part for part in (self.text(value), self.interval(low, high), self.unit) if part)


def scale_for(values: Iterable[float | None], unit: str) -> Scale:
    """The scale for values that are compared: by the largest; decimals so that the smallest keeps three digits."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value]
    largest, smallest = max(sizes, default=1.0), min(sizes, default=1.0)
    divisor, name = _prefix(largest, unit)
    if unit in _COUNTS:
        return Scale(divisor, name, 0)
    # a smallest value thousands of times below the largest must not drag a tail of decimals through the table
    smallest = max(smallest, largest * _SMALL)
    digits = _SIGNIFICANT - 1 - math.floor(math.log10(smallest / divisor))
    return Scale(divisor, name, min(max(digits, 0), 3))


def _prefix(largest: float, unit: str) -> tuple[float, str]:
    if unit in _TIME:
        names = list(_TIME)
        position, divisor = names.index(unit), 1.0
        while largest / divisor >= _LONG and position + 1 < len(names):
            position, divisor = position + 1, divisor * 1e3
        return divisor, names[position]
    if unit in {"B", "bytes"}:
        return next(((size, name) for size, name in _BYTES if largest >= size), (1.0, "B"))
    if unit.endswith("/s") and unit[:-2] not in {"kB", "MB", "GB", "k", "M"}:
        for size, prefix in _SI:
            if largest >= size:
                return size, ("B/s" if unit == "B/s" else unit).join(
                    (f"{prefix} " if unit != "B/s" else prefix, "")
                )
    return 1.0, unit


def plain(value: float | None, decimals: int = 0) -> str:
    """A number with thousands separators, an en dash for none."""
    return "–" if value is None else f"{value:,.{decimals}f}"


def ratio(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """``1.34× [1.31, 1.37]``: two decimals below ten, three significant digits above."""
    if value is None:
        return "–"
    decimals = 3 if value < _TENTH else 2 if value < _TEN else 1 if value < _HUNDRED else 0
    text = f"{value:,.{decimals}f}×"
    if low is None or high is None:
        return text
    return f"{text} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


_TENTH, _TEN, _HUNDRED = 0.1, 10, 100


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction as a percentage."""
    return "–" if fraction is None else f"{100 * fraction:.{decimals}f}%"


def seconds(value: float) -> str:
    """A duration as people say it: ``3 min 12 s``."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """Bytes with a decimal prefix: ``5.90 MB``."""
    return scale_for([count], "B").full(count)


def binary_size(count: float) -> str:
    """Bytes of RAM with a binary prefix: ``23.5 GiB``."""
    for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {name}"
    return f"{count:.0f} B"
