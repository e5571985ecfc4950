"""Corpora: the messages that everything is measured on.

Built in are three sets of real records (``data/manifest.json`` says where they come from) and two generated
controls. A user's own file takes the place of the real ones: `portask_lab.corpora.load.load` reads it. This
module is what a measuring process
imports: it holds no parser, because the run loads each corpus once and hands every process the same payloads.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from portask.errors import ConfigError
from portask.messages import Message
from portask_lab.results import CorpusInfo

REAL = ("flights", "weather", "webhooks")
"""Built-in sets of real records, the main one first."""
CONTROLS = ("tiny", "random")
"""Generated: 64-byte distinct payloads, and incompressible ones."""
WANTED_DISTINCT = 1000
"""Fewer different messages than this flatter caches and branch predictors: a note says so."""

_EPOCH_US = 1_767_225_600_000_000  # 2026-01-01: a fixed start, so that encoded sizes do not depend on the day


class CorpusError(ConfigError):
    """A corpus that is missing, empty, or not what it says. One line: what is wrong, and what to do."""

    code = "corpus"


class Corpus(msgspec.Struct, frozen=True, kw_only=True):
    """Payloads in their order, and what is known of them.

    Attributes:
        name: Built-in name, or the file's name.
        payloads: One `bytes` a message.
        what: One line for people.
        sha256: Over the file on disk, or over the payloads of a generated corpus.
        source: Where it comes from.
        notes: What a reader of results should know.
    """

    name: str
    payloads: list[bytes]
    what: str = ""
    sha256: str = ""
    source: str = ""
    notes: list[str] = []

    def __len__(self) -> int:
        return len(self.payloads)

    def messages(self, *, keyed: bool = False) -> list[Message]:
        """The payloads as messages, 1 to 9 µs apart as in a busy stream.

        Args:
            keyed: Gives each a 4-byte key that depends on its payload.
        """
        made: list[Message] = []
        now = _EPOCH_US
        for index, payload in enumerate(self.payloads):
            now += 1 + index * 7 % 9
            key = zlib.crc32(payload).to_bytes(4, "little") if keyed else None
            made.append(Message(payload, key, None, now))
        return made

    def batches(self, size: int, *, keyed: bool = False) -> list[list[Message]]:
        """The messages in batches of exactly ``size``: a remainder is filled up from the start."""
        messages = self.messages(keyed=keyed)
        while len(messages) < size:
            messages += messages
        rest = -len(messages) % size
        messages += messages[:rest]
        return [messages[at : at + size] for at in range(0, len(messages), size)]

    def info(self) -> CorpusInfo:
        """What results say of it."""
        lengths = sorted(map(len, self.payloads))
        distinct = len(set(self.payloads))
        notes = list(self.notes)
        if 0 < distinct < WANTED_DISTINCT:
            notes.append(
                f"{self.name} has {distinct} distinct messages; under {WANTED_DISTINCT:,} they repeat while "
                "they are measured, which flatters caches"
            )
        middle = len(lengths) // 2
        median = (lengths[middle] + lengths[~middle]) / 2 if lengths else 0.0
        return CorpusInfo(
            name=self.name,
            what=self.what,
            sha256=self.sha256,
            records=len(lengths),
            distinct=distinct,
            bytes=sum(lengths),
            median=median,
            largest=lengths[-1] if lengths else 0,
            source=self.source,
            notes=notes,
        )

    def write(self, path: Path) -> None:
        """Stores it for measuring processes; see `read`."""
        path.write_bytes(msgspec.msgpack.encode(self))


def read(path: Path | str) -> Corpus:
    """A corpus that `Corpus.write` stored."""
    return msgspec.msgpack.decode(Path(path).read_bytes(), type=Corpus)


EMPTY = Corpus(name="", payloads=[])
"""For workloads that use no corpus."""


def digest(payloads: Sequence[bytes]) -> str:
    """SHA-256 over the payloads, each with its length before it."""
    state = hashlib.sha256()
    for payload in payloads:
        state.update(len(payload).to_bytes(4, "little"))
        state.update(payload)
    return state.hexdigest()
