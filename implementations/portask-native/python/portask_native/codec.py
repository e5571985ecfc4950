"""Wire id 1 in Rust: whole batches straight between Python objects and bytes.

The grammar is `rust/codec/records.rs`. Streams pass one record in many pieces and cost what their I/O costs:
they use the reference's Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from portask.contracts import StreamDecoder
from portask.messages import Buffer, Message
from portask.reference import streaming
from portask_native import _native


class _Codec:
    """What both share. Stateless; thread-safe. A plain message costs about 20 ns to encode."""

    wire_id = 1
    encode = staticmethod(_native.encode)

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """See `portask.contracts.StreamingCodec.encode_stream`."""
        return streaming.encode(message, payload, base_timestamp)

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """See `portask.contracts.StreamingCodec.stream_decoder`."""
        return streaming.RecordDecoder(base_timestamp)


class NativeCodec(_Codec):
    """Wire id 1, byte-identical to the reference. Errors give the byte position.

    A plain message costs about 55 ns to decode, most of which is making its objects.
    """

    decode = staticmethod(_native.decode)


class NativeLazyCodec(_Codec):
    """Like `NativeCodec`, but a message is made when it is looked at, each time anew.

    `decode` checks all bytes and takes about 10 ns a message; looking at one costs about 75 ns. For consumers that skip
    most of what they receive, or keep it for later; whoever looks at everything is better off with `NativeCodec`.

    Args:
        views: Payloads are read-only memoryviews of the record area instead of copies of their bytes. Saves the
            copy, which matters from about 8 KiB a payload on; the whole area stays in memory as long as one of
            them, and not everything that takes bytes takes a memoryview.
    """

    def __init__(self, *, views: bool = False) -> None:
        self._views = views

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[Message]:
        """See `portask.contracts.Codec.decode`. Keeps ``body`` alive if it cannot change, else a copy of it."""
        return _native.decode_lazily(body, count, base_timestamp, self._views)


Sequence.register(_native.LazyMessages)
