"""zstd whose level follows the load and the measured gain; `tuner` has the theory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask.wire.compression import ZSTD
from portask_variants.compression.tuner import Tuner
from portask_variants.compression.zstd import at_level

SKIP = 0
"""The level that stands for leaving batches as they are (zstd itself reads 0 as its default)."""
LEVELS = (-5, -1, 1, 3, 6, 9)

_FOLLOW_LOAD = 0.2
_SMALLEST_CLASS, _LARGEST_CLASS = 3, 11  # below 128 bytes … 2 MiB and more

Compress = Callable[[Buffer], bytes]


class Counters(NamedTuple):
    """What an `Adaptive` did since it was made.

    Attributes:
        batches: Calls of ``pack``.
        compressed: Calls whose result was returned.
        skipped: Calls that spent nothing.
        raw_bytes: Bytes that came in.
        out_bytes: Bytes that the caller was left with: compressed ones, or raw ones.
        cpu_ns: Time spent in the compressor.
        switches: Changes of level, all size classes together.
        explorations: Calls spent on a neighbouring level.
        probes: Calls spent to see whether skipping is still right.
    """

    batches: int
    compressed: int
    skipped: int
    raw_bytes: int
    out_bytes: int
    cpu_ns: int
    switches: int
    explorations: int
    probes: int


class Adaptive:
    """zstd at the level whose measured gain is worth its CPU at the present load; skips when none is.

    Costs about 1.8 µs a batch beside the compression itself, 0.5 µs when it skips. One instance serves one
    stream, from one thread at a time.

    Args:
        levels: zstd levels to choose from, rising; 0 is not among them (it means skip).
        ns_per_byte: What one byte less is worth further down the path, ns (see `tuner`).
        idle_price: What a ns of CPU costs when nothing waits, in ns.
        unpack_ns_per_byte: What a raw byte costs its readers to decompress, ns.
        hysteresis: Share of what a change of level moves (bytes' worth and CPU) that it must win.
        min_bytes: Smaller batches are left alone: a frame's own bytes eat the gain.
        clock: ns; for tests.
        compressor: Gives the function that compresses at a level; for tests.

    Attributes:
        level: The level of the last batch's size class; `SKIP` (0) while it skips.
        load: The smoothed load; -1 before the first batch.

    Raises:
        ConfigError: an option out of its range.
    """

    coalesce = 0

    def __init__(
        self,
        *,
        levels: Sequence[int] = LEVELS,
        ns_per_byte: float = 20.0,
        idle_price: float = 0.05,
        unpack_ns_per_byte: float = 1.0,
        hysteresis: float = 0.15,
        min_bytes: int = 64,
        clock: Callable[[], int] = time.perf_counter_ns,
        compressor: Callable[[int], Compress] = lambda level: at_level(level).compress,
    ) -> None:
        if not levels or SKIP in levels or list(levels) != sorted(set(levels)):
            raise ConfigError(f"levels {list(levels)}: give one or more rising zstd levels, without 0")
        if ns_per_byte <= 0 or idle_price <= 0 or unpack_ns_per_byte < 0 or not 0 <= hysteresis < 1:
            raise ConfigError(
                f"ns_per_byte {ns_per_byte} and idle_price {idle_price} must be above 0, "
                f"unpack_ns_per_byte {unpack_ns_per_byte} at least 0, hysteresis {hysteresis} in [0, 1)"
            )
        self.levels = tuple(levels)
        self.level = SKIP
        self.load = -1.0
        self._min_bytes = min_bytes
        self._clock = clock
        self._compress = [compressor(level) for level in levels]
        tuners = [
            Tuner(levels, ns_per_byte, idle_price, unpack_ns_per_byte, hysteresis)
            for _ in range(_LARGEST_CLASS + 1)
        ]
        self._tuners = tuners
        # by the bit length of the size: two lengths, a factor of four, share a tuner
        self._tuner_of = [tuners[min(max(bits // 2, _SMALLEST_CLASS), _LARGEST_CLASS)] for bits in range(65)]
        self._batches = self._compressed = self._skipped = self._raw = self._saved = self._spent = 0

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The batch as one zstd frame, or ``None`` when that is not worth its cost or was not smaller."""
        size = len(raw)
        self._batches += 1
        self._raw += size
        self.load = load = load if self.load < 0 else self.load + _FOLLOW_LOAD * (load - self.load)
        if size < self._min_bytes or not size:
            self._skipped += 1
            return None
        tuner = self._tuner_of[size.bit_length()]
        tuner.turn(load)
        self.level = self.levels[tuner.rung] if tuner.rung >= 0 else SKIP
        rung = tuner.next
        if rung < 0:
            self._skipped += 1
            return None
        begun = self._clock()
        data = self._compress[rung](raw)
        spent = self._clock() - begun
        self._spent += spent
        packed = len(data)
        tuner.learn(size, packed, spent)
        if packed >= size:
            return None
        self._compressed += 1
        self._saved += size - packed
        return Packed(ZSTD, 0, data)

    def counters(self) -> Counters:
        """What it did so far."""
        return Counters(
            batches=self._batches,
            compressed=self._compressed,
            skipped=self._skipped,
            raw_bytes=self._raw,
            out_bytes=self._raw - self._saved,
            cpu_ns=self._spent,
            switches=sum(tuner.switches for tuner in self._tuners),
            explorations=sum(tuner.explorations for tuner in self._tuners),
            probes=sum(tuner.probes for tuner in self._tuners),
        )
