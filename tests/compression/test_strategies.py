"""What each strategy decides, beyond what the conformance suite asks of all of them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.contracts import Compression
from portask.errors import ConfigError
from portask.reference.compression import Never
from portask.wire.compression import LZ4, ZSTD, attributes_for, decompress
from portask_variants.compression.adaptive import Adaptive
from portask_variants.compression.always import Always
from portask_variants.compression.batch import BatchCoalescing
from portask_variants.compression.lz4_frame import Lz4
from portask_variants.compression.threshold import Threshold
from portask_variants.compression.zstd import Compressor, at_level

TEXT = b"a batch of records repeats what a record does not; " * 40
ALL: list[type[Compression]] = [Never, Always, Threshold, Adaptive, BatchCoalescing, Lz4]


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(ALL),
    batches=st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 60), st.floats(0, 1)), max_size=12),
)
def test_any_sequence_of_batches_comes_back(
    kind: type[Compression], batches: list[tuple[bytes, int, float]]
) -> None:
    strategy = kind()
    for piece, times, load in batches:
        raw = piece * times
        packed = strategy.pack(raw, load)
        if packed is not None:
            assert len(packed.data) < len(raw)
            attributes = attributes_for(packed.algorithm, packed.dictionary)
            assert decompress(attributes, packed.data, len(raw)) == raw


def test_never_does() -> None:
    assert Never().pack(TEXT, 0.0) is None


def test_levels_reach_the_library() -> None:
    data = b"".join(b'{"n":%d,"square":%d}\n' % (i, i * i) for i in range(3000))
    fast, slow = Always(level=-5).pack(data, 0.0), Always(level=19).pack(data, 0.0)
    assert fast is not None
    assert slow is not None
    assert len(slow.data) < len(fast.data)


def test_threshold_leaves_small_batches_and_small_gains() -> None:
    strategy = Threshold(min_bytes=500, max_ratio=0.5)
    assert strategy.pack(TEXT[:499], 0.0) is None
    assert strategy.pack(TEXT[:500], 0.0) is not None
    noise = random.Random(1).randbytes(3000)
    assert strategy.pack(noise + bytes(1000), 0.0) is None, "shrinks to three quarters: not enough"
    assert Threshold(max_ratio=0.9).pack(noise + bytes(1000), 0.0) is not None


def test_batch_asks_for_more() -> None:
    assert BatchCoalescing().coalesce == 65536
    assert BatchCoalescing(coalesce=1000).coalesce == 1000
    assert Always().coalesce == 0


def test_each_names_its_algorithm() -> None:
    for kind, algorithm in ((Always, ZSTD), (BatchCoalescing, ZSTD), (Lz4, LZ4)):
        packed = kind().pack(TEXT, 0.0)
        assert packed is not None
        assert packed.algorithm == algorithm
        assert packed.dictionary == 0


@pytest.mark.parametrize("level", [-51, 23, "fast", None])
def test_levels_that_do_not_exist(level: Any) -> None:
    for kind in (Always, Threshold, BatchCoalescing):
        with pytest.raises(ConfigError, match=f"level {level!r}: use -50 to 22"):
            kind(level=level)
    with pytest.raises(ConfigError, match="LZ4 level"):
        Lz4(level=level * 10 if level == -51 else level)


def test_options_out_of_range() -> None:
    with pytest.raises(ConfigError, match="min_bytes -1"):
        Threshold(min_bytes=-1)
    for ratio in (0, 1.5):
        with pytest.raises(ConfigError, match="max_ratio"):
            Threshold(max_ratio=ratio)
    for coalesce in (0, -1, 1 << 30):
        with pytest.raises(ConfigError, match="coalesce"):
            BatchCoalescing(coalesce=coalesce)


def test_one_compressor_serves_many_threads() -> None:
    compressor = Compressor(3)
    batches = [TEXT * (1 + i % 5) + b"%d" % i for i in range(200)]

    def round_trip(raw: bytes) -> bool:
        return decompress(ZSTD, compressor.compress(raw), len(raw)) == raw

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, batches * 5))
    assert 1 <= len(compressor._idle) <= 8


def test_streams_share_the_contexts_of_a_level() -> None:
    assert at_level(3) is at_level(3)
    strategies = [BatchCoalescing() for _ in range(100)]
    for strategy in strategies:
        strategy.pack(TEXT, 0.0)
    assert len(at_level(3)._idle) <= 8, "a hundred streams in one thread need one context"
