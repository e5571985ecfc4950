"""Reading corpora: the built-in ones, checked against their manifest, and a user's own file.

A file's suffix says what it is and its content is checked against that, because a benchmark on something else
than its user believes is worse than none:

=========================  ====================================================================
``.ndjson`` ``.jsonl``     one JSON document a line; the payload is the line as it stands
``.json``                  an array; the payload is each element as it stands
``.csv`` ``.tsv``          a header and rows; the payload is a JSON object a row, keyed by the header
``.txt`` ``.log``          the payload is the line, any bytes but NUL
another suffix, or none    sniffed as one of the above; a note in the results says as what
``….gz`` ``….zst``         any of these, compressed
=========================  ====================================================================

Empty lines are left out. Line formats are streamed: with a ``limit`` only as much is read as is used (the
digest is still over the whole file).
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import msgspec

from portask_lab.corpora import CONTROLS, REAL, Corpus, CorpusError, digest
from portask_lab.corpora.formats import BY_SUFFIX, NAMES, Reader, json_array, json_lines, raw_lines
from portask_lab.corpora.opening import open_corpus

DATA = Path(__file__).parent / "data"
GENERATED = 20_000
"""Messages of a generated corpus."""
RANDOM_BYTES = 256
TINY_BYTES = 64


def names() -> tuple[str, ...]:
    """The built-in corpora."""
    return REAL + CONTROLS


def load(name_or_path: str | Path, limit: int | None = None, seed: int = 0) -> Corpus:
    """A built-in corpus by name, or any file by path.

    Args:
        name_or_path: One of `names`, or a path.
        limit: At most so many messages, from the start; ``None`` for all.
        seed: Of the generated corpora.

    Raises:
        CorpusError: missing, empty, damaged, or not what its suffix says; the text names the line and the
        fix.
    """
    name = str(name_or_path)
    if name in REAL:
        return _built_in(name, limit)
    if name in CONTROLS:
        return _generated(name, limit, seed)
    return _file(Path(name_or_path), limit)


# ── built in ────────────────────────────────────────────────────────────────────────────────────────────────


def _built_in(name: str, limit: int | None) -> Corpus:
    manifest: dict[str, Any] = msgspec.json.decode((DATA / "manifest.json").read_bytes())
    facts = manifest[name]
    path = DATA / facts["file"]
    if not path.is_file():
        raise CorpusError(f"corpus {name}: {path} is missing; reinstall Portask")
    found = _sha256(path)
    if found != facts["sha256"]:
        raise CorpusError(
            f"corpus {name}: {path} is damaged, its SHA-256 is not the manifest's; reinstall Portask"
        )
    payloads = _take(path, limit, json_lines)
    expected = facts["records"] if limit is None else min(limit, facts["records"])
    if len(payloads) != expected:
        raise CorpusError(
            f"corpus {name}: {path} should hold {expected} records, not {len(payloads)}; reinstall Portask"
        )
    return Corpus(name=name, payloads=payloads, what=facts["what"], sha256=found, source=facts["source"])


def _generated(name: str, limit: int | None, seed: int) -> Corpus:
    count = GENERATED if limit is None else min(limit, GENERATED)
    source = random.Random(f"{name}/{seed}")
    if name == "random":
        payloads = [source.randbytes(RANDOM_BYTES) for _ in range(count)]
        what = f"incompressible bytes, {RANDOM_BYTES} a message"
    else:
        payloads = [_tiny(index, source) for index in range(count)]
        what = f"distinct sensor readings of exactly {TINY_BYTES} bytes"
    return Corpus(
        name=name, payloads=payloads, what=what, sha256=digest(payloads), source=f"generated, seed {seed}"
    )


def _tiny(index: int, source: random.Random) -> bytes:
    sensor, value, tag = source.randrange(512), source.gauss(20, 6), source.randbytes(8).hex()
    reading = f"id={index:08d} sensor={sensor:03d} value={value:+08.3f} tag={tag}"
    return reading.encode().ljust(TINY_BYTES, b".")[:TINY_BYTES]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def _file(path: Path, limit: int | None) -> Corpus:
    if path.is_dir():
        raise CorpusError(f"{path} is a directory; give one file of messages")
    if not path.exists():
        raise CorpusError(f"there is no file {path}; give a path, or a built-in corpus: {', '.join(names())}")
    if not path.is_file():
        raise CorpusError(f"{path} is no regular file; copy its content into one")
    try:
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty; it must hold at least one message")
        reader, notes = _reader(path)
        payloads = _take(path, limit, reader)
        found = _sha256(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    if not payloads:
        raise CorpusError(
            f"{path} holds no message ({NAMES[reader]}, and nothing in it); it must hold at least one"
        )
    return Corpus(
        name=path.name,
        payloads=payloads,
        what=f"{NAMES[reader]} of a user's file",
        sha256=found,
        source=str(path),
        notes=notes,
    )


def _take(path: Path, limit: int | None, reader: Reader) -> list[bytes]:
    payloads: list[bytes] = []
    with open_corpus(path) as file:
        for payload in reader(file, str(path)):
            if limit is not None and len(payloads) == limit:
                break
            payloads.append(payload)
    return payloads


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reader(path: Path) -> tuple[Reader, list[str]]:
    inner = path.with_suffix("") if path.suffix.lower() in {".gz", ".zst"} else path
    known = BY_SUFFIX.get(inner.suffix.lower())
    if known:
        return known, []
    with open_corpus(path) as file:
        start = file.read(1 << 16).lstrip()
    if start.startswith(b"["):
        reader = json_array
    elif start.startswith(b"{"):
        reader = json_lines
    else:
        reader = raw_lines
    return reader, [f"{path.name}: the suffix says nothing, the content was taken for {NAMES[reader]}"]
