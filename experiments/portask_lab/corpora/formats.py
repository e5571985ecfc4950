"""The formats of corpus files: each a reader that yields payloads and refuses what it is not.

A reader takes the open file and its name for errors, and raises `CorpusError` with the line and the fix.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec

from portask_lab.corpora import CorpusError

ARRAY_LIMIT = 1 << 30
"""Bytes of a JSON array that are read whole; larger ones must be NDJSON."""

_NEWLINE = b"\n"
DELIMITERS = ",;\t|"
"""Of tables: the one that the header has most of, outside quotes."""
Reader = Callable[[BinaryIO, str], Iterator[bytes]]


def json_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """One JSON document a line, as it stands."""
    records = 0
    for number, line in enumerate(file, 1):
        payload = line.strip()
        if number == 1:
            payload = payload.removeprefix(b"\xef\xbb\xbf")
        if not payload:
            continue
        try:
            document = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            fix = "put one whole JSON document on each line"
            if records == 0 and payload.startswith((b"[", b"{")):
                fix += ", or name a file that is one array .json"
            raise CorpusError(f"{name} line {number} is no JSON document ({error}); {fix}") from error
        if records == 0 and isinstance(document, list) and document and not file.peek(1)[:1]:  # type: ignore[attr-defined]
            raise CorpusError(f"{name} is one array of {len(document)} elements on one line; name it .json")
        records += 1
        yield payload


def json_array(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The elements of one JSON array, as they stand."""
    text = file.read(ARRAY_LIMIT + 1)
    if len(text) > ARRAY_LIMIT:
        raise CorpusError(
            f"{name} is an array of over {ARRAY_LIMIT >> 30} GiB; write it as .ndjson, one element a line"
        )
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
        for element in elements:
            msgspec.json.decode(element)
    except msgspec.ValidationError as error:
        fix = "put the messages in [ … ], or name a file with one document a line .ndjson"
        raise CorpusError(f"{name} is JSON, but no array ({error}); {fix}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        where = _line_of(text, str(error))
        fix = (
            "name a file with one document a line .ndjson"
            if text.lstrip()[:1] == b"{"
            else "repair or regenerate it"
        )
        raise CorpusError(f"{name}{where} is no JSON array ({error}); {fix}") from error
    yield from (bytes(element) for element in elements)


def _line_of(text: bytes, error: str) -> str:
    found = re.search(r"byte (\d+)", error)
    return f" line {1 + text[: int(found[1])].count(_NEWLINE)}" if found else ""


def rows(file: BinaryIO, name: str) -> Iterator[bytes]:
    """A JSON object a row, keyed by the header; all values are text."""
    lines = _text_lines(file, name)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        return
    bare = re.sub(r'"[^"]*"', "", first)
    delimiter = max(DELIMITERS, key=bare.count)
    csv.field_size_limit(1 << 30)
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    try:
        header = _columns(next(rows))
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise CorpusError(
                    f"{name} row at line {rows.line_num} has {len(row)} fields, the header {len(header)}; "
                    "quote fields that contain the delimiter, or drop the row"
                )
            yield msgspec.json.encode(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise CorpusError(
            f"{name} line {rows.line_num} is no table row ({error}); repair the quoting"
        ) from error


def _columns(header: list[str]) -> list[str]:
    columns: list[str] = []
    for number, column in enumerate(header, 1):
        column = column.strip() or f"column{number}"
        columns.append(column if column not in columns else f"{column}_{number}")
    return columns


def _text_lines(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{name} line {number} is not UTF-8 (byte {line[error.start]:#04x}); "
                "convert it, e.g. with iconv -f LATIN1 -t UTF-8"
            ) from error
        if "\0" in text:
            raise CorpusError(
                f"{name} line {number} contains NUL bytes: it is binary, no table; export it as text"
            )
        yield text


def raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines, without their ends."""
    for number, line in enumerate(file, 1):
        payload = line.rstrip(b"\r\n")
        if b"\0" in payload:
            raise CorpusError(
                f"{name} line {number} contains NUL bytes: it is binary; write the messages as lines or JSON"
            )
        if payload:
            yield payload


BY_SUFFIX: dict[str, Reader] = {
    ".ndjson": json_lines,
    ".jsonl": json_lines,
    ".json": json_array,
    ".csv": rows,
    ".tsv": rows,
    ".txt": raw_lines,
    ".log": raw_lines,
}
"""Suffix, without that of a compression → its reader."""
NAMES: dict[Reader, str] = {
    json_lines: "JSON lines",
    json_array: "a JSON array",
    rows: "rows of a table",
    raw_lines: "raw lines",
}
"""For people."""
