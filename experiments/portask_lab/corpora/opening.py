"""Opening a corpus file: plain, gzip or zstd, with every way in which that fails said in one line."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from portask_lab.corpora import CorpusError


def open_corpus(path: Path) -> BinaryIO:
    """The file's bytes, decompressed on the way; reading raises `CorpusError` where it is damaged."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        return io.BufferedReader(cast("io.RawIOBase", _Plain(path)), 1 << 16)
    if suffix == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", _Gunzip(path)), 1 << 16)
    return path.open("rb")


class _Plain(io.RawIOBase):
    """The bytes of a ``.zst`` file. Unlike the library's own reader it notices one that is cut short."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard  # noqa: PLC0415 - only .zst files need it
        except ImportError:
            raise CorpusError(
                f"{path} needs zstandard: pip install zstandard, or decompress the file"
            ) from None
        self._path = path
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._file = path.open("rb")
        self._frame = self._new()
        self._inside = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data or self._file.read(1 << 16)
            if self._frame.eof:
                self._frame = self._new()
                self._inside = False
            if not data:
                if self._inside:
                    raise CorpusError(f"{self._path} is cut short inside a zstd frame; copy it again")
                return 0
            self._inside = True
            try:
                self._ready = self._frame.decompress(data)
            except self._error as error:
                raise CorpusError(
                    f"{self._path} is no zstd file, or damaged ({error}); rename or copy it again"
                ) from error
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Gunzip(io.RawIOBase):
    """Decompressed bytes of a ``.gz`` file, with its errors in our words."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed by `close`

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except EOFError:
            raise CorpusError(f"{self._path} is cut short inside a gzip member; copy it again") from None
        except (gzip.BadGzipFile, ValueError, zlib.error) as error:
            raise CorpusError(
                f"{self._path} is no gzip file, or damaged ({error}); rename or copy it again"
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
