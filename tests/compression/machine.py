"""A make-believe machine for `Adaptive`: its clock moves only when it compresses, by the price list of its levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portask.messages import Buffer
from portask_variants.compression.adaptive import Adaptive

Price = tuple[float, float]
"""ns per raw byte, and packed share of the raw size."""

JSON: dict[int, Price] = {
    -5: (1.2, 0.27), -1: (1.4, 0.16), 1: (1.6, 0.13), 3: (2.2, 0.122), 6: (9.0, 0.112), 9: (16.0, 0.109),
}  # fmt: skip
NOISE: dict[int, Price] = {level: (cost / 2, 1.001) for level, (cost, _) in JSON.items()}


class Machine:
    def __init__(self, data: dict[int, Price], jitter: Callable[[], float] = lambda: 1.0) -> None:
        self.data = data
        self.now = 0
        self.calls: list[int] = []
        self._jitter = jitter

    def clock(self) -> int:
        return self.now

    def compressor(self, level: int) -> Callable[[Buffer], bytes]:
        def compress(raw: Buffer) -> bytes:
            cost, share = self.data[level]
            self.calls.append(level)
            self.now += round(cost * len(raw) * self._jitter())
            return bytes(round(len(raw) * share))

        return compress

    def adaptive(self, **options: float) -> Adaptive:
        return Adaptive(clock=self.clock, compressor=self.compressor, **options)  # type: ignore[arg-type]


def run(adaptive: Adaptive, loads: Iterable[float], raw: bytes = bytes(30_000)) -> list[int]:
    """The level after each batch."""
    levels = []
    for load in loads:
        adaptive.pack(raw, load)
        levels.append(adaptive.level)
    return levels
