"""Frames: a 24-byte header and a body.

::

    off size field           little-endian, "<4sBBHIIII"
      0    4 magic           b"PORT"
      4    1 version         2
      5    1 opcode          `Opcode`
      6    2 flags           bit 0 REPLY; bit 1 WINDOW, of a DELIVER to a group's member (`portask.wire.windows`);
                             the others are reserved, zero, and rejected otherwise
      8    4 body length     bytes that follow the header
     12    4 correlation id  0 for one-way; an answer carries its request's
     16    4 channel         what the frame belongs to; 0 for the connection itself
     20    4 CRC32C          of bytes 0-19

The header has a checksum of its own because everything after it depends on the length: a flipped bit there
would make garbage of all that follows. Bodies are covered by their own checksums (batches) or by their
structure (CBOR).

`FrameParser` takes bytes cut anywhere. Frames that lie whole in one piece are views into that piece, not
copies; only a frame that is cut is put together in a buffer of its own, which grows as bytes arrive: a header
alone, whatever length it announces, costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from struct import Struct

import msgspec
from crc32c import crc32c

from portask.errors import FrameTooLarge, LocalProtocolError, RemoteProtocolError
from portask.messages import Buffer, RecordBatch
from portask.wire import accelerate

MAGIC = b"PORT"
VERSION = 2
HEADER_SIZE = 24
HELLO_LIMIT = 8 * 1024
"""Body limit before the handshake is complete, bytes."""
DEFAULT_LIMIT = 8 * 1024 * 1024
"""Body limit that both sides offer unless configured otherwise, bytes."""

REPLY = 1
"""Flag: this frame answers a request of the same opcode."""
WINDOW = 2
"""Flag: the body of this DELIVER begins with a window, `WINDOW_SIZE` bytes that the limit of bodies does not count."""
WINDOW_SIZE = 24

_HEADER = Struct("<4sBBHIIII")
_CHECKED = Struct("<4sBBHIII")


class Opcode(IntEnum):
    """What a frame is for. Bodies are CBOR maps (`portask.wire.control`) except where a record batch is named."""

    HELLO = 1
    WELCOME = 2
    ERROR = 3
    PING = 4
    PONG = 5
    DRAIN = 6
    OPEN = 16
    PUBLISH = 17
    """Body: one record batch."""
    PUBACK = 18
    SEND = 19
    """Body: the name of an inbox, one record batch (`portask.wire.inboxes`)."""
    SUBSCRIBE = 32
    UNSUBSCRIBE = 33
    DELIVER = 34
    """Body: one or more record batches, back to back."""
    CREDIT = 35
    ACK = 36
    NACK = 37
    FETCH = 48
    DESCRIBE = 49
    DROP_GROUP = 50


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One parsed frame. ``body`` is a view, valid as long as the bytes that were fed are, or bytes of its own.

    ``batch`` is what `portask.wire.batches.parse` would make of the body, if whoever parsed the frame checked that
    as well; the limit of raw bytes is left to the reader.
    """

    opcode: int
    flags: int
    correlation: int
    channel: int
    body: Buffer
    batch: RecordBatch | None = None


Outgoing = tuple[int, int, int, int, int, Sequence[Buffer]]
"""A frame on its way out: opcode, flags, body length, correlation id, channel, and the body's parts in order."""


def encode(frames: Iterable[Outgoing]) -> list[Buffer]:
    """The frames as what is written: headers, and the parts of their bodies as they are."""
    out: list[Buffer] = []
    for opcode, flags, length, correlation, channel, parts in frames:
        out.append(frame_header(opcode, length, correlation, channel, flags))
        out += parts
    return out


def frame_header(opcode: int, length: int, correlation: int = 0, channel: int = 0, flags: int = 0) -> bytes:
    """The 24 bytes before a body of ``length`` bytes. About 0.5 µs."""
    head = _CHECKED.pack(MAGIC, VERSION, opcode, flags, length, correlation, channel)
    return head + crc32c(head).to_bytes(4, "little")


class FrameParser:
    """Bytes in, frames out.

    Attributes:
        limit: Largest body accepted, bytes. A larger one is refused when its header is read.
        flags: Those that may be set.
        failed: What was wrong with the stream, once something was. Nothing can be parsed after it.
    """

    __slots__ = ("_length", "_pending", "_scan", "failed", "flags", "limit")

    def __init__(self, limit: int = HELLO_LIMIT, flags: int = REPLY) -> None:
        self.limit = limit
        self.flags = flags
        self.failed: RemoteProtocolError | None = None
        self._pending: bytearray | None = None
        self._length = 0  # of the frame in `_pending`, header included; 0 while its header is incomplete
        self._scan = accelerate.helper("scan_frames") or scan_frames

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete frame."""
        return len(self._pending) if self._pending is not None else 0

    def feed(self, data: Buffer) -> list[Frame]:
        """The frames that ``data`` completes. After a fault: those before it, and `failed` says what it was."""
        frames: list[Frame] = []
        if self.failed is not None:
            return frames
        view = memoryview(data)
        try:
            start = self._complete(view, frames) if self._pending is not None else 0
            self._whole(view, start, frames)
        except RemoteProtocolError as fault:
            self.failed = fault
            self._pending = None
        return frames

    def _whole(self, view: memoryview, start: int, frames: list[Frame]) -> None:
        """Frames that lie whole in ``view``; keeps a copy of what is left."""
        stop, length = self._scan(view, start, self.limit, self.flags, frames)
        if length < 0:
            raise refusal(view[stop : stop + HEADER_SIZE], self.limit, self.flags)
        if stop < len(view):
            self._pending = bytearray(view[stop:])
            self._length = length

    def _complete(self, view: memoryview, frames: list[Frame]) -> int:
        """Adds to the frame that was cut; returns how much of ``view`` it took."""
        pending = self._pending
        assert pending is not None  # noqa: S101 - for the type checker: the caller looked
        taken = 0
        if not self._length:
            taken = min(HEADER_SIZE - len(pending), len(view))
            pending += view[:taken]
            if len(pending) < HEADER_SIZE:
                return taken
            magic, version, _, flags, length, _, _, check = _HEADER.unpack(pending)
            if (
                crc32c(memoryview(pending)[:20]) != check
                or magic != MAGIC
                or version != VERSION
                or flags & ~self.flags
                or (length > self.limit and not fits_as_window(length, self.limit, flags))
            ):
                raise refusal(pending, self.limit, self.flags)
            self._length = HEADER_SIZE + length
        missing = self._length - len(pending)
        part = view[taken : taken + missing]
        pending += part
        if len(part) < missing:
            return len(view)
        _, _, opcode, flags, _, correlation, channel, _ = _HEADER.unpack_from(pending)
        frames.append(Frame(opcode, flags, correlation, channel, memoryview(pending)[HEADER_SIZE:]))
        self._pending = None
        self._length = 0
        return taken + missing


def scan_frames(view: memoryview, start: int, limit: int, flags: int, frames: list[Frame]) -> tuple[int, int]:
    """Appends the frames that lie whole in ``view``, from ``start`` on. About 0.5 µs a frame.

    Args:
        view: What was received.
        start: Where to begin.
        limit: Largest body accepted, bytes.
        flags: Those that may be set.
        frames: Where they go.

    Returns:
        Where it stopped, and the length, header included, of the frame that begins there: 0 while it is not known, -1
        if its header is refused (see `refusal`).
    """
    size = len(view)
    while size - start >= HEADER_SIZE:
        magic, version, opcode, set_flags, length, correlation, channel, check = _HEADER.unpack_from(
            view, start
        )
        if (
            crc32c(view[start : start + 20]) != check
            or magic != MAGIC
            or version != VERSION
            or set_flags & ~flags
            or (length > limit and not fits_as_window(length, limit, set_flags))
        ):
            return start, -1
        end = start + HEADER_SIZE + length
        if end > size:
            return start, HEADER_SIZE + length
        frames.append(Frame(opcode, set_flags, correlation, channel, view[start + HEADER_SIZE : end]))
        start = end
    return start, 0


def refusal(header: Buffer, limit: int, allowed: int) -> RemoteProtocolError:
    """What is wrong with a header that was refused, 24 bytes.

    The order matters: a stream that is no Portask at all should be told so.
    """
    magic, version, opcode, flags, length, _, _, check = _HEADER.unpack(header)
    if magic != MAGIC:
        return RemoteProtocolError(f"not a Portask frame: begins with {magic!r} instead of {MAGIC!r}")
    if crc32c(memoryview(header)[:20]) != check:
        return RemoteProtocolError("a frame header is damaged: its checksum does not match")
    if version != VERSION:
        return RemoteProtocolError(f"frame version {version} is not spoken here: this is version {VERSION}")
    if flags & ~allowed:
        return RemoteProtocolError(f"reserved frame flags are set: {flags:#06x}")
    return FrameTooLarge(
        f"a frame (opcode {opcode}) of {length:,} bytes is above the limit of {limit:,}: "
        "send smaller batches or raise limits.max_frame_bytes"
    )


def fits_as_window(length: int, limit: int, flags: int) -> bool:
    """Whether a body above the limit is so only by the window in front of its batches."""
    return bool(flags & WINDOW) and length <= limit + WINDOW_SIZE


def too_large_for_peer(length: int, limit: int) -> LocalProtocolError:
    """What to raise instead of sending what the peer said it would not take."""
    return LocalProtocolError(f"a body of {length:,} bytes is above the negotiated limit of {limit:,}")
