"""PUBLISH: a batch goes to the storage; once it is stored, it is acknowledged and goes out to who waits for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from portask.core.producers import append_once
from portask.core.session import Channel, Session
from portask.errors import Draining, PortaskError, RemoteProtocolError
from portask.messages import RecordBatch
from portask.wire import batches
from portask.wire.frames import Frame

if TYPE_CHECKING:
    from portask.core.broker import Broker


def publish(broker: Broker, session: Session, frame: Frame) -> None:
    """PUBLISH.

    Raises:
        RemoteProtocolError: the channel is not open.
        Draining: the broker is going away.
        BatchError: the batch is damaged or too large.
        Later: there is no room for it now.
    """
    number = frame.channel
    channel = session.channels.get(number)
    if channel is None:
        raise RemoteProtocolError(f"PUBLISH on channel {number}, which was not opened")
    if broker.draining:
        raise Draining("this broker is going away: publish to another, or later")
    batch = frame.batch
    if batch is None or batch.raw_length > broker.options.max_raw:
        batch = batches.parse(frame.body, broker.options.max_raw)
    broker.shortage.check(session, len(batch.data))
    slot = [frame.correlation, -1, len(batch.data)]
    if session.meter is not None:
        session.meter.spend(batch.count, slot[2], broker.now)
    if frame.correlation:
        channel.slots.append(slot)
        session.unacked += slot[2]
    stored = partial(_stored, broker, channel, slot, batch, broker.turns)
    if batch.sequence and batch.producer:
        append_once(broker, channel.partition, batch, stored, partial(_known, broker, channel, slot))
    else:
        broker.storage.append(channel.partition.key, batch, broker.now, stored)


def _stored(  # noqa: PLR0917 - the first five are bound when the batch arrives
    broker: Broker,
    channel: Channel,
    slot: list[int],
    batch: RecordBatch,
    turn: int,
    offset: int,
    error: PortaskError | None,
) -> None:
    """The storage has a batch that came in that turn, or will not have it."""
    if error is not None:
        _lost(broker, channel, slot, error)
        return
    partition = channel.partition
    partition.grown += len(batch.data)
    following = offset + batch.count
    # another broker on the same store may have appended more meanwhile
    if following > partition.next:  # noqa: PLR1730 - once a batch, and `max` is a call
        partition.next = following
    if slot[0]:
        slot[1] = offset
        channel.session.acking[channel] = None
    if turn == broker.turns and broker.in_turn:
        partition.fresh.append((offset, batch))  # it may go out without being read back
        broker.touched[partition] = None
        return
    partition.fresh.clear()  # the arrival's bytes are gone: readers go to the storage
    broker.mark(channel.session)
    broker.touch(partition)


def _lost(broker: Broker, channel: Channel, slot: list[int], error: PortaskError) -> None:
    session = channel.session
    if slot[0]:
        channel.slots.remove(slot)
        session.unacked -= slot[2]
    session.flush_acks()
    session.refuse(error, slot[0], channel.number)
    broker.mark(session)


def _known(broker: Broker, channel: Channel, slot: list[int], offset: int, _: PortaskError | None) -> None:
    """It came before, and is stored since."""
    if slot[0]:
        slot[1] = offset
        channel.session.acking[channel] = None
        broker.mark(channel.session)
