"""What is sent: payloads by which a receiver can tell that nothing was lost, repeated, reordered or altered.

A payload is 16 bytes and a filler. The first 8 bytes, one little-endian number, say which message it is:

    bits 46-63  run       random; the lowest of these bits chooses the kind of filler
    bits 36-45  producer  from 0
    bits 0-35   sequence  among the producer's messages in one partition, from 0

The other 8 are the time at which it was to be sent, ns of CLOCK_MONOTONIC; 0 where nobody asks. The filler follows from
run, sequence number and size. So a receiver can compare every byte, also one that was started in another shell and
knows nothing of the producers.
"""

from __future__ import annotations

import json
import random
import secrets
from functools import lru_cache

from portask.messages import Message

HEAD = 16
"""Bytes before the filler."""
SMALLEST = 24
"""Bytes of the smallest payload: a filler of 8 cannot be met by chance in messages of strangers."""
MOST_PRODUCERS = 1 << 10
"""Of one run."""
RUN_SHIFT = 46
PRODUCER_SHIFT = 36
SEQUENCE = (1 << PRODUCER_SHIFT) - 1

_DISTINCT = 1024
_TABLE_BYTES = 8 << 20
_NO_TIME = bytes(8)
_ITEMS = ("chair", "table", "lamp", "shelf", "kettle", "bicycle", "umbrella", "clock")


def new_run(*, text: bool) -> int:
    """A number for a run."""
    return secrets.randbelow(1 << 17) << 1 | text


def distinct(size: int) -> int:
    """How many fillers a run has for payloads of ``size`` bytes: 1,024, fewer above 8 KiB. A power of two."""
    fitting = max(2, min(_DISTINCT, _TABLE_BYTES // size))
    return 1 << fitting.bit_length() - 1


def filler(run: int, number: int, size: int) -> bytes:
    """The filler of one message: random bytes, or records of JSON, as the run's lowest bit says. About 15 µs.

    Args:
        run: The run's number.
        number: The message's sequence number, modulo `distinct`.
        size: Of the payload, bytes.
    """
    chance = random.Random(
        (run << 20 | number) << 32 | size
    )  # the size too: no filler begins as another does
    length = size - HEAD
    return _records(chance, length) if run & 1 else chance.randbytes(length)


def _records(chance: random.Random, length: int) -> bytes:
    """JSON as an application might send it, cut off at ``length`` bytes."""
    parts: list[str] = []
    missing = length
    while missing > 0:
        record = {
            "order": chance.randrange(10**6),
            "customer": f"c-{chance.randrange(10**4):04}",
            "item": chance.choice(_ITEMS),
            "price": chance.randrange(10**4) / 100,
        }
        parts.append(json.dumps(record) + "\n")
        missing -= len(parts[-1])
    return "".join(parts).encode()[:length]


@lru_cache(maxsize=2)
def fillers(run: int, size: int) -> list[bytes]:
    """All fillers of a run, by sequence number modulo their number. Takes some 15 ms, and up to 8 MiB, once."""
    return [filler(run, number, size) for number in range(distinct(size))]


class Source:
    """The messages of one producer.

    Args:
        run: The run's number.
        producer: Which of the producers, from 0.
        size: Bytes a payload, `SMALLEST` at least.
        partitions: Of the topic; sequence numbers are counted in each.

    Attributes:
        next: By partition, the next sequence number: so many were made.
    """

    def __init__(self, run: int, producer: int, size: int, partitions: int) -> None:
        self.next = [0] * partitions
        self._owner = run << RUN_SHIFT | producer << PRODUCER_SHIFT
        self._bare = fillers(run, size)
        self._untimed = [_NO_TIME + each for each in self._bare]
        self._mask = len(self._bare) - 1

    def batch(self, partition: int, number: int) -> list[Message]:
        """The next ``number`` messages of a partition, without a time. About 0.3 µs each."""
        first = self._owner | self.next[partition]
        self.next[partition] += number
        ends, mask = self._untimed, self._mask
        return [Message(w.to_bytes(8, "little") + ends[w & mask]) for w in range(first, first + number)]

    def timed(self, partition: int, intended: int) -> Message:
        """The next message of a partition, to be sent at ``intended``, ns."""
        word = self._owner | self.next[partition]
        self.next[partition] += 1
        head = word | intended << 64
        return Message(head.to_bytes(16, "little") + self._bare[word & self._mask])
