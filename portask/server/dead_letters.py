"""How a broker rewrites records as dead letters: with whichever registered codec wrote them.

A batch that cannot be opened here (a codec that is not installed, a dictionary that only clients have, so many records
that everybody would wait for them) must go aside all the same: then the dead letter's payload is the stored batch as it
is, its header `FORM` says so, and the other headers say which of its records are meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from portask import registry
from portask.contracts import Codec
from portask.core.dead_letters import OFFSET, Letter, opens
from portask.errors import BatchError, BatchTooLarge, CodecError
from portask.messages import Buffer, Message, RecordBatch
from portask.reference.codec import Cbor2Codec
from portask.wire import batches
from portask.wire.compression import Dictionaries, decompress

FORM = "portask-dead-form"
"""Header of a dead letter whose payload is not the message's: ``batch``, with the reason in `FORM_REASON`."""
FORM_REASON = "portask-dead-form-reason"
LAST_OFFSET = "portask-dead-last-offset"

_writer = Cbor2Codec()
_no_dictionaries = Dictionaries()


def rewrite(batch: RecordBatch) -> Letter:
    """See `portask.core.dead_letters.Rewrite`. Costs a decoding of the whole batch, if it opens; see `opens`."""
    try:
        if not opens(batch):
            raise BatchTooLarge(
                f"{batch.count:,} records of {batch.raw_length:,} bytes are too much to be opened at the broker"
            )
        messages = _decoded(batch)
    except (BatchError, CodecError) as error:
        return partial(_whole, batch, f"{type(error).__name__}: {error}")
    return partial(_some, batch, messages)


def _some(
    batch: RecordBatch, messages: Sequence[Message], first: int, last: int, headers: Mapping[str, str]
) -> bytes:
    dead = []
    for offset in range(first, last + 1):
        m = messages[offset - batch.base_offset]
        added = {**(m.headers or {}), **headers, OFFSET: str(offset)}
        dead.append(Message(m.payload, m.key, added, m.timestamp))
    return _encoded(dead, batch.base_timestamp)


def _decoded(batch: RecordBatch) -> Sequence[Message]:
    codec = _codec(batch.codec)
    body: Buffer = batch.body
    if batch.attributes:
        body = decompress(batch.attributes, body, batch.raw_length, _no_dictionaries)
    return codec.decode(body, batch.count, batch.base_timestamp)


def _codec(wire_id: int) -> Codec:
    if wire_id == _writer.wire_id:
        return _writer
    for entry in registry.entries("codec"):
        if entry.unavailable() is None:
            target = entry.load()
            if target.wire_id == wire_id:
                codec: Codec = target()
                return codec
    raise CodecError(f"no codec with the wire id {wire_id} is installed at the broker")


def _whole(batch: RecordBatch, reason: str, first: int, last: int, headers: Mapping[str, str]) -> bytes:
    more = {FORM: "batch", FORM_REASON: reason, OFFSET: str(first), LAST_OFFSET: str(last)}
    dead = Message(bytes(batch.data), None, {**headers, **more}, batch.base_timestamp)
    return _encoded([dead], batch.base_timestamp)


def _encoded(messages: Sequence[Message], base: int) -> bytes:
    body = _writer.encode(messages, base)
    return batches.build(body, len(messages), codec=_writer.wire_id, base_timestamp=base)
