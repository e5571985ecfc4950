"""Codecs with one fault each. The conformance suite is worth something only if it finds every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cbor2

from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.reference.codec import Cbor2Codec
from portask.reference.streaming import RecordDecoder


class WrongId(Cbor2Codec):
    wire_id = 256


class LosesTimestamps(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        found = super().decode(body, count, base_timestamp)
        return [Message(m.payload, m.key, m.headers, base_timestamp) for m in found]


class SortsHeaders(Cbor2Codec):
    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        tidy = [
            Message(m.payload, m.key, dict(sorted(m.headers.items())) if m.headers else None, m.timestamp)
            for m in messages
        ]
        return super().encode(tidy, base_timestamp)


class GivesViews(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        found = super().decode(body, count, base_timestamp)
        return [Message(memoryview(m.payload), m.key, m.headers, m.timestamp) for m in found]  # type: ignore[arg-type]


class _Late(Sequence[Message]):
    """Messages that are decoded each time somebody looks, from whatever is in the buffer by then."""

    def __init__(self, look: Callable[[], list[Message]], count: int) -> None:
        self.look, self.count_ = look, count

    def __len__(self) -> int:
        return self.count_

    def __getitem__(self, index: Any) -> Any:
        return self.look()[index]


class LooksLate(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[Message]:  # type: ignore[override]
        decode = super().decode
        decode(body, count, base_timestamp)
        return _Late(lambda: decode(body, count, base_timestamp), count)


class FailsLate(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[Message]:  # type: ignore[override]
        decode, copy = super().decode, bytes(body)
        return _Late(lambda: decode(copy, count, base_timestamp), count)


class GivesAnIterator(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        found = super().decode(body, count, base_timestamp)
        return _Once(found)  # type: ignore[return-value]


class _Once:
    def __init__(self, found: list[Message]) -> None:
        self.found = found

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.found)


class IgnoresTheRest(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        for end in range(len(body), len(body) - 2, -1):
            try:
                return super().decode(bytes(body[:end]), count, base_timestamp)
            except CodecError as error:
                fault = error
        raise fault


class IgnoresTheCount(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        for actual in (count, 3):
            try:
                return super().decode(body, actual, base_timestamp)
            except CodecError as error:
                fault = error
        raise fault


class GivesNoPosition(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        try:
            return super().decode(body, count, base_timestamp)
        except CodecError:
            raise CodecError("bad bytes") from None


class LeaksErrors(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        try:
            return super().decode(body, count, base_timestamp)
        except CodecError as error:
            raise ValueError(str(error)) from None


class ActsOnTags(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        try:
            return super().decode(body, count, base_timestamp)
        except CodecError:
            plain = bytes(body).replace(b"\xc2\x49\x01" + bytes(8), b"\x00")  # a bignum, read as some integer
            return super().decode(plain, count, base_timestamp)


class CoercesTypes(Cbor2Codec):
    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        loose = [Message(_as_bytes(m.payload), m.key, m.headers, m.timestamp) for m in messages]
        return super().encode(loose, base_timestamp)


def _as_bytes(payload: object) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload  # type: ignore[return-value]


class WritesLongHeads(Cbor2Codec):
    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        return super().encode(messages, base_timestamp).replace(b"\x84", b"\x98\x04", 1)


class WritesAFrame(Cbor2Codec):
    """Its areas cannot be joined."""

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> bytes:
        return b"\xd9\xd9\xf7" + super().encode(messages, base_timestamp) if messages else b""

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        return super().decode(bytes(body[3:]), count, base_timestamp)


class RefusesIndefinite(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        try:
            cbor2.loads(bytes((0x9A, *count.to_bytes(4, "big"))) + body, allow_indefinite=False)
        except (cbor2.CBORError, OverflowError):
            raise CodecError("byte 0: indefinite") from None
        return super().decode(body, count, base_timestamp)


class TakesTheAnnouncedMemory(Cbor2Codec):
    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        if count == 2**16:
            bytearray(100 * count)
        return super().decode(body, count, base_timestamp)


class BreaksAfterAnError(Cbor2Codec):
    def __init__(self) -> None:
        self.broken = False

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> list[Message]:
        try:
            found = super().decode(body, count, base_timestamp)
        except CodecError:
            self.broken = True
            raise
        return found[::-1] if self.broken else found


class GathersChunks(Cbor2Codec):
    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        return super().encode_stream(message, list(payload), base_timestamp)


class _HoldsBack(RecordDecoder):
    def feed(self, data: Buffer) -> Iterator[bytes]:
        self.held = [*getattr(self, "held", []), *super().feed(data)]
        if not self.done:
            return iter(())
        held, self.held = self.held, []
        return iter(held)


class HoldsPayloadsBack(Cbor2Codec):
    def stream_decoder(self, base_timestamp: int) -> RecordDecoder:
        return _HoldsBack(base_timestamp)


class _Forgives(RecordDecoder):
    def feed(self, data: Buffer) -> Iterator[bytes]:
        return iter(()) if self.done else super().feed(data)


class IgnoresWhatFollowsAStream(Cbor2Codec):
    def stream_decoder(self, base_timestamp: int) -> RecordDecoder:
        return _Forgives(base_timestamp)
