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
cost more per byte, so each size class (a factor of four) has a tuner of its own. A tuner splits what it sees:
*common* estimates of size and cost follow every call at the present level and carry what moves all levels
together (the data changed, the machine got slower); a *relative* one per level says how it compares with the
others. A change in the data is thus known for all levels after a few calls at one of them. Relatives begin
with a rule of thumb (`_guess`) and are corrected by

- exploration: one call in `EXPLORE_EVERY` goes to a neighbour of the present level, above and below in turn,
  so what exploring costs is bounded by that share of a neighbour's cost;
- arrival: the first calls on a new level are comparisons with the one just left.

Preemption only ever adds time. So a cost that falls is believed at once, one that rises only by and by, and
no single sample counts for more than twice the estimate.

**Why it does not flap.** A change of level must win `hysteresis` of what is at stake (worth and price
together), decisions are taken every `DECIDE_EVERY` calls, and the load is smoothed.

**Skipping.** When no level has a positive value the tuner skips. If that is for the load, the model itself
says when to come back, as the price falls. If it is for the data, nothing would ever tell: so one call is
spent as a probe, first after `DECIDE_EVERY` calls, then after twice as many each time that it finds nothing,
up to `PROBE_AT_MOST` calls. A probe's measurement counts half, because the estimate that it corrects is old.
"""

from __future__ import annotations

from collections.abc import Sequence

DECIDE_EVERY = 8
EXPLORE_EVERY = 64
PROBE_AT_MOST = 512
MAX_LOAD = 0.99

_ARRIVALS = 2
_FOLLOW = 0.2
_STALE = 0.5
_FOUND = 0.95
_RISE, _FALL = 0.125, 0.5


def _guess(level: int) -> tuple[float, float]:
    """Size and cost of a level relative to level 1: a curve through typical messages, a start and no more."""
    size = 0.985 ** (level - 1) if level > 0 else 1.07 ** (1 - level)
    return size, 1.25 ** (level - 1)


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
        self._size = [size for size, _ in guesses]
        self._cost = [cost for _, cost in guesses]
        self._worth, self._idle_price, self._unpack, self._hysteresis = worth, idle_price, unpack, hysteresis
        self._common_size = self._common_cost = 0.0  # 0: nothing measured yet
        self.rung = self.next = min(range(len(levels)), key=lambda rung: abs(levels[rung] - 1))
        self._calls = DECIDE_EVERY
        self._arriving = 0
        self._below = False
        self._until_explore = EXPLORE_EVERY // DECIDE_EVERY
        self._until_probe = self._pause = 1
        self.switches = self.explorations = self.probes = 0

    def turn(self, load: float) -> None:
        """Counts a call; when a decision is due, takes it and sets `next` for this call."""
        self.next = self.rung
        self._calls -= 1
        if self._calls:
            return
        self._calls = DECIDE_EVERY
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

    def value(self, rung: int, price: float) -> float:
        """Net ns per raw byte; below 0 when skipping is better."""
        saved = 1.0 - self._common_size * self._size[rung]
        return self._worth * max(0.0, saved) - price * self._common_cost * self._cost[rung] - self._unpack

    def _stake(self, rung: int, price: float) -> float:
        return 0.0 if rung < 0 else self._worth + price * self._common_cost * self._cost[rung]

    def _decide(self, price: float) -> int:
        values = [self.value(rung, price) for rung in range(len(self._size))]
        best = max(range(len(values)), key=values.__getitem__)
        target, gain = (best, values[best]) if values[best] > 0 else (-1, 0.0)
        present = values[self.rung] if self.rung >= 0 else 0.0
        margin = self._hysteresis * max(self._stake(target, price), self._stake(self.rung, price))
        if target != self.rung and gain - present > margin:
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
        if self._until_explore > 0 or self._arriving:
            return
        self._until_explore = EXPLORE_EVERY // DECIDE_EVERY
        self._below = not self._below
        last = len(self._size) - 1
        if last:
            down = self.rung == last or (self._below and self.rung > 0)
            self.next = self.rung - 1 if down else self.rung + 1
            self.explorations += 1

    def learn(self, size: float, cost: float) -> None:
        """What the call at `next` measured: packed share of the raw size, and ns per raw byte."""
        rung = self.next
        size, cost = max(size, 1e-6), max(cost, 1e-6)
        if not self._common_cost:
            self._common_size, self._common_cost = size / self._size[rung], cost / self._cost[rung]
            return
        size_now, cost_now = self._common_size, self._common_cost
        expected = cost_now * self._cost[rung]
        cost = min(cost, 2 * expected)
        pace = _FALL if cost < expected else _RISE
        if rung == self.rung and not self._arriving:
            self._common_size += _FOLLOW * (size / self._size[rung] - size_now)
            self._common_cost += pace * (cost / self._cost[rung] - cost_now)
        elif self.rung < 0:
            if size < _FOUND * size_now * self._size[rung]:
                self._until_probe = self._pause = 1  # it found something: look again soon
            self._common_size += _STALE * (size / self._size[rung] - size_now)
            self._common_cost += pace * (cost / self._cost[rung] - cost_now)
        else:
            self._arriving = max(0, self._arriving - 1) if rung == self.rung else self._arriving
            self._size[rung] += _STALE * (size / size_now - self._size[rung])
            self._cost[rung] += _STALE * (cost / cost_now - self._cost[rung])
