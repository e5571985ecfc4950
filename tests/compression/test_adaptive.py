"""The adaptive strategy on load traces and changing data, by a clock that moves as told."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from portask.errors import ConfigError
from portask.wire.compression import ZSTD, decompress
from portask_variants.compression.adaptive import LEVELS, SKIP, Adaptive
from portask_variants.compression.tuner import DECIDE_EVERY, EXPLORE_EVERY, PROBE_AT_MOST, Tuner
from tests.compression.machine import JSON, NOISE, Machine, run

IDLE, RAMP, SATURATED = [0.0] * 600, [step / 1000 for step in range(1000)], [1.0] * 600
SLOW_LINK = 200.0
"""ns for a byte: 100 Mbit/s and some consumers. Worth much CPU."""


def distinct(levels: list[int]) -> list[int]:
    return [level for level, _ in itertools.groupby(levels)]


def jitter(seed: int) -> Callable[[], float]:
    """A busy machine: every call up to 30% slower, one in fifty preempted for fifty times its length."""
    chance = random.Random(seed)
    return lambda: 1 + 0.3 * chance.random() + (50 if chance.random() < 0.02 else 0)


def test_a_load_trace_walks_the_ladder_down_and_comes_back() -> None:
    adaptive = Machine(JSON).adaptive(ns_per_byte=SLOW_LINK)
    idle = run(adaptive, IDLE)
    ramp = run(adaptive, RAMP)
    saturated = run(adaptive, SATURATED)
    again = run(adaptive, IDLE)
    assert idle[-1] >= 6, "an idle core has time for a high level on a slow link"
    path = distinct(ramp)
    assert path == sorted(path, reverse=True), f"up and down while the load only rose: {path}"
    assert len(path) >= 3, f"jumped: {path}"
    assert set(saturated[-100:]) <= {SKIP, -5}
    assert again[-1] == idle[-1]
    assert adaptive.counters().switches <= 12


def test_a_fast_link_is_not_worth_a_saturated_core() -> None:
    adaptive = Machine(JSON).adaptive()
    assert 1 <= run(adaptive, IDLE)[-1] <= 3
    saturated = run(adaptive, SATURATED)
    assert set(saturated[100:]) == {SKIP}
    assert run(adaptive, IDLE)[-1] >= 1


def test_leaving_a_level_takes_few_batches() -> None:
    adaptive = Machine(JSON).adaptive()
    run(adaptive, IDLE)
    saturated = run(adaptive, SATURATED)
    assert saturated.index(SKIP) <= 8 * DECIDE_EVERY
    back = run(adaptive, IDLE)
    assert next(index for index, level in enumerate(back) if level) <= 8 * DECIDE_EVERY


def test_the_same_trace_gives_the_same_choices() -> None:
    traces = [run(Machine(JSON, jitter(3)).adaptive(), RAMP) for _ in range(2)]
    assert traces[0] == traces[1]


@pytest.mark.parametrize("worth", [20.0, SLOW_LINK])
@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.9, 0.95])
def test_a_steady_load_on_a_noisy_machine_does_not_flap(load: float, worth: float) -> None:
    chance = random.Random(load)
    adaptive = Machine(JSON, jitter(8)).adaptive(ns_per_byte=worth)
    run(adaptive, (load + chance.uniform(-0.05, 0.05) for _ in range(4000)))
    assert adaptive.counters().switches <= 12


def test_data_that_stops_shrinking_is_left_alone_and_found_again() -> None:
    machine = Machine(JSON)
    adaptive = machine.adaptive()
    assert run(adaptive, [0.1] * 400)[-1] >= 1
    machine.data = NOISE
    noise = run(adaptive, [0.1] * 5000)
    assert noise.index(SKIP) <= 8 * DECIDE_EVERY
    spent = len(machine.calls)
    assert set(noise[100:]) == {SKIP}, "probes that find nothing must not change the level"
    run(adaptive, [0.1] * (10 * PROBE_AT_MOST))
    assert len(machine.calls) - spent <= 11, "back-off: at most a probe in 512 batches"
    machine.data = JSON
    back = run(adaptive, [0.1] * (2 * PROBE_AT_MOST))
    assert next(index for index, level in enumerate(back) if level) <= PROBE_AT_MOST + 8 * DECIDE_EVERY
    assert back[-1] >= 1


def test_random_bytes_from_the_start_are_skipped_soon() -> None:
    machine = Machine(NOISE)
    adaptive = machine.adaptive()
    assert all(adaptive.pack(bytes(5000), 0.0) is None for _ in range(1000))
    assert len(machine.calls) < 40
    assert adaptive.counters().compressed == 0


def test_a_level_that_the_rule_of_thumb_misjudges_is_found() -> None:
    odd = dict(JSON)
    odd[3] = (1.3, 0.05)  # far better than level 1, and cheaper
    adaptive = Machine(odd).adaptive()
    assert run(adaptive, [0.3] * (20 * EXPLORE_EVERY))[-1] == 3


def test_exploring_is_a_bounded_share() -> None:
    adaptive = Machine(JSON).adaptive()
    run(adaptive, [0.3] * 6400)
    explored = adaptive.counters().explorations
    assert 6400 / EXPLORE_EVERY / 2 <= explored <= 6400 / EXPLORE_EVERY


def test_one_preempted_call_changes_nothing() -> None:
    machine = Machine(JSON)
    adaptive = machine.adaptive()
    before = run(adaptive, [0.5] * 400)[-1]
    slow = iter([1_000_000.0])
    machine._jitter = lambda: next(slow, 1.0)
    assert set(run(adaptive, [0.5] * 200)) == {before}


def test_sizes_are_judged_apart() -> None:
    machine = Machine(JSON)
    adaptive = machine.adaptive()
    for _ in range(500):
        machine.data = NOISE
        adaptive.pack(bytes(200), 0.1)
        small = adaptive.level
        machine.data = JSON
        adaptive.pack(bytes(50_000), 0.1)
        large = adaptive.level
    assert small == SKIP
    assert large >= 1


def test_counters_add_up() -> None:
    adaptive = Machine(JSON).adaptive()
    packed = [adaptive.pack(bytes(30_000), load) for load in [*IDLE, *RAMP, *SATURATED]]
    counters = adaptive.counters()
    assert counters.batches == len(packed)
    assert counters.raw_bytes == 30_000 * len(packed)
    assert counters.compressed == sum(result is not None for result in packed)
    assert counters.skipped + counters.compressed == counters.batches
    kept = sum(30_000 if result is None else len(result.data) for result in packed)
    assert counters.out_bytes == kept
    assert counters.cpu_ns > 0


def test_tiny_batches_are_not_tried() -> None:
    machine = Machine(JSON)
    adaptive = machine.adaptive(min_bytes=100)
    assert all(adaptive.pack(bytes(size), 0.0) is None for size in range(100))
    assert machine.calls == []
    assert adaptive.pack(bytes(100), 0.0) is not None


def test_the_price_of_cpu_rises_with_the_queue() -> None:
    tuner = Tuner(LEVELS, 20.0, 0.05, 1.0, 0.15)
    prices = [tuner.price(load) for load in (-1.0, 0.0, 0.5, 0.9, 0.99, 1.0, 7.0)]
    assert prices == sorted(prices)
    assert prices[:4] == pytest.approx([0.05, 0.05, 1.05, 9.05])
    assert prices[4] == prices[6], "a saturated CPU has a price, not an infinite one"


@pytest.mark.parametrize("levels", [(), (1, 0), (3, 1), (1, 1), (-1, 0, 1), (1, 99)])
def test_levels_that_make_no_ladder(levels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="level"):
        Adaptive(levels=levels)


@pytest.mark.parametrize(
    "options",
    [
        {"ns_per_byte": 0},
        {"idle_price": 0},
        {"unpack_ns_per_byte": -1},
        {"hysteresis": 1},
        {"hysteresis": -0.1},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Machine(JSON).adaptive(**options)


def test_one_level_is_a_ladder_too() -> None:
    adaptive = Adaptive(levels=(3,))
    for _ in range(300):
        adaptive.pack(b"again and again " * 50, 0.2)
    assert adaptive.counters().explorations == 0


def test_on_the_real_clock_everything_comes_back() -> None:
    chance = random.Random(2)
    adaptive = Adaptive()
    noise = [chance.randbytes(2000) for _ in range(5)]
    lines = [b"".join(b'{"n":%d,"s":"%x"}\n' % (i, i * j) for i in range(100)) for j in range(5)]
    for call in range(2000):
        raw = (noise if 700 < call < 1400 else lines)[call % 5]
        packed = adaptive.pack(raw, call % 100 / 100)
        if packed is not None:
            assert decompress(ZSTD, packed.data, len(raw)) == raw
    counters = adaptive.counters()
    assert counters.batches == 2000
    assert 0 < counters.compressed <= 2000
    assert counters.out_bytes < counters.raw_bytes
