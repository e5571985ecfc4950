"""Which compression level is worth its CPU now: the model behind `Adaptive`.

Theory
------
**What is compared.** Compressing one raw byte at level L costs the packer ``cost(L)`` ns of CPU and every
reader ``unpack`` ns, and saves the share ``saved(L)`` of a byte that would otherwise cross links and lie in
logs. With ``worth`` ns for one byte that does not have to move and ``price`` for one ns of this CPU, the
level's net value per raw byte is

    value(L) = worth · saved(L) - price(load) · cost(L) - unpack          value(skip) = 0

and the best level is the one of the highest value. At 1 Gbit/s a byte takes 8 ns to cross; it crosses once to
the broker and at least once to a consumer, and is written once: ``worth`` is 20 by default. Set it to what
your path costs: ten times as much at 100 Mbit/s or with ten consumers, next to nothing over loopback.

**What a ns of CPU costs.** In a queue served by one CPU (M/M/1) that is busy for the share u of its time,
u/(1-u) pieces of work wait or are in service on average, and one more ns of work delays each by one ns. So

    price(u) = idle_price + u/(1-u)

where ``idle_price`` stands for what CPU costs when nobody waits: power, and this batch's own delay. At 50%
load a ns costs 1.05, at 90% 9.05, at 95% 19.05: the levels are left one after the other as the load rises,
and how early depends on the data.

**What is measured.** Each call measures time and size at the level it used. Small batches shrink less and
cost more per byte, so each size class (a factor of four) has a tuner of its own. Gain is kept as a logarithm,
``gain = ln(raw / packed)``, ``saved = 1 - exp(-gain)``: between levels gains stay roughly proportional when
the data change, and all vanish together for data that do not shrink; sizes do neither. A tuner splits what it
sees: *common* estimates of gain and cost follow every call at the present level and carry what moves all
levels together (the data changed, the machine got slower); a *relative* one per level says how it compares
with the others. A change in the data is thus known for all levels after a few calls at one of them. Relatives
begin with a rule of thumb (`_guess`) and are corrected by

- exploration: one call in `EXPLORE_EVERY` goes to a neighbour of the present level, above and below in turn,
  so what exploring costs is bounded by that share of a neighbour's cost;
- arrival: the first calls on a new level are comparisons with the one just left.

Preemption only ever adds time. So a cost that falls is believed soon, one that rises only by and by, and no
single sample counts for more than twice the estimate.

**Why it does not flap.** A change of level brings a benefit (bytes) and has a cost (CPU), or the reverse;
what it wins must exceed the share `hysteresis` of both together. At 0.15 the one must outweigh the other by a
third, which is more than the estimates err. Decisions are taken every `DECIDE_EVERY` calls, and the load is
smoothed.

**Skipping.** When no level has a positive value the tuner skips. If that is for the load, the model itself
says when to come back, as the price falls. If it is for the data, nothing would ever tell: so one call is
spent as a probe, first after `DECIDE_EVERY` calls, then after twice as many each time that it finds nothing,
up to `PROBE_AT_MOST` calls. A probe's measurement counts half, because the estimate that it corrects is old.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DECIDE_EVERY = 8
EXPLORE_EVERY = 64
PROBE_AT_MOST = 512
MAX_LOAD = 0.99

_ARRIVALS = 2
_FOLLOW = 0.2
_STALE = 0.5
_RISE, _FALL = 0.0625, 0.5
_NOTHING = 0.05  # a gain below this says nothing about how levels compare


def _guess(level: int) -> tuple[float, float]:
    """Gain and cost of a level relative to level 1: a curve through typical messages, a start and no more."""
    if level > 0:
        return 1.01 ** (level - 1), 1.25 ** (level - 1)
    return 0.93 ** (1 - level), 0.9 ** (1 - level)


class Tuner:
    """Chooses the level for the batches of one size class. Rungs are indices into its levels; -1 is skip.

    Attributes:
        rung: The present choice.
        next: The rung for the coming call: ``rung``, or a neighbour or a probe that is due.
        switches: Changes of ``rung``.
        explorations: Calls sent to a neighbour.
        probes: Calls made while skipping.
    """

    def __init__(
        self, levels: Sequence[int], worth: float, idle_price: float, unpack: float, hysteresis: float
    ) -> None:
        guesses = [_guess(level) for level in levels]
        self._gain = [gain for gain, _ in guesses]
        self._cost = [cost for _, cost in guesses]
        self._worth, self._idle_price, self._unpack, self._hysteresis = worth, idle_price, unpack, hysteresis
        self._common_gain = self._common_cost = 0.0  # no cost: nothing measured yet
        self.rung = self.next = min(range(len(levels)), key=lambda rung: abs(levels[rung] - 1))
        self._until_decision = DECIDE_EVERY
        self._until_explore = EXPLORE_EVERY // DECIDE_EVERY
        self._until_probe = self._pause = 1  # decisions
        self._arriving = 0
        self._below = False
        self.switches = self.explorations = self.probes = 0

    def turn(self, load: float) -> None:
        """Counts a call; when a decision is due, takes it and sets `next` for this call."""
        self.next = self.rung
        self._until_decision -= 1
        if self._until_decision:
            return
        self._until_decision = DECIDE_EVERY
        if self._common_cost:
            best = self._decide(self.price(load))
            if self.rung < 0:
                self._maybe_probe(best)
            else:
                self._maybe_explore()

    def price(self, load: float) -> float:
        """What a ns of CPU costs at this load, in ns."""
        load = min(max(load, 0.0), MAX_LOAD)
        return self._idle_price + load / (1.0 - load)

    def _weigh(self, rung: int, price: float) -> tuple[float, float]:
        """Benefit and cost of a rung, ns per raw byte; both 0 for skip."""
        if rung < 0:
            return 0.0, 0.0
        saved = 1.0 - math.exp(-self._common_gain * self._gain[rung])
        return self._worth * saved, price * self._common_cost * self._cost[rung] + self._unpack

    def _decide(self, price: float) -> int:
        """Moves to the best rung if that wins enough; returns the best one that is not skip."""
        worth, gain, price_of_cost = self._worth, self._common_gain, price * self._common_cost
        best, highest = 0, -math.inf
        for rung, relative in enumerate(self._gain):
            value = worth - worth * math.exp(-gain * relative) - price_of_cost * self._cost[rung]
            if value > highest:
                best, highest = rung, value
        target = best if highest > self._unpack else -1
        if target != self.rung:
            old_benefit, old_cost = self._weigh(self.rung, price)
            benefit, cost = self._weigh(target, price)
            brought, taken = benefit - old_benefit, cost - old_cost
            if brought - taken > self._hysteresis * (abs(brought) + abs(taken)):
                # comparisons need a level to compare with: not after a pause, whose estimates are old
                self._arriving = _ARRIVALS if self.rung >= 0 else 0
                self.rung = self.next = target
                self.switches += 1
                self._until_probe = self._pause = 1
        return best

    def _maybe_probe(self, best: int) -> None:
        self._until_probe -= 1
        if self._until_probe <= 0:
            self._pause = min(2 * self._pause, PROBE_AT_MOST // DECIDE_EVERY)
            self._until_probe = self._pause
            self.next = best
            self.probes += 1

    def _maybe_explore(self) -> None:
        self._until_explore -= 1
        last = len(self._gain) - 1
        if self._until_explore > 0 or self._arriving or not last:
            return
        self._until_explore = EXPLORE_EVERY // DECIDE_EVERY
        self._below = not self._below
        down = self.rung == last or (self._below and self.rung > 0)
        self.next = self.rung - 1 if down else self.rung + 1
        self.explorations += 1

    def learn(self, raw: int, packed: int, spent: int) -> None:
        """What the call at `next` measured: bytes in, bytes out, ns."""
        rung = self.next
        gain, cost = max(0.0, math.log(raw / packed)), max(spent / raw, 1e-3)
        if not self._common_cost:
            self._common_gain, self._common_cost = gain / self._gain[rung], cost / self._cost[rung]
            return
        expected = self._common_cost * self._cost[rung]
        cost = min(cost, 2 * expected)
        if self.rung < 0 or (rung == self.rung and not self._arriving):
            found = gain / self._gain[rung] - self._common_gain
            if self.rung < 0 and found > _NOTHING:
                self._until_probe = self._pause = 1  # look again soon
            self._common_gain += (_FOLLOW if self.rung >= 0 else _STALE) * found
            pace = _FALL if cost < expected else _RISE
            self._common_cost += pace * (cost / self._cost[rung] - self._common_cost)
            return
        if rung == self.rung:
            self._arriving -= 1
        if self._common_gain > _NOTHING:
            self._gain[rung] += _STALE * (max(gain / self._common_gain, _NOTHING) - self._gain[rung])
        self._cost[rung] += _STALE * (cost / self._common_cost - self._cost[rung])
