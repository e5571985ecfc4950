"""FETCH: one read without a subscription.

The answer is what is alive: records past their TTL are passed over, and as an empty answer means that nothing is
there yet, the read goes on until it finds something or the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from portask.core.delivery import READ_LIMIT
from portask.core.partitions import Partition
from portask.core.session import Session
from portask.errors import LocalProtocolError, PortaskError, UnknownPartition
from portask.messages import Buffer
from portask.wire import batches
from portask.wire.frames import REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker


class Fetch:
    """One request, from its start offset to its answer. It counts as being read in ``session.reading`` meanwhile.

    Args:
        broker: Whose storage is read.
        session: Who asked.
        frame: The request.
        partition: Where to read.
        limit: About how many bytes.
    """

    __slots__ = ("_broker", "_busy", "_frame", "_limit", "_next", "_partition", "_session", "_step")

    def __init__(
        self, broker: Broker, session: Session, frame: Frame, partition: Partition, limit: int
    ) -> None:
        self._broker = broker
        self._session = session
        self._frame = frame
        self._partition = partition
        self._limit = self._step = max(1, min(limit, session.connection.max_batch))
        self._next = -1
        self._busy = False
        session.reading += self._limit

    def start(self, offset: int, error: PortaskError | None) -> None:
        """The storage knows where to begin."""
        if error is not None:
            self._refuse(error)
        else:
            self._read_on(offset)

    def _read_on(self, offset: int) -> None:
        self._next = offset
        if self._busy:
            return  # the storage called back before its `read` returned: the loop below goes on
        self._busy = True
        while self._next >= 0:
            offset, self._next = self._next, -1
            self._broker.storage.read(self._partition.key, offset, self._step, self._read)
        self._busy = False

    def _read(self, found: Sequence[Buffer], error: PortaskError | None) -> None:
        if error is not None and not isinstance(error, UnknownPartition):
            self._refuse(error)
            return
        alive = [batch for batch in found if not batches.expired(batch, self._broker.now)]
        if found and not alive and not self._session.gone:
            last, _, count, _ = batches.peek(found[-1])
            self._step = max(self._limit, READ_LIMIT)
            self._read_on(last + count)
            return
        session, frame = self._session, self._frame
        parts: list[Buffer] = []
        size = 0
        for batch in alive:
            length = len(batch)
            if parts and size + length > self._limit:
                break
            parts.append(batch)
            size += length
        if size > session.connection.max_batch:
            text = f"a batch of {size:,} bytes is above this connection's max_frame"
            self._refuse(LocalProtocolError(text))
            return
        if not session.gone:
            session.connection.send_parts(
                Opcode.DELIVER, parts, size, frame.correlation, frame.channel, REPLY
            )
        self._end(size)

    def _refuse(self, error: PortaskError) -> None:
        self._session.refuse(error, self._frame.correlation, self._frame.channel)
        self._end(0)

    def _end(self, size: int) -> None:
        self._session.reading -= self._limit
        self._session.answered += size
        self._broker.mark(self._session)
