"""SEND: one batch to one inbox, without opening a channel.

::

    off size field
      0    1 n                length of the inbox's name
      1    n name             ASCII, begins with `PREFIX`
    1+n      batch            one record batch (`portask.wire.batches`)

A reply goes to somebody who asked once and may never ask again. A channel for each would pile up at both ends; a SEND
leaves nothing behind. It is answered by a SEND without a body, or by ERROR.
"""

from __future__ import annotations

from portask.errors import RemoteProtocolError
from portask.messages import Buffer

PREFIX = "_inbox."
"""Names that begin so are inboxes, never topics."""


def pack(name: str, batch: Buffer) -> bytes:
    """The body of a SEND. ``name`` is a checked name, so it has at most 255 ASCII characters."""
    return b"".join((len(name).to_bytes(1, "little"), name.encode("ascii"), batch))


def unpack(body: memoryview) -> tuple[str, memoryview]:
    """The name and the batch, neither of them checked; the batch is a view.

    Raises:
        RemoteProtocolError: the body is no SEND.
    """
    end = 1 + body[0] if body else 0
    if not 1 < end <= len(body):
        raise RemoteProtocolError("a SEND begins with the length of an inbox's name, and the name")
    try:
        return str(body[1:end], "ascii"), body[end:]
    except UnicodeDecodeError:
        raise RemoteProtocolError("the name of an inbox is ASCII") from None
