"""A few bytes that unfold into gigabytes cost the reader what the batch declared, not what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portask.errors import BatchCorrupt
from portask.wire.compression import LZ4, ZLIB, ZSTD, decompress
from tests.compression.frames import GIB, MIB, lz4_zeros, zlib_zeros, zstd_zeros

ROOT = Path(__file__).parents[2]
LIMITED = """
import resource, sys
import lz4.frame, zlib, zstandard
from portask.errors import BatchCorrupt
from portask.wire.compression import LZ4, ZLIB, ZSTD, decompress
from tests.compression.frames import GIB, MIB, lz4_zeros, zlib_zeros, zstd_zeros

bombs = {
    "zstd, size told": (ZSTD, zstd_zeros(GIB, GIB)),
    "zstd, size lied": (ZSTD, zstd_zeros(GIB, MIB)),
    "zstd, size not told": (ZSTD, zstd_zeros(GIB)),
    "zstd, 128 MiB window": (ZSTD, zstd_zeros(GIB, window_log=27)),
    "zstd, 1,024 frames": (ZSTD, zstd_zeros(MIB, MIB) * 1024),
    "zlib": (ZLIB, zlib_zeros(GIB)),
    "LZ4": (LZ4, lz4_zeros(GIB)),
    "LZ4, size told": (LZ4, lz4_zeros(GIB, store_size=True)),
}
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 64 * MIB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    zstandard.ZstdDecompressor().decompress(bombs["zstd, size told"][1])
except MemoryError:
    print("the limit holds")
for name, (algorithm, data) in bombs.items():
    for raw_length in (1000, MIB):
        try:
            decompress(algorithm, data, raw_length)
        except BatchCorrupt:
            print("refused", name)
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the memory limit is set from Linux's /proc"
)
def test_bombs_are_refused_within_64_mib() -> None:
    child = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("the limit holds") == 1, "the control fits into the limit: nothing was proven"
    assert child.stdout.count("refused") == 16, child.stdout


def test_the_zstd_bomb_is_real() -> None:
    assert len(zstd_zeros(GIB)) < 33_000
    for frame in (zstd_zeros(3 * MIB), zstd_zeros(3 * MIB, 3 * MIB)):
        assert decompress(ZSTD, frame, 3 * MIB) == bytes(3 * MIB)


def test_the_other_bombs_are_real() -> None:
    assert decompress(ZLIB, zlib_zeros(16 * MIB), 16 * MIB) == bytes(16 * MIB)
    assert decompress(LZ4, lz4_zeros(4 * MIB), 4 * MIB) == bytes(4 * MIB)
    assert decompress(LZ4, lz4_zeros(4 * MIB, store_size=True), 4 * MIB) == bytes(4 * MIB)


@pytest.mark.parametrize("window_log", [24, 27, 31])
def test_a_window_above_the_limit_is_refused(window_log: int) -> None:
    with pytest.raises(BatchCorrupt, match="too much memory"):
        decompress(ZSTD, zstd_zeros(MIB, window_log=window_log), MIB)


def test_a_window_at_the_limit_is_read() -> None:
    assert decompress(ZSTD, zstd_zeros(MIB, window_log=23), MIB) == bytes(MIB)


@pytest.mark.parametrize(("algorithm", "ratio"), [(ZSTD, 32_768), (LZ4, 255), (ZLIB, 1032)])
def test_a_length_that_no_data_can_reach_is_refused_unread(algorithm: int, ratio: int) -> None:
    with pytest.raises(BatchCorrupt, match="cannot hold"):
        decompress(algorithm, bytes(100), 100 * ratio + 1)
