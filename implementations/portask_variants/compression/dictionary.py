"""zstd that has seen such messages before.

A single message is too short to repeat itself, so plain zstd finds little in it. A dictionary trained on
messages like it brings what they have in common (field names, hosts, enumerations) and ready-made entropy
tables: single records shrink severalfold, and faster, because there are no tables to build and send.

It is worth as much as its distribution: every reader needs the same file, for as long as the batches are
kept. So this strategy never trains itself on live traffic: a dictionary that only one process knows makes a
log that nobody can read after the next restart. Train one (`train`), keep the file, list it under its id for
the readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import zstandard

from portask.contracts import Packed
from portask.errors import ConfigError
from portask.messages import Buffer
from portask.wire.compression import ZSTD, Dictionaries
from portask_variants.compression.zstd import Compressor

MIN_SIZE = 256  # zstd makes none that is smaller
MIN_SAMPLES = 8
TRAINING_BYTES = 4 << 20
"""Samples beyond this many bytes are left out, evenly: they would cost time and memory and change little."""


def train(
    samples: Sequence[Buffer],
    size: int = 16384,
    id: int = 1,  # noqa: A002 - the wire's term
) -> Dictionaries:
    """A dictionary of at most ``size`` bytes from samples of what will be compressed. Deterministic.

    Takes some 0.1 s a MiB of samples, at most 4 MiB of them. A hundred times ``size`` in samples is enough.

    Args:
        samples: Messages, or record areas of small batches; at least eight.
        size: Bytes. 4 KiB brings most of the gain on flat records; nested documents use up to 64 KiB.
        id: The id that batches will name, 1 to 255. ``train(…)[id]`` is the file's content.

    Raises:
        ConfigError: too few or too uniform samples, a size below 256, or an id outside 1-255.
    """
    if size < MIN_SIZE:
        raise ConfigError(f"a dictionary of {size} bytes: give at least {MIN_SIZE}")
    total = sum(map(len, samples))
    stride = max(1, -(-total // TRAINING_BYTES))
    chosen: list[Buffer] = [bytes(sample) for sample in samples[::stride] if len(sample)]
    try:
        if len(chosen) < MIN_SAMPLES:
            raise ValueError(f"at least {MIN_SAMPLES} are needed")
        trained = zstandard.train_dictionary(size, chosen)
    except (zstandard.ZstdError, ValueError) as error:
        raise ConfigError(
            f"no dictionary comes of {len(chosen):,} samples with {total:,} bytes ({error}): "
            f"give more, and more different, messages: about {100 * size:,} bytes"
        ) from error
    return Dictionaries({id: trained.as_bytes()})


class Dictionary:
    """zstd with a trained dictionary: from a file, from bytes, or trained on ``samples`` now.

    Args:
        dictionary: A zstd dictionary, or the path of one.
        samples: Messages to train on instead; the readers need what `dictionaries` then holds.
        id: The id that batches name, 1 to 255.
        size: Bytes of the dictionary to train.
        level: zstd level.

    Attributes:
        dictionaries: What a reader needs: pass it to `portask.wire.compression.decompress`, write it to a
            file.

    Raises:
        ConfigError: neither or both were given, the file cannot be read, or it is no zstd dictionary.
    """

    coalesce = 0

    def __init__(
        self,
        dictionary: bytes | str | PathLike[str] | None = None,
        samples: Sequence[Buffer] | None = None,
        id: int = 1,  # noqa: A002 - the wire's term
        size: int = 16384,
        level: int = 3,
    ) -> None:
        if (dictionary is None) == (samples is None):
            raise ConfigError(
                "compression 'dictionary' needs `dictionary` (the path of a file that `zstd --train` or "
                "portask_variants.compression.dictionary.train wrote), or else `samples` to train on"
            )
        if samples is not None:
            self.dictionaries = train(samples, size, id)
        elif isinstance(dictionary, bytes):
            self.dictionaries = Dictionaries({id: dictionary})
        elif dictionary is not None:
            self.dictionaries = Dictionaries.from_files({id: dictionary})
        self._id = id
        loaded = zstandard.ZstdCompressionDict(self.dictionaries[id], zstandard.DICT_TYPE_FULLDICT)
        self._zstd = Compressor(level, loaded)
        try:
            loaded.precompute_compress(level)  # otherwise every context digests it anew
        except zstandard.ZstdError as error:
            raise ConfigError(f"dictionary {id} is damaged: zstd cannot load it; train it again") from error

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The batch as one zstd frame that names its dictionary."""
        data = self._zstd.compress(raw)
        return Packed(ZSTD, self._id, data) if len(data) < len(raw) else None
