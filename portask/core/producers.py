"""Where each idempotent producer stands in each partition, so that nothing is stored twice.

What a batch is, the broker sees by its numbers (`portask.wire.sequences`):

- the next one: it is appended;
- one that came before, a **retry**: it is never appended again. Its ack carries the offset of the first time; if that
  append is still under way (the retry came over a new connection), the ack waits for it;
- one whose predecessor is missing: `OutOfSequence`. Nothing is stored over a gap, for what is missing may still come;
- of an older epoch than the broker knows: `Fenced`. A newer epoch begins anew, with any number.

An append that fails takes its numbers back: the retry is appended. Only when a later batch of the producer is under way
or stored does the failed one stay a failure, and its retry gets the same error: it must not come out of order.

A producer that was refused something, or gave something up, says with OPEN where it goes on.

**What is remembered.** The newest batches of a producer in a partition with their checksums (`KEPT_BATCHES`); of older
ones only that they came. A retry of those is acknowledged with `UNKNOWN_OFFSET`. A batch that has the numbers of a
remembered one and other bytes is no retry: two producers share an id, and that is refused.

A storage that other brokers use as well checks all this by itself (`Sequenced`): no broker knows what came to another.

**What is forgotten.** The table holds `PRODUCERS` pairs of a producer and a partition; beyond that, the pair that is
idle for longest goes. Storages that are `Producers` know its last batch still, also after a restart, until its records
are trimmed. Of a producer that nobody knows any number is taken: a retry that late would be stored again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from portask.contracts import Appended, Producers, Sequenced, Storage
from portask.core.partitions import Partition
from portask.errors import AlreadyStored, Fenced, OutOfSequence, PortaskError
from portask.messages import RecordBatch
from portask.wire import batches, control, sequences

if TYPE_CHECKING:
    from portask.core.broker import Broker

PRODUCERS = 10_000
"""Pairs of a producer and a partition that are remembered: about 0.5 KB each, 3 KB when `KEPT_BATCHES` are."""


class _Sent:
    """One batch that was handed to the storage.

    Attributes:
        first: Its first number; -1 if only the end is known, from the storage.
        last: Its last number.
        check: Its checksum.
        end: Offset of its last record; -1 until it is stored.
        before: The last number that it follows.
        error: Why it could not be stored.
        retries: Who else waits for the outcome.
    """

    __slots__ = ("before", "check", "end", "error", "first", "last", "retries")

    def __init__(self, first: int, last: int, check: int, end: int, before: int) -> None:
        self.first = first
        self.last = last
        self.check = check
        self.end = end
        self.before = before
        self.error: PortaskError | None = None
        self.retries: list[Appended] | None = None

    @property
    def under_way(self) -> bool:
        """Whether the storage did not answer yet."""
        return self.end < 0 and self.error is None

    def is_retried_by(self, batch: RecordBatch) -> bool:
        """Whether ``batch``, which ends with the same number, is the same batch."""
        return self.first < 0 or (self.first == batch.sequence and self.check == batches.checksum(batch.data))


class _Standing:
    """One producer in one partition.

    Attributes:
        epoch: The newest that published.
        last: The last number that came; ``None`` if any may come.
        sent: The newest batches, oldest first.
        under_way: How many of them are not stored yet.
    """

    __slots__ = ("epoch", "last", "sent", "under_way")

    def __init__(self, epoch: int, last: int | None) -> None:
        self.epoch = epoch
        self.last = last
        self.sent: list[_Sent] = []
        self.under_way = 0

    def take_back(self) -> None:
        """The newest batches failed, and nothing of this producer came after them: as if they had never come."""
        while self.sent and self.sent[-1].error is not None:
            failed = self.sent.pop()
            if self.last == failed.last:
                self.last = failed.before


class ProducerTable:
    """Belongs to one broker.

    Attributes:
        duplicates: Records of retries that were not stored again.
        checked_by: The storage, if it checks numbers itself; nothing is remembered here then.
    """

    def __init__(self, storage: Storage, limit: int = PRODUCERS) -> None:
        self.duplicates = 0
        self._limit = limit
        self._stored = storage if isinstance(storage, Producers) else None
        self.checked_by = storage if isinstance(storage, Sequenced) else None
        self._table: dict[tuple[Partition, int], _Standing] = {}  # those that published last come last

    def __len__(self) -> int:
        """Pairs of a producer and a partition."""
        return len(self._table)

    def opened(
        self, partition: Partition, body: control.Open, done: Callable[[PortaskError | None], None]
    ) -> None:
        """A producer says what its next number will be, or that it has not published yet.

        ``done`` gets `Fenced` if somebody uses its id with a newer epoch, or did with this one.
        """
        if self.checked_by is not None:
            self.checked_by.resume(partition.key, body.producer, body.epoch, body.sequence, done)
            return
        try:
            self._take_over(partition, body)
        except Fenced as error:
            done(error)
        else:
            done(None)

    def _take_over(self, partition: Partition, body: control.Open) -> None:
        standing = self._standing(partition, body.producer)
        if standing is None or standing.last is None or body.epoch > standing.epoch:
            return
        if body.epoch < standing.epoch or not body.sequence:
            raise Fenced(
                f"producer {body.producer} published to {partition.key} with epoch {standing.epoch}: "
                f"give a higher producer_epoch than that to take over"
            )
        if sequences.is_before(sequences.following(standing.last), body.sequence):
            standing.last = sequences.preceding(body.sequence)

    def is_retry(self, partition: Partition, batch: RecordBatch, done: Appended) -> bool:
        """Whether the batch came before. If so, ``done`` gets its offset, now or once it is stored.

        Raises:
            OutOfSequence: it is neither a retry nor the next one.
            Fenced: there is a newer epoch.
            PortaskError: it failed the first time, and others were stored behind it.
        """
        producer, epoch = batch.producer, batch.epoch
        standing = self._table.get((partition, producer)) or self._standing(partition, producer)
        if standing is None:
            return False
        if epoch != standing.epoch:
            if epoch < standing.epoch:
                raise Fenced(
                    f"producer {producer} publishes to {partition.key} with epoch {standing.epoch}: {epoch} is over"
                )
            return False
        if standing.last is None:
            return False
        expected = sequences.following(standing.last)
        if batch.sequence == expected:
            return False
        last = sequences.last_of(batch.sequence, batch.count)
        if not sequences.is_before(last, expected):
            raise OutOfSequence(
                f"producer {producer} sent the numbers {batch.sequence} to {last} to {partition.key}, "
                f"where {expected} is next"
            )
        self._retried(standing, last, partition, batch, done)
        return True

    def _retried(
        self, standing: _Standing, last: int, partition: Partition, batch: RecordBatch, done: Appended
    ) -> None:
        offset = control.UNKNOWN_OFFSET
        for sent in reversed(standing.sent):
            if sent.last == last:
                if not sent.is_retried_by(batch):
                    raise OutOfSequence(
                        f"producer {batch.producer} sent other records with the numbers {batch.sequence} to {last} "
                        f"to {partition.key} before: two clients must not share an id and an epoch"
                    )
                if sent.error is not None:
                    raise sent.error
                if sent.under_way:
                    self.duplicates += batch.count
                    sent.retries = [*(sent.retries or ()), done]
                    return
                offset = sent.end - batch.count + 1
                break
        self.duplicates += batch.count
        done(offset, None)

    def admit(self, partition: Partition, batch: RecordBatch, done: Appended) -> Appended:
        """The batch is about to be appended: what the storage must call in place of ``done``."""
        key = partition, batch.producer
        standing = self._table.pop(key, None)
        if standing is None or standing.epoch != batch.epoch:
            standing = _Standing(batch.epoch, None)
        self._keep(key, standing)
        last = sequences.last_of(batch.sequence, batch.count)
        before = sequences.preceding(batch.sequence) if standing.last is None else standing.last
        sent = _Sent(batch.sequence, last, batches.checksum(batch.data), -1, before)
        standing.last = last
        standing.under_way += 1
        window = standing.sent
        window.append(sent)
        while len(window) > sequences.KEPT_BATCHES and not window[0].under_way:
            del window[0]
        more = batch.count - 1

        def finished(offset: int, error: PortaskError | None) -> None:
            standing.under_way -= 1
            if error is None:
                sent.end = offset + more
            else:
                sent.error = error
                standing.take_back()
            done(offset, error)
            retries, sent.retries = sent.retries, None
            for retry in retries or ():
                retry(offset, error)

        return finished

    def _standing(self, partition: Partition, producer: int) -> _Standing | None:
        """What is known, by the storage if not here."""
        key = partition, producer
        standing = self._table.get(key)
        if standing is None and self._stored is not None:
            stored = self._stored.producers(partition.key).get(producer)
            if stored is not None:
                epoch, last, end = stored
                standing = _Standing(epoch, last)
                standing.sent.append(_Sent(-1, last, 0, end, last))
                self._keep(key, standing)
        return standing

    def _keep(self, key: tuple[Partition, int], standing: _Standing) -> None:
        table = self._table
        table[key] = standing
        while len(table) > self._limit:
            oldest = next(iter(table))
            idle = table.pop(oldest)
            if idle.under_way:
                table[oldest] = idle  # nobody else knows what is under way; the next look finds another
                return


def append_once(
    broker: Broker, partition: Partition, batch: RecordBatch, done: Appended, known: Appended
) -> None:
    """Appends a numbered batch and calls ``done``; calls ``known`` instead if it came before and is stored."""
    table = broker.producers
    if table.checked_by is not None:

        def checked(offset: int, error: PortaskError | None) -> None:
            if isinstance(error, AlreadyStored):
                table.duplicates += batch.count
                known(error.offset if error.offset >= 0 else control.UNKNOWN_OFFSET, None)
            else:
                done(offset, error)

        broker.storage.append(partition.key, batch, broker.now, checked)
        return

    def repeated(offset: int, error: PortaskError | None) -> None:
        if error is None:
            known(offset, None)
        else:
            done(offset, error)

    try:
        is_retry = table.is_retry(partition, batch, repeated)
    except PortaskError as error:
        done(-1, error)
        return
    if not is_retry:
        broker.storage.append(partition.key, batch, broker.now, table.admit(partition, batch, done))
