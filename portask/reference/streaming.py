"""One record in pieces, for a payload that nobody wants whole in memory.

On the wire the payload is an indefinite-length byte string: ``0x5f``, then byte strings of definite length,
then the break ``0xff`` (RFC 8949 §3.2.3). Such a record is an ordinary one to every decoder of wire id 1.

The decoder reads the same grammar as everybody else, but its input may be cut anywhere, and it must not keep
what it has passed on. It is written as a generator that suspends wherever the bytes run out: `feed` sets the
new input and resumes it, so that the grammar reads from top to bottom and the place in it needs no state
variables. What it buffers is the item being read in the record's head (delta, key, headers) or a chunk's
head. A head may declare any size, so the sum of what the head brings is limited: beyond `HEAD_LIMIT` the
record is refused before its bytes are awaited.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

import cbor2

from portask.errors import CodecError
from portask.messages import Buffer, Message
from portask.reference.records import row

HEAD_LIMIT = 1 << 20
"""Bytes that delta, key and headers of a streamed record may have together."""

_ARRAY_OF_4, _NULL, _BREAK, _INDEFINITE_BYTES = b"\x84", 0xF6, 0xFF, b"\x5f"
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP = range(6)
_NAMES = (
    "an unsigned integer",
    "a negative integer",
    "a byte string",
    "a text string",
    "an array",
    "a map",
    "a tag",
    "a simple value or a float",
)


def encode(message: Message, payload: Iterable[Buffer], base_timestamp: int) -> Iterator[bytes]:
    """The record in pieces: its head, then head and bytes of each chunk, then the break. Holds one chunk.

    Args:
        message: Key, headers and timestamp; its payload must be empty.
        payload: The payload's bytes in order, cut as the caller likes; empty chunks are left out.
        base_timestamp: As in `portask.contracts.Codec.encode`.

    Raises:
        CodecError: a field, or a chunk once its turn comes, has a type that the wire does not carry.
    """
    delta, key, headers, given = row(message, 0, base_timestamp)
    if given:
        raise CodecError("message 0: its payload comes in chunks, so the message's own must be b''")
    head = _ARRAY_OF_4 + cbor2.dumps(delta) + cbor2.dumps(key) + cbor2.dumps(headers) + _INDEFINITE_BYTES
    return _pieces(head, payload)


def _pieces(head: bytes, payload: Iterable[Buffer]) -> Iterator[bytes]:
    yield head
    for index, chunk in enumerate(payload):
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise CodecError(f"chunk {index} is {type(chunk).__name__}: pass bytes, bytearray or memoryview")
        data = bytes(chunk)
        if data:
            yield _bytes_head(len(data))
            yield data
    yield bytes((_BREAK,))


def _bytes_head(size: int) -> bytes:
    if size < 24:
        return bytes((0x40 | size,))
    for width, marker in ((1, 0x58), (2, 0x59), (4, 0x5A)):
        if size < 1 << 8 * width:
            return bytes((marker,)) + size.to_bytes(width, "big")
    return b"\x5b" + size.to_bytes(8, "big")


class RecordDecoder:
    """Decodes one record fed in pieces cut anywhere (`portask.contracts.StreamDecoder`).

    Takes definite payloads as well as indefinite ones. Once it has raised, it raises on every further `feed`.

    Attributes:
        message: Key, headers and timestamp, the payload empty; ``None`` until the payload begins.
        done: The record is complete.
    """

    def __init__(self, base_timestamp: int) -> None:
        self.message: Message | None = None
        self.done = False
        self._base = base_timestamp
        self._input = b""
        self._at = 0
        self._passed = 0  # bytes of earlier inputs
        self._left = HEAD_LIMIT
        self._pieces: list[bytes] = []
        self._error = ""
        self._steps = self._record()
        next(self._steps)

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """The payload bytes that ``data`` brings. Reads all of ``data`` at once, also if no piece is taken.

        Raises:
            CodecError: not a record, or bytes after its end; the text counts bytes from the record's first.
        """
        if self._error:
            raise CodecError(self._error)
        self._passed += len(self._input)
        self._input, self._at = bytes(data), 0
        try:
            next(self._steps)
        except CodecError as error:
            self._error = str(error)
            self._pieces.clear()
            raise
        pieces, self._pieces = self._pieces, []
        return iter(pieces)

    # ── the grammar ──

    def _record(self) -> Generator[None, None, None]:
        first = yield from self._byte()
        size = yield from self._expect(_ARRAY, "the record", first)
        if size not in {4, None}:
            raise self._fault(f"the record is an array of {size} items, not of four")
        delta = yield from self._delta()
        key = yield from self._key()
        headers = yield from self._headers()
        first = yield from self._byte()
        length = yield from self._expect(_BYTES, "the payload", first, bounded=False)
        self.message = Message(b"", key, headers or None, self._base + delta)
        if length is not None:
            yield from self._pass_on(length)
        else:
            while (first := (yield from self._byte())) != _BREAK:
                chunk = yield from self._chunk(_BYTES, "the payload", first, bounded=False)
                yield from self._pass_on(chunk)
        if size is None and (yield from self._byte()) != _BREAK:
            raise self._fault("the record's array goes on after its fourth item")
        self.done = True
        while True:
            if self._at < len(self._input):
                raise self._fault("bytes after the end of the record", back=0)
            yield

    def _delta(self) -> Generator[None, None, int]:
        first = yield from self._byte()
        if first >> 5 not in {_UNSIGNED, _NEGATIVE}:
            raise self._fault(f"the timestamp delta is {_NAMES[first >> 5]}")
        value = yield from self._argument(first)
        if value is None:
            raise self._fault("an integer has no indefinite length")
        return value if first >> 5 == _UNSIGNED else -1 - value

    def _key(self) -> Generator[None, None, bytes | None]:
        first = yield from self._byte()
        if first == _NULL:
            return None
        return (yield from self._string(_BYTES, "the key", first))[0]

    def _headers(self) -> Generator[None, None, dict[str, str | bytes] | None]:
        first = yield from self._byte()
        if first == _NULL:
            return None
        pairs = yield from self._expect(_MAP, "the headers", first)
        headers: dict[str, str | bytes] = {}
        seen = 0
        while pairs is None or seen < pairs:
            first = yield from self._byte()
            if pairs is None and first == _BREAK:
                break
            _, name = yield from self._string(_TEXT, "a header's name", first)
            first = yield from self._byte()
            kind = _BYTES if first >> 5 == _BYTES else _TEXT
            data, text = yield from self._string(kind, "a header's value", first)
            headers[name] = data if kind == _BYTES else text
            seen += 1
        return headers

    def _string(self, major: int, what: str, first: int) -> Generator[None, None, tuple[bytes, str]]:
        """A string as bytes and, for text, as text; each chunk is UTF-8 by itself (RFC 8949 §3.2.3)."""
        length = yield from self._expect(major, what, first)
        if length is not None:
            data = yield from self._take(length)
            return data, self._text(data) if major == _TEXT else ""
        chunks: list[bytes] = []
        texts: list[str] = []
        while (first := (yield from self._byte())) != _BREAK:
            size = yield from self._chunk(major, what, first)
            chunks.append((yield from self._take(size)))
            if major == _TEXT:
                texts.append(self._text(chunks[-1]))
        return b"".join(chunks), "".join(texts)

    def _expect(
        self, major: int, what: str, first: int, *, bounded: bool = True
    ) -> Generator[None, None, int | None]:
        if first >> 5 != major:
            raise self._fault(f"{what} is {_NAMES[first >> 5]}, not {_NAMES[major]}")
        value = yield from self._argument(first)
        if bounded and value is not None:
            self._check_limit(value)
        return value

    def _chunk(
        self, major: int, what: str, first: int, *, bounded: bool = True
    ) -> Generator[None, None, int]:
        size = yield from self._expect(major, f"a chunk of {what}", first, bounded=bounded)
        if size is None:
            raise self._fault(f"a chunk of {what} has an indefinite length")
        return size

    def _argument(self, first: int) -> Generator[None, None, int | None]:
        """The argument of a head, ``None`` for an indefinite length (RFC 8949 §3)."""
        info = first & 31
        if info < 24:
            return info
        if info < 28:
            return int.from_bytes((yield from self._take(1 << info - 24)), "big")
        if info < 31:
            raise self._fault(f"additional information {info} is reserved")
        return None

    # ── the input ──

    def _byte(self) -> Generator[None, None, int]:
        while self._at == len(self._input):
            yield
        self._at += 1
        if self.message is None:
            self._left -= 1
            self._check_limit(0)
        return self._input[self._at - 1]

    def _take(self, size: int) -> Generator[None, None, bytes]:
        """The next ``size`` bytes, gathered; the caller has checked that the limit allows them."""
        gathered = bytearray()
        while len(gathered) < size:
            if self._at == len(self._input):
                yield
            part = self._input[self._at : self._at + size - len(gathered)]
            self._at += len(part)
            gathered += part
        if self.message is None:
            self._left -= size
        return bytes(gathered)

    def _pass_on(self, size: int) -> Generator[None, None, None]:
        while size:
            if self._at == len(self._input):
                yield
            part = self._input[self._at : self._at + size]
            if part:
                self._at += len(part)
                size -= len(part)
                self._pieces.append(part)

    def _check_limit(self, size: int) -> None:
        if size > self._left:
            raise self._fault(
                f"delta, key and headers of a streamed record may have {HEAD_LIMIT} bytes, not more"
            )

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._fault(f"text is not UTF-8 ({error.reason})") from None

    def _fault(self, reason: str, back: int = 1) -> CodecError:
        return CodecError(f"byte {self._passed + self._at - back}: {reason}")
