"""Messages ↔ record batches: codec and compression of the client's side."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from portask import registry
from portask.contracts import Codec, Compression
from portask.errors import CodecError, PortaskError
from portask.messages import Message, RecordBatch
from portask.wire import batches
from portask.wire.compression import Dictionaries, attributes_for, decompress

log = logging.getLogger("portask.client")

_WINDOW = 0.1  # seconds over which the load is taken


_OVERHEAD = 64
"""Bytes that a waiting message is taken to cost beside its own: the objects around it."""


def as_message(payload: object, key: object, headers: Mapping[Any, Any] | None, timestamp: int) -> Message:
    """The message of these parts. A mutable payload is copied.

    Raises:
        TypeError: a part has a type that the wire does not carry.
    """
    if type(payload) is not bytes:
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            hint = ": encode it first, e.g. payload.encode()" if isinstance(payload, str) else ""
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}{hint}")
        payload = bytes(payload)
    if key is not None and not isinstance(key, bytes):
        raise TypeError(f"a key is bytes or None, not {type(key).__name__}")
    for name, value in headers.items() if headers else ():
        if not isinstance(name, str) or not isinstance(value, (str, bytes)):
            raise TypeError(f"headers are text with text or bytes, not {name!r}: {value!r}")
    return Message(payload, key, headers, timestamp)


def size_of(message: Message) -> int:
    """About the bytes that a message costs while it waits."""
    size = len(message.payload) + _OVERHEAD
    if message.key is not None:
        size += len(message.key)
    if message.headers:
        size += sum(len(name) + len(value) + _OVERHEAD for name, value in message.headers.items())
    return size


class LoadMeter:
    """What share of the recent past this thread spent working: 0.0 idle, 1.0 saturated. About 0.1 µs a call."""

    __slots__ = ("_busy", "_load", "_since")

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy = time.thread_time()
        self._load = 0.0

    def load(self) -> float:
        """The share over the last window of 0.1 s or more."""
        now = time.monotonic()
        passed = now - self._since
        if passed >= _WINDOW:
            busy = time.thread_time()
            self._load = min(1.0, max(0.0, (busy - self._busy) / passed))
            self._since, self._busy = now, busy
        return self._load


def chosen(family: str, explicit: str, recommended: str, options: Mapping[str, Any] | None = None) -> Any:
    """The variant that the application names, else the one that the broker recommends, else the reference.

    Raises:
        UnknownVariant: the application names none that exists.
        VariantUnavailable: it names one whose library is missing.
    """
    if explicit:
        return registry.get(family, explicit).make(**(options or {}))
    reference = registry.REFERENCE_NAMES[family]
    try:
        return registry.get(family, recommended or reference).make()
    except PortaskError as error:
        log.warning(
            "the broker recommends %s/%s, which cannot be used here (%s); using %s",
            family,
            recommended,
            error,
            reference,
        )
        return registry.get(family, reference).make()


class Encoder:
    """Builds batches. One a client; the compression strategy sees one stream.

    Attributes:
        codec: Writes the records.
        compression: Decides about each record area.
    """

    def __init__(self, codec: Codec, compression: Compression) -> None:
        self.codec = codec
        self.compression = compression
        self._meter = LoadMeter()

    def encode(self, messages: Sequence[Message], ttl: int = 0) -> bytes:
        """One batch of all ``messages``. Those without a timestamp get the present time.

        Raises:
            CodecError: one of them cannot be encoded.
        """
        now = time.time_ns() // 1000
        raw = self.codec.encode(messages, now)
        packed = self.compression.pack(raw, self._meter.load())
        if packed is None:
            return batches.build(raw, len(messages), codec=self.codec.wire_id, base_timestamp=now, ttl=ttl)
        return batches.build(
            packed.data,
            len(messages),
            codec=self.codec.wire_id,
            base_timestamp=now,
            attributes=attributes_for(packed.algorithm, packed.dictionary),
            raw_length=len(raw),
            ttl=ttl,
        )


class Decoder:
    """Opens batches, whichever registered codec wrote them."""

    def __init__(self, preferred: Codec, dictionaries: Mapping[int, bytes]) -> None:
        self._codecs: dict[int, Codec] = {preferred.wire_id: preferred}
        self._dictionaries = Dictionaries(dictionaries)

    def decode(self, batch: RecordBatch) -> Sequence[Message]:
        """All messages of a batch; they are copies, independent of its buffer.

        Raises:
            BatchCorrupt: the compressed bytes are wrong.
            UnknownCompression: an algorithm, library or dictionary is missing.
            CodecError: the records are wrong, or no registered codec knows them.
        """
        codec = self._codecs.get(batch.codec) or self._find(batch.codec)
        body: bytes | memoryview = batch.body
        if batch.attributes:
            body = decompress(batch.attributes, body, batch.raw_length, self._dictionaries)
        return codec.decode(body, batch.count, batch.base_timestamp)

    def _find(self, wire_id: int) -> Codec:
        for entry in registry.entries("codec"):
            if entry.unavailable() is None:
                target = entry.load()
                if target.wire_id == wire_id:
                    codec: Codec = target()
                    self._codecs[wire_id] = codec
                    return codec
        known = ", ".join(
            f"{entry.name} ({entry.load().wire_id})"
            for entry in registry.entries("codec")
            if not entry.unavailable()
        )
        raise CodecError(f"the batch was written by a codec with the wire id {wire_id}; here are {known}")
