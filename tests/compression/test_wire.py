"""The way back: what a valid batch gives, and what everything else gets."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from portask.errors import BatchCorrupt, BatchError, UnknownCompression
from portask.wire import compression
from portask.wire.compression import (
    LZ4,
    NONE,
    ZLIB,
    ZSTD,
    algorithm_of,
    attributes_for,
    decompress,
    dictionary_of,
)
from tests.compression.frames import zstd_unsized

Pack = Callable[[bytes], bytes]
WAYS: dict[str, tuple[int, Pack]] = {
    "zstd": (ZSTD, zstandard.ZstdCompressor().compress),
    "zstd with checksum": (ZSTD, zstandard.ZstdCompressor(write_checksum=True).compress),
    "zstd of unsaid size": (ZSTD, zstd_unsized),
    "zstd of unsaid size, with checksum, in pieces": (
        ZSTD,
        lambda raw: zstd_unsized(raw, 3, checksum=True, flush_every=7 + len(raw) // 5),
    ),
    "lz4": (LZ4, lambda raw: lz4.frame.compress(raw, store_size=False)),
    "lz4 with size and checksum": (LZ4, lambda raw: lz4.frame.compress(raw, content_checksum=True)),
    "zlib": (ZLIB, zlib.compress),
}
RAW = b"".join(b'{"sensor": %d, "celsius": %d.5}\n' % (i % 7, i * i % 50) for i in range(300))

raws = st.one_of(
    st.binary(min_size=1, max_size=3000),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=40), st.integers(1, 500)),
)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[int, Pack]:
    return WAYS[request.param]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(WAYS)), raw=raws)
def test_what_was_packed_comes_back(name: str, raw: bytes) -> None:
    algorithm, pack = WAYS[name]
    packed = pack(raw)
    for data in (packed, bytearray(packed), memoryview(b"x" + packed)[1:]):
        assert decompress(algorithm, data, len(raw)) == raw


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(WAYS)),
    raw=raws,
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4),
    cut=st.floats(0, 1.2),
    length=st.one_of(st.none(), st.integers(0, 1 << 32)),
)
def test_any_damage_gives_the_declared_length_or_a_batch_error(
    name: str, raw: bytes, flips: list[tuple[float, int]], cut: float, length: int | None
) -> None:
    algorithm, pack = WAYS[name]
    data = bytearray(pack(raw))
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    data = data[: int(cut * len(data))]
    expected = len(raw) if length is None else length
    try:
        back = decompress(algorithm, data, expected)
    except BatchError:
        return
    assert len(back) == expected


@settings(max_examples=300, deadline=None)
@given(attributes=st.integers(0, 0xFFFF), data=st.binary(max_size=200), length=st.integers(0, 1 << 32))
def test_any_bytes_give_the_declared_length_or_a_batch_error(
    attributes: int, data: bytes, length: int
) -> None:
    try:
        back = decompress(attributes, data, length)
    except BatchError:
        return
    assert len(back) == length


def test_a_length_off_by_one_is_corrupt(way: tuple[int, Pack]) -> None:
    algorithm, pack = way
    for length in (len(RAW) - 1, len(RAW) + 1):
        with pytest.raises(BatchCorrupt):
            decompress(algorithm, pack(RAW), length)


def test_every_truncation_is_corrupt(way: tuple[int, Pack]) -> None:
    algorithm, pack = way
    data = pack(RAW)
    for cut in range(len(data)):
        with pytest.raises(BatchCorrupt):
            decompress(algorithm, data[:cut], len(RAW))


@pytest.mark.parametrize("tail", [b"\0", b"trailing bytes", b"\x50\x2a\x4d\x18\x04\0\0\0skip"])
def test_bytes_after_the_frame_are_corrupt(way: tuple[int, Pack], tail: bytes) -> None:
    algorithm, pack = way
    with pytest.raises(BatchCorrupt):
        decompress(algorithm, pack(RAW) + tail, len(RAW))


def test_two_frames_are_corrupt_even_if_their_sum_fits(way: tuple[int, Pack]) -> None:
    algorithm, pack = way
    half = len(RAW) // 2
    with pytest.raises(BatchCorrupt):
        decompress(algorithm, pack(RAW[:half]) + pack(RAW[half:]), len(RAW))


@pytest.mark.parametrize("length", [0, 4])
def test_skippable_frames_are_corrupt(length: int) -> None:
    for algorithm in (ZSTD, LZ4):
        with pytest.raises(BatchCorrupt):
            decompress(algorithm, b"\x50\x2a\x4d\x18\x04\0\0\0skip", length)


def test_an_empty_record_area_is_never_compressed(way: tuple[int, Pack]) -> None:
    algorithm, pack = way
    with pytest.raises(BatchCorrupt):
        decompress(algorithm, pack(b""), 0)


def test_uncompressed_bytes_pass_when_the_length_is_right() -> None:
    assert decompress(NONE, RAW, len(RAW)) is RAW
    assert decompress(NONE, memoryview(RAW), len(RAW)) == RAW
    assert decompress(NONE, b"", 0) == b""
    with pytest.raises(BatchCorrupt, match="declares 5 raw bytes and holds 4"):
        decompress(NONE, b"four", 5)


@given(algorithm=st.integers(0, 3), dictionary=st.integers(0, 255))
def test_attributes_say_what_was_put_in(algorithm: int, dictionary: int) -> None:
    if dictionary and algorithm != ZSTD:
        with pytest.raises(ValueError, match="only zstd takes a dictionary"):
            attributes_for(algorithm, dictionary)
        return
    attributes = attributes_for(algorithm, dictionary)
    assert 0 <= attributes <= 0xFFFF
    assert (algorithm_of(attributes), dictionary_of(attributes)) == (algorithm, dictionary)
    assert attributes & 0x00F0 == 0


@pytest.mark.parametrize(("algorithm", "dictionary"), [(4, 0), (-1, 0), (ZSTD, 256), (ZSTD, -1)])
def test_attributes_that_do_not_exist(algorithm: int, dictionary: int) -> None:
    with pytest.raises(ValueError, match=r"there are|is 0 to 255"):
        attributes_for(algorithm, dictionary)


@pytest.mark.parametrize("attributes", [0x10, 0x81, 0x1_0000, -1])
def test_reserved_bits_are_corrupt(attributes: int) -> None:
    with pytest.raises(BatchCorrupt, match="reserved"):
        decompress(attributes, RAW, len(RAW))


def test_an_algorithm_from_the_future_is_unknown() -> None:
    with pytest.raises(UnknownCompression, match=r"algorithm 9 .* 1 zstd"):
        decompress(9, RAW, len(RAW))


@pytest.mark.parametrize("algorithm", [NONE, LZ4, ZLIB])
def test_a_dictionary_for_anything_but_zstd_is_corrupt(algorithm: int) -> None:
    with pytest.raises(BatchCorrupt, match="takes none"):
        decompress(algorithm | 3 << 8, RAW, len(RAW))


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("zstandard", "lz4", "lz4.frame"):
        monkeypatch.setitem(sys.modules, name, None)
    compression._library.cache_clear()
    yield
    compression._library.cache_clear()


@pytest.mark.usefixtures("no_libraries")
@pytest.mark.parametrize(("algorithm", "library"), [(ZSTD, "zstandard"), (LZ4, "lz4")])
def test_a_missing_library_is_named_with_its_pip_line(algorithm: int, library: str) -> None:
    for _ in range(2):
        with pytest.raises(UnknownCompression, match=f"pip install {library}"):
            decompress(algorithm, b"some bytes", 10)


def test_the_core_alone_reads_zlib() -> None:
    code = (
        "import sys, zlib; sys.modules['zstandard'] = sys.modules['lz4'] = None\n"
        "from portask.wire.compression import ZLIB, decompress\n"
        "assert decompress(ZLIB, zlib.compress(bytes(100)), 100) == bytes(100)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_many_threads_read_at_once(way: tuple[int, Pack]) -> None:
    algorithm, pack = way
    batches = [RAW[: 100 + 37 * i] for i in range(200)]
    packed = [pack(raw) for raw in batches]

    def read(index: int) -> bool:
        return decompress(algorithm, packed[index], len(batches[index])) == batches[index]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [*range(200)] * 5))


def test_readers_are_reused_after_errors() -> None:
    frame = zstandard.compress(RAW)
    for _ in range(50):
        with pytest.raises(BatchCorrupt):
            decompress(ZSTD, frame[:-1], len(RAW))
        assert decompress(ZSTD, frame, len(RAW)) == RAW
    assert len(compression._idle) <= 8, "one reader for each thread that was ever inside at once"
