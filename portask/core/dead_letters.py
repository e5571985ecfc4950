"""Records that were delivered too often: published to another topic, with the reason in their headers.

A dead letter is the message as it was, key, headers and timestamp included, with headers of its own beside them. So it
can be read like any message, and published again where it came from. This is the one place where the broker decodes
records; how that is done is handed in (`Rewrite`), because the core knows no codec.

A dead letter is stored before its record counts as done, so a crash between the two publishes it twice and never loses
it. One that cannot be stored now (no room, no such topic) is tried again after the group's ``ack_wait``.

Everybody waits while a batch is opened, and a few bytes can unfold into millions of records. So a batch is opened once
for all its records that are given up, only if it `opens`, and a turn does no more than a bounded part of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from portask.core.delivery import READ_LIMIT
from portask.core.groups import Share
from portask.core.partitions import Topic
from portask.core.ranges import NEVER, Range
from portask.errors import OffsetOutOfRange, PortaskError, StorageError
from portask.messages import Buffer, RecordBatch
from portask.wire import batches

if TYPE_CHECKING:
    from portask.core.broker import Broker
    from portask.core.coordinator import Coordinator

log = structlog.get_logger("portask.broker")

REASON = "portask-dead-reason"
GROUP = "portask-dead-group"
TOPIC = "portask-dead-topic"
PARTITION = "portask-dead-partition"
OFFSET = "portask-dead-offset"
OFFSETS = "portask-dead-offsets"
"""Of a batch that went aside as it is: which of its records are meant, where that is more than one range."""
DELIVERIES = "portask-dead-deliveries"

Letter = Callable[[int, int, Mapping[str, str]], bytes]
"""``letter(first, last, headers)``: a batch of the records at the offsets ``first`` to ``last`` of a batch, each with
``headers`` and its offset as `OFFSET` added to its own. May raise `PortaskError`."""
Rewrite = Callable[[RecordBatch], Letter]
"""Opens a batch, if it `opens`."""

Span = tuple[int, int]
"""Offsets, first and last."""
_SPANS = 1000
"""Most that one dead letter names."""
MOST = 32 << 20
"""What a batch may cost to be opened, and about what a turn spends, in bytes: tenths of a second at the worst."""
_RECORD = 1024
"""What a record costs beside its bytes, in bytes."""
_LETTER = 64 << 10
"""What a dead letter costs beside that."""
_PART = 512 * 1024
"""Bytes that a batch of dead letters has, about, before headers are added: any client can take it."""
_RETRY = 1_000_000
"""µs at least between attempts to store a dead letter."""


def cost(batch: RecordBatch) -> int:
    """Of opening it, in bytes."""
    return batch.raw_length + _RECORD * batch.count


def opens(batch: RecordBatch) -> bool:
    """Whether it may be opened here; if not, its dead letter is the batch as it is."""
    return cost(batch) <= MOST


class DeadLetters:
    """Makes dead letters of what shares gave up."""

    def __init__(self, broker: Broker, hub: Coordinator, rewrite: Rewrite) -> None:
        self._broker = broker
        self._hub = hub
        self._rewrite = rewrite
        self._reading: set[Share] = set()
        self._failing: set[Share] = set()
        self._spent = 0  # in this turn

    def bury(self, now: int) -> None:
        """One read for every share that gave something up; the rest follows in the next turn."""
        waiting = list(self._hub.dying)
        self._hub.dying.clear()
        self._spent = 0
        for share in waiting:
            share.dying = [each for each in share.dying if each.due == NEVER]
            if not share.dying or share in self._reading:
                continue
            if self._spent > MOST:
                self._hub.dying[share] = None
            else:
                self._read(share, now)

    def _read(self, share: Share, now: int) -> None:
        offset = min(each.first for each in share.dying)
        self._reading.add(share)

        def done(found: Sequence[Buffer], error: PortaskError | None) -> None:
            self._reading.discard(share)
            ranges = [each for each in share.dying if each.due == NEVER]
            if isinstance(error, OffsetOutOfRange):
                for each in ranges:
                    if each.first < error.first:
                        share.skip(each.first, min(each.last, error.first - 1))
                if offset >= error.first:
                    share.verify(error.next)
            elif error is not None or not found:
                error = error or StorageError(f"nothing is to be read at offset {offset}")
                for each in ranges:
                    self._later(share, [(each.first, each.last)], now, error)
            else:
                self._publish(share, ranges, found, offset, now)
            share.dying = [each for each in share.dying if each.due == NEVER]
            if share.dying:
                self._hub.dying[share] = None

        self._broker.storage.read(share.partition.key, offset, READ_LIMIT, done)

    def _publish(
        self, share: Share, ranges: list[Range], found: Sequence[Buffer], start: int, now: int
    ) -> None:
        """Publishes what of the ranges lies in the batches that were read from ``start`` on, as far as a turn goes."""
        position = start
        for batch in found:
            base, time, count, ttl = batches.peek(batch)
            gone = bool(ttl) and batches.expires_at(time, ttl) <= now
            dead: list[tuple[Range, int, int]] = []
            for each in ranges:
                if each.due != NEVER:
                    continue
                if each.first < base and each.last >= position:
                    share.skip(max(each.first, position), min(each.last, base - 1))
                first, last = max(each.first, base), min(each.last, base + count - 1)
                if each.due != NEVER or first > last:
                    continue
                if gone:
                    share.skip(first, last)
                else:
                    dead.append((each, first, last))
            if dead and not self._publish_from(share, dead, batch, now):
                return
            position = base + count

    def _publish_from(
        self, share: Share, dead: list[tuple[Range, int, int]], batch: Buffer, now: int
    ) -> bool:
        """Publishes what lies in one batch, in parts of about `_PART` bytes. False if this turn did enough."""
        parsed = batches.parse(batch, batches.ANY_RAW_LENGTH)
        whole = not opens(parsed)
        step = parsed.count if whole else max(1, parsed.count * _PART // parsed.raw_length)
        letter = self._rewrite(parsed)
        self._spent += len(batch) if whole else cost(parsed)
        for headers, spans in self._letters(share, dead, step, whole=whole):
            try:
                written = batches.parse(
                    letter(spans[0][0], spans[-1][1], headers), self._broker.options.max_raw
                )
                self._append(share, written, spans, now)
            except PortaskError as error:
                self._later(share, spans, now, error)
            else:
                self._spent += _LETTER + len(written.data)
            if self._spent > MOST:
                return False
        return True

    def _letters(
        self, share: Share, dead: list[tuple[Range, int, int]], step: int, *, whole: bool
    ) -> Iterator[tuple[dict[str, str], list[Span]]]:
        """Headers and records of each: for a batch as it is, of all that have one fate."""
        fates: dict[tuple[str, int], list[Span]] = {}
        for given_up, first, last in dead:
            fates.setdefault((given_up.reason, given_up.deliveries), []).append((first, last))
        for (reason, deliveries), spans in fates.items():
            headers = {
                REASON: reason,
                GROUP: share.group.name,
                TOPIC: share.partition.key.topic,
                PARTITION: str(share.partition.key.partition),
                DELIVERIES: str(deliveries),
            }
            if whole:
                for at in range(0, len(spans), _SPANS):
                    some = spans[at : at + _SPANS]
                    told = {OFFSETS: ",".join(f"{first}-{last}" for first, last in some)}
                    yield (headers | told if len(some) > 1 else headers), some
            else:
                for first, last in spans:
                    for low in range(first, last + 1, step):
                        yield headers, [(low, min(last, low + step - 1))]

    def _append(self, share: Share, written: RecordBatch, spans: list[Span], now: int) -> None:
        key = share.partition.key
        broker = self._broker

        def found(topic: Topic | None, error: PortaskError | None) -> None:
            if topic is None:
                self._later(share, spans, now, error or StorageError("there is no topic for dead letters"))
                return
            target = topic.partitions[key.partition % len(topic.partitions)]
            broker.append(target, written, now, stored)

        def stored(_offset: int, error: PortaskError | None) -> None:
            if error is not None:
                self._later(share, spans, now, error)
                return
            self._failing.discard(share)
            for first, last in spans:
                share.bury(first, last)

        for first, last in spans:
            share.burying(first, last)
        broker.topic(share.group.settings.dead_letters_of(key.topic), 0, found)

    def _later(self, share: Share, spans: list[Span], now: int, error: PortaskError) -> None:
        if share not in self._failing:  # once, and not for each of thousands
            self._failing.add(share)
            log.error(
                "dead letters could not be stored; tried again later",
                group=share.group.name,
                partition=str(share.partition.key),
                first=spans[0][0],
                reason=str(error),
            )
        for first, last in spans:
            share.bury_later(first, last, now + max(share.group.settings.ack_wait, _RETRY))
