"""What is sent: PUBLISH frames encoded before the run, of which sending changes a few bytes.

A payload is ``<time, sequence, publisher>`` and then arbitrary bytes. Record 0 of a batch holds the batch's
intended send time (``CLOCK_MONOTONIC`` ns) and sequence number. The further records hold what their own time
differs from that (negative: they came before and waited for the batch, as with a lingering producer) and
their place in the batch: both never change, so a batch of any size is stamped in the same 2 µs, plus its
checksum.

The record is that of codec 1, a CBOR sequence: ``84 <delta> f6 f6 <byte string>``.
"""

from __future__ import annotations

import random
import time
from array import array
from struct import Struct

import cbor2
from crc32c import crc32c

from portask.wire import batches
from portask.wire.frames import HEADER_SIZE, Opcode, frame_header

HEAD = Struct("<qII")
"""Intended time ns, sequence number, publisher: the first 16 bytes of every payload."""
SMALLEST = HEAD.size
CODEC = 1

_CORRELATION = Struct("<I")
_CORRELATION_AT = 12
_STAMP = Struct("<Q")
_BATCH = HEADER_SIZE
_BODY = HEADER_SIZE + batches.BATCH_HEADER_SIZE


def record(payload: bytes) -> bytes:
    """One record without key, headers or time difference."""
    return cbor2.dumps([0, None, None, payload])


def overhead(size: int) -> int:
    """Bytes of a record before its payload of ``size`` bytes, when the time difference takes one byte."""
    return len(record(bytes(size))) - size


class Batches:
    """The batches of one publisher.

    Args:
        size: Bytes a payload, at least `SMALLEST`.
        count: Records a batch.
        channel: The channel that was opened for it.
        publisher: Stands in every payload.
        gap: ns between the messages of a batch; the last one is due when the batch is.
        seed: For the payloads' bytes.
        distinct: Messages, at least, before any repeats (except for the stamped head).
    """

    def __init__(
        self,
        size: int,
        count: int = 1,
        *,
        channel: int = 1,
        publisher: int = 0,
        gap: int = 0,
        seed: int = 0,
        distinct: int = 1024,
    ) -> None:
        if size < SMALLEST:
            raise ValueError(
                f"a payload of {size} bytes has no room for its time and number: {SMALLEST} at least"
            )
        self.count = count
        self.publisher = publisher
        self.offsets = array("q", (-gap * (count - 1 - place) for place in range(count)))
        """What each message's time differs from its batch's, ns."""
        self._head_at = _BODY + overhead(size)
        chance = random.Random(f"{seed}/{publisher}")
        self._clock = time.time_ns() - time.monotonic_ns()
        templates = max(
            2, min(-(-distinct // count), (4 << 20) // (size * count) + 1)
        )  # large ones are distinct in their bytes
        self._frames = [self._template(size, channel, chance) for _ in range(templates)]
        self._views = [memoryview(frame)[_BATCH + 24 :] for frame in self._frames]

    def _template(self, size: int, channel: int, chance: random.Random) -> bytearray:
        records = []
        for place, offset in enumerate(self.offsets):
            head = HEAD.pack(offset if place else 0, place, self.publisher)
            records.append(record(head + chance.randbytes(size - SMALLEST)))
        batch = batches.build(b"".join(records), self.count, codec=CODEC, base_timestamp=0)
        return bytearray(frame_header(Opcode.PUBLISH, len(batch), 1, channel) + batch)

    def frame(self, sequence: int, intended: int) -> bytearray:
        """The frame of batch ``sequence`` (from 0), valid until its template's next turn.

        Its correlation id is ``sequence + 1``.
        """
        number = sequence % len(self._frames)
        frame = self._frames[number]
        _CORRELATION.pack_into(frame, _CORRELATION_AT, sequence + 1 & 0xFFFFFFFF)
        _CORRELATION.pack_into(frame, 20, crc32c(memoryview(frame)[:20]))
        _STAMP.pack_into(frame, _BATCH + 40, (intended + self._clock) // 1000)
        HEAD.pack_into(frame, self._head_at, intended, sequence & 0xFFFFFFFF, self.publisher)
        _CORRELATION.pack_into(frame, _BATCH + 20, crc32c(self._views[number]))
        return frame


class Ring:
    """Frames laid out one after the other, sent over and over: sending costs a slice of bytes, however small they are.

    Their sequence numbers start again with the ring, so it must be longer than what may be under way: then nothing can
    be lost or repeated unseen.

    Args:
        size: Bytes a payload.
        count: Records a batch.
        publisher: Stands in every payload.
        least: Batches that it must have, at least.
        seed: For the payloads' bytes.
        channel: The channel that was opened for it.
        distinct: Messages, at least, before any repeats.
    """

    def __init__(
        self,
        size: int,
        count: int,
        publisher: int,
        least: int,
        seed: int = 0,
        *,
        channel: int = 1,
        distinct: int = 1024,
    ) -> None:
        source = Batches(size, count, publisher=publisher, seed=seed, channel=channel, distinct=distinct)
        now = time.monotonic_ns()
        self.publisher = publisher
        self.count = count
        self.length = max(2 * least, distinct // count)
        self.frame_size = len(source.frame(0, now))
        self._bytes = memoryview(
            b"".join(bytes(source.frame(sequence, now)) for sequence in range(self.length))
        )

    def frames(self, first: int, count: int) -> memoryview:
        """Up to ``count`` frames from batch number ``first`` on: as many as there are up to the ring's end."""
        start = first % self.length
        stop = min(self.length, start + count)
        return self._bytes[start * self.frame_size : stop * self.frame_size]
