"""Wire id 1 in Rust: whole batches straight between Python objects and bytes.

The grammar is `rust/codec/records.rs`. Streams pass one record in many pieces and cost what their I/O costs:
they use the reference's Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from portask.contracts import StreamDecoder
from portask.messages import Buffer, Message
from portask.reference import streaming
from portask_native import _native


class NativeCodec:
    """Wire id 1, byte-identical to the reference. Stateless; thread-safe. Errors give the byte position.

    A plain message costs about 20 ns to encode; to decode, mostly what it costs to make its objects, about 60 ns.
    """

    wire_id = 1
    encode = staticmethod(_native.encode)
    decode = staticmethod(_native.decode)

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """See `portask.contracts.StreamingCodec.encode_stream`."""
        return streaming.encode(message, payload, base_timestamp)

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """See `portask.contracts.StreamingCodec.stream_decoder`."""
        return streaming.RecordDecoder(base_timestamp)
