"""How the record area of a batch is compressed, and the bounded way back.

The batch's 16-bit attributes say what a reader needs::

    bits 0-3    algorithm: 0 none, 1 zstd (RFC 8878), 2 LZ4 frame, 3 zlib (RFC 1950)
    bits 4-7    reserved, zero
    bits 8-15   dictionary id, 0 for none; zstd only

Compressed bytes come from strangers, and a few of them can unfold into gigabytes. So nothing in them is
believed. The batch declares its raw length, the caller has checked that against its own limit, and
`decompress` keeps to it: the output buffer never grows past it, the result must fill it to the last byte, and
no byte may follow the one frame. What each format can lie about:

- zstd: a content size in the frame header that differs from the raw length is refused before anything is
  allocated. A frame without one is unfolded into a buffer of the raw length, with a window of at most 8 MiB
  (RFC 8878 §3.1.1.1.2 asks decoders for that much). Frames after the first, skippable ones too, are refused.
- LZ4 and zlib are unfolded step by step and stopped one byte after the raw length; their windows are small by
  design.
- A raw length beyond what the format can express in so few bytes is refused unread, so a lie costs nothing.

A dictionary is a plain zstd dictionary file (RFC 8878 §5), as ``zstd --train`` writes it; its 8-bit id is
chosen by whoever sets up the topic. Two dictionaries under one id are told apart: a dictionary carries a
32-bit number of its own, each frame repeats it, and a mismatch is refused by name instead of unfolding into
garbage.

The libraries are imported when the first batch needs them: reading zlib batches takes the standard library
only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from portask.errors import BatchCorrupt, ConfigError, UnknownCompression
from portask.messages import Buffer

NONE, ZSTD, LZ4, ZLIB = range(4)
ALGORITHMS = {NONE: "none", ZSTD: "zstd", LZ4: "lz4", ZLIB: "zlib"}
"""Names of the algorithm numbers, for people."""
MAX_DICTIONARY = 255

_RESERVED = 0x00F0
_WINDOW_LIMIT = 8 << 20
_EXPANSION = {
    ZSTD: 32_768,  # a run-length block: 4 bytes for 128 KiB (RFC 8878 §3.1.1.2)
    LZ4: 255,  # a length byte adds at most 255
    ZLIB: 1_032,  # 258 bytes for two bits (RFC 1951 §3.2.5)
}
_DICTIONARY_HEAD = struct.Struct("<II")
_DICTIONARY_MAGIC = 0xEC30A437


def algorithm_of(attributes: int) -> int:
    """The algorithm number in a batch's attributes; may be one that this version does not know."""
    return attributes & 0x0F


def dictionary_of(attributes: int) -> int:
    """The dictionary id in a batch's attributes; 0 for none."""
    return attributes >> 8 & 0xFF


def attributes_for(algorithm: int, dictionary: int = 0) -> int:
    """The attributes of a batch that was compressed so.

    Raises:
        ValueError: no such algorithm, an id outside 0-255, or a dictionary for something else than zstd.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no compression algorithm {algorithm}; there are 0 to {max(ALGORITHMS)}")
    if not 0 <= dictionary <= MAX_DICTIONARY:
        raise ValueError(f"a dictionary id is 0 to {MAX_DICTIONARY}, not {dictionary}")
    if dictionary and algorithm != ZSTD:
        raise ValueError(f"only zstd takes a dictionary, {ALGORITHMS[algorithm]} does not")
    return algorithm | dictionary << 8


class Dictionaries(Mapping[int, bytes]):
    """Trained zstd dictionaries by the id that batches name, 1 to 255. Immutable; safe from any thread."""

    def __init__(self, dictionaries: Mapping[int, bytes] | None = None) -> None:
        """Checks and keeps them.

        Raises:
            ConfigError: an id outside 1-255, or bytes that are no trained zstd dictionary.
        """
        self._data = {number: bytes(data) for number, data in (dictionaries or {}).items()}
        self._own_numbers = {number: _own_number(number, data) for number, data in self._data.items()}
        self._idle: dict[int, list[Any]] = {number: [] for number in self._data}

    @classmethod
    def from_files(cls, paths: Mapping[int, str | PathLike[str]]) -> Dictionaries:
        """Reads each file; for ``{1: "flights.dict"}`` in a config.

        Raises:
            ConfigError: a file cannot be read, or is no trained zstd dictionary.
        """
        found = {}
        for number, path in paths.items():
            try:
                found[number] = Path(path).read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"dictionary {number}: cannot read {path}: {error.strerror or error}"
                ) from error
        return cls(found)

    def __getitem__(self, number: int) -> bytes:
        return self._data[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def own_number(self, number: int) -> int:
        """The 32-bit number that the dictionary itself carries and that frames repeat (RFC 8878 §5)."""
        return self._own_numbers[number]

    def decompressors(self, number: int) -> list[Any]:
        """Idle decompressors that have this dictionary loaded; `decompress` takes one and puts it back."""
        return self._idle[number]


def _own_number(number: int, data: bytes) -> int:
    if not 1 <= number <= MAX_DICTIONARY:
        raise ConfigError(f"dictionary {number}: ids are 1 to {MAX_DICTIONARY} (0 means none)")
    magic, own = _DICTIONARY_HEAD.unpack_from(data) if len(data) >= _DICTIONARY_HEAD.size else (0, 0)
    if magic != _DICTIONARY_MAGIC or not own:
        raise ConfigError(
            f"dictionary {number}: these {len(data):,} bytes are no trained zstd dictionary; "
            f"make one from sample records with `zstd --train`"
        )
    return int(own)


def decompress(
    attributes: int, data: Buffer, raw_length: int, dictionaries: Dictionaries | None = None
) -> bytes:
    """The record area of a batch as the codec wrote it. May be called from any thread.

    Allocates at most ``raw_length`` + 1 bytes for the result, whatever ``data`` says, and one window (8 MiB
    at most). Costs the library's time and about 0.5 µs. Uncompressed bytes are returned as they are, a view of
    them as a copy.

    Args:
        attributes: The batch's attributes.
        data: The record area as it travelled; only read during the call.
        raw_length: Its declared length before compression. The caller has checked it against its limit.
        dictionaries: Those that this reader has.

    Raises:
        BatchCorrupt: ``data`` is not one whole frame of exactly ``raw_length`` bytes, or the attributes are
            invalid.
        UnknownCompression: the algorithm, its library or the dictionary is not here; the text says how to get
            it.
    """
    algorithm = attributes & 0x0F
    if attributes & ~0xFF0F:
        raise BatchCorrupt(f"reserved attributes of the batch are set: {attributes:#06x}")
    if algorithm == ZSTD:
        raw = _unzstd(data, raw_length, attributes >> 8, dictionaries)
    elif attributes > ZLIB:
        raise _unknown(algorithm, attributes >> 8)
    elif algorithm == NONE:
        raw = bytes(data)
    else:
        _check_plausible(algorithm, data, raw_length)
        raw = _STEPWISE[algorithm](data, raw_length)
    if len(raw) != raw_length:
        raise BatchCorrupt(f"the batch declares {raw_length:,} raw bytes and holds {len(raw):,}")
    return raw


def _unknown(algorithm: int, dictionary: int) -> BatchCorrupt | UnknownCompression:
    if algorithm in ALGORITHMS:
        return BatchCorrupt(
            f"the batch names dictionary {dictionary}, and {ALGORITHMS[algorithm]} takes none"
        )
    known = ", ".join(f"{number} {name}" for number, name in ALGORITHMS.items())
    return UnknownCompression(
        f"compression algorithm {algorithm} is not known here ({known}): update this reader"
    )


def _check_plausible(algorithm: int, data: Buffer, raw_length: int) -> None:
    if not 0 < raw_length <= len(data) * _EXPANSION[algorithm]:
        raise BatchCorrupt(
            f"{len(data):,} bytes of {ALGORITHMS[algorithm]} cannot hold {raw_length:,} raw bytes"
        )


@cache
def _library(name: str, distribution: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != distribution:
            raise  # the library is there and broken: its own error says more
        raise UnknownCompression(
            f"the batch is compressed with {distribution}, which is not installed: pip install {distribution}"
        ) from None


_idle: list[Any] = []
"""Idle zstd decompressors. Making one costs more than using it, and one serves one thread at a time: a caller
takes one and puts it back (list.pop and list.append are atomic), so there are as many as callers were ever
inside at once."""


def _unzstd(data: Buffer, raw_length: int, number: int, dictionaries: Dictionaries | None) -> bytes:
    zstandard = _library("zstandard", "zstandard")
    _check_plausible(ZSTD, data, raw_length)
    try:
        idle = _idle
        if number:
            idle = _decompressors(number, dictionaries, zstandard.get_frame_parameters(data).dict_id)
        declared = zstandard.frame_content_size(data)
        if declared not in {raw_length, -1}:  # -1: the frame does not say
            raise BatchCorrupt(f"the batch declares {raw_length:,} raw bytes, the zstd frame {declared:,}")
        try:
            decompressor = idle.pop()
        except IndexError:
            decompressor = _make_decompressor(number, dictionaries)
        try:
            raw: bytes = decompressor.decompress(data, raw_length, allow_extra_data=False)
        finally:
            idle.append(decompressor)  # after an error too: each call starts it afresh
    except zstandard.ZstdError as error:
        raise BatchCorrupt(f"not a zstd frame of {raw_length:,} raw bytes: {error}") from error
    return raw


def _decompressors(number: int, dictionaries: Dictionaries | None, wanted: int) -> list[Any]:
    if dictionaries is None or number not in dictionaries:
        raise UnknownCompression(
            f"the batch needs dictionary {number} (zstd calls it {wanted}), which this reader does not have: "
            f"get the file from whoever set up the topic and list it under its id, {{{number}: path}}"
        )
    if dictionaries.own_number(number) != wanted:
        raise UnknownCompression(
            f"the batch was compressed with a dictionary {number} that zstd calls {wanted}; the one here is "
            f"{dictionaries.own_number(number)}: same id, different file. Get the other one"
        )
    return dictionaries.decompressors(number)


def _make_decompressor(number: int, dictionaries: Dictionaries | None) -> Any:
    zstandard = _library("zstandard", "zstandard")
    if not number or dictionaries is None:
        return zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
    try:
        dictionary = zstandard.ZstdCompressionDict(dictionaries[number], zstandard.DICT_TYPE_FULLDICT)
        return zstandard.ZstdDecompressor(dictionary, max_window_size=_WINDOW_LIMIT)
    except zstandard.ZstdError as error:
        raise UnknownCompression(
            f"dictionary {number} here is damaged ({error}): get the file again"
        ) from error


def _unlz4(data: Buffer, raw_length: int) -> bytes:
    stream = _library("lz4.frame", "lz4").LZ4FrameDecompressor()
    try:
        raw: bytes = stream.decompress(data, raw_length + 1)
    except (RuntimeError, ValueError) as error:
        raise BatchCorrupt(f"not an LZ4 frame: {error}") from error
    return _whole(raw, raw_length, stream, "LZ4")


def _unzlib(data: Buffer, raw_length: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, raw_length + 1)
    except zlib.error as error:
        raise BatchCorrupt(f"not a zlib stream: {error}") from error
    return _whole(raw, raw_length, stream, "zlib")


def _whole(raw: bytes, raw_length: int, stream: Any, name: str) -> bytes:
    if len(raw) > raw_length:
        raise BatchCorrupt(f"the {name} data unfolds to more than the declared {raw_length:,} raw bytes")
    if not stream.eof:
        raise BatchCorrupt(f"the {name} data is cut off after {len(raw):,} of {raw_length:,} raw bytes")
    if stream.unused_data:
        raise BatchCorrupt(f"{len(stream.unused_data):,} bytes follow the {name} data")
    return raw


_STEPWISE: dict[int, Callable[[Buffer, int], bytes]] = {LZ4: _unlz4, ZLIB: _unzlib}
