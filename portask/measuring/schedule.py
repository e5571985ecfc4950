"""When to send: offsets from the start, ns, ascending."""

from __future__ import annotations

import random
from array import array


def constant(rate: float, seconds: float) -> array[int]:
    """One send every ``1 / rate`` seconds. Reaching ``seconds`` ends it."""
    gap = 1e9 / rate
    return array("q", (int(number * gap) for number in range(round(rate * seconds))))


def poisson(rate: float, seconds: float, seed: int) -> array[int]:
    """Independent arrivals, on average ``rate`` a second: what many unrelated senders look like together."""
    draw = random.Random(seed).expovariate
    end = seconds * 1e9
    times = array("q")
    now = draw(rate) * 1e9
    while now < end:
        times.append(int(now))
        now += draw(rate) * 1e9
    return times


def make(kind: str, rate: float, seconds: float, seed: int) -> array[int]:
    """The schedule of that name.

    Raises:
        ValueError: neither ``constant`` nor ``poisson``, or a rate that is not positive.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"a schedule needs a positive rate and duration, not {rate} for {seconds} s")
    if kind == "constant":
        return constant(rate, seconds)
    if kind == "poisson":
        return poisson(rate, seconds, seed)
    raise ValueError(f"there is no schedule {kind!r}; there are: constant, poisson")
