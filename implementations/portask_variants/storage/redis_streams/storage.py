"""`RedisStorage` and `RedisClusterStorage`: record batches in streams, one a partition.

The broker's thread keeps what it may be asked at once (`Line`: sizes, what there is); everything else is asked of the
server through `lanes`, and answered from `poll`. What several requests must see as one, a script decides in the server
(`scripts`), so any number of brokers may use one server.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import structlog

from portask.contracts import Appended, Compression, Durability, Found, Read
from portask.errors import ConfigError, PortaskError, StorageError, StorageFull
from portask.messages import RecordBatch, TopicPartition
from portask.wire import batches, sequences
from portask_variants.storage.redis_streams import durability, requests, scripts
from portask_variants.storage.redis_streams.catalog import Catalog
from portask_variants.storage.redis_streams.failures import AT_A_START, explain, is_passing
from portask_variants.storage.redis_streams.grouped import Grouped
from portask_variants.storage.redis_streams.keys import Keys
from portask_variants.storage.redis_streams.lanes import Lanes, Settings
from portask_variants.storage.redis_streams.lines import Line
from portask_variants.storage.redis_streams.link import Link
from portask_variants.storage.redis_streams.news import News, Note, key_of
from portask_variants.storage.redis_streams.outcomes import Ask, Call
from portask_variants.storage.redis_streams.sharing import Sharing

log = structlog.get_logger("portask.storage")

_GATHERED = 1 << 20
"""Bytes of appends after which they are handed over even though the turn goes on."""
_PIPELINE = 4 << 20
_CLOSING = 2.0
"""Seconds that `close` waits for what is under way."""
_stamp = batches.stamp

Saved = Callable[[PortaskError | None], None]


class Streams(Grouped):
    """What both variants do; they differ in the link.

    Implements `Storage`, `Catalog`, `Deferred`, `Gathering`, `Sequenced`, `Shared`, `SharedGroups`, `Explained`,
    `Closeable`.

    Attributes:
        promise: What an acknowledged record survives, as the server told it last.
        healthy: Whether it answered when it was asked last, every ``health_s``.
        load: How busy the owner is, 0 to 1: what the compression strategy is told.
    """

    durability = Durability.SERVER

    def __init__(
        self,
        server: str,
        make_link: Callable[[], Link],
        *,
        prefix: str,
        timeout_s: float,
        attempt_s: float,
        health_s: float,
        lease_s: float,
        linger_ms: float,
        coalesce_bytes: int,
        write_bytes: int,
        buffer_bytes: int,
        wait_replicas: int,
        compression: Compression | None,
    ) -> None:
        limits = {
            "health_s": health_s,
            "lease_s": lease_s,
            "timeout_s": timeout_s,
            "attempt_s": attempt_s,
            "write_bytes": write_bytes,
            "buffer_bytes": buffer_bytes,
        }
        for name, value in limits.items():
            if not value > 0:
                raise ConfigError(f"redis: {name} is {value!r}; it must be above 0")
        for name, value in {
            "linger_ms": linger_ms,
            "coalesce_bytes": coalesce_bytes,
            "wait_replicas": wait_replicas,
        }.items():
            if not value >= 0:
                raise ConfigError(f"redis: {name} is {value!r}; it must be 0 or more")
        self.promise = ""
        self.healthy = True
        self._health = health_s
        self._server = server
        self.grown: Callable[[TopicPartition, int], None] = lambda *_: None
        self.lost: Callable[[TopicPartition, int], None] = lambda *_: None
        self._name = secrets.token_hex(8)
        self._keys = Keys(prefix, self._name)
        self._coalesce_bytes = coalesce_bytes
        self._replicas = wait_replicas
        self._timeout = timeout_s
        self._room = buffer_bytes
        self._lines: dict[TopicPartition, Line] = {}
        self._stored: dict[TopicPartition, None] = {}
        self._dirty: list[Line] = []
        self._gathered = 0
        self._flushes: list[tuple[dict[Line, int], Saved]] = []
        self._closed = False
        settings = Settings(
            server=server,
            timeout=timeout_s,
            attempt=attempt_s,
            linger=linger_ms / 1000,
            coalesce=coalesce_bytes,
            write_bytes=write_bytes,
            pipeline_bytes=_PIPELINE,
            replicas=wait_replicas,
        )
        self._lanes = Lanes(settings, compression, self._settled, self._went_back)
        self._lease = lease_s
        self._sharing = Sharing(
            self._keys,
            self._line,
            self._ask,
            self._released,
            int(lease_s * 1000),
        )
        self._link: Link
        self._catalog: Catalog
        self._news: News
        self._topics: dict[str, int] = {}
        try:
            self._lanes.call(self._open(make_link))
        except BaseException:
            self.close()
            raise

    # ── a start ───────────────────────────────────────────────────────────────────────────────────────────

    async def _open(self, make_link: Callable[[], Link]) -> None:
        self._link = make_link()
        self._catalog = Catalog(self._link, self._keys, self._timeout)
        self._news = News(self._link, self._keys, self._catalog, self._name, self._timeout)
        self._lanes.begin(self._link, self._catalog.declare)
        await self._insisting(self._link.everywhere, "PING")
        await self._insisting(self._news.begin, self._lanes.spawn)
        there = await self._insisting(self._catalog.refresh)
        for key, found in (await self._insisting(self._catalog.extents, there)).items():
            line = self._line(key)
            line.first, line.next, line.size = found
            self._stored[key] = None
        self.promise = await self._insisting(durability.read, self._link, self._replicas)
        if self.promise.startswith("dragonfly"):
            self._lanes.by_script_only()
        log.info("store opened", server=self._server, partitions=len(self._stored), durability=self.promise)
        self._topics = dict(self._catalog.topics)
        self._news.heard = lambda note: self._lanes.completions.put([(self._heard, note)])
        self._lanes.on_stored = self._news.stored
        self._lanes.spawn(self._watch())
        self._lanes.spawn(self._news.listen())
        self._lanes.spawn(self._keep_leases())

    async def _watch(self) -> None:
        """Asks from time to time what the server keeps, and says when it does not answer and when it does again."""
        while not self._closed:
            await asyncio.sleep(self._health)
            try:
                promise = await durability.read(self._link, self._replicas)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and those who wait hear of it, too
                if self.healthy and not self._closed:
                    self.healthy = False
                    log.warning(
                        "store does not answer", server=self._server, reason=str(explain(error, self._server))
                    )
                continue
            if not self.healthy:
                self.healthy = True
                log.warning("store answers again", server=self._server)
            if promise != self.promise:
                log.warning(
                    "the store's durability changed", server=self._server, before=self.promise, now=promise
                )
                self.promise = promise

    async def _insisting(self, work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Does it, again where that may help, within the deadline.

        Raises:
            PortaskError: it cannot be done; names the server.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        delay = 0.02
        while True:
            try:
                found = await work(*arguments)
                for reply in found.values() if isinstance(found, dict) else ():
                    if isinstance(reply, Exception):
                        raise reply
            except PortaskError:
                raise
            except Exception as error:
                waited = loop.time() - begun
                if not is_passing(error):
                    raise explain(error, self._server) from error
                if waited + delay > self._timeout:
                    raise explain(error, self._server, waited, AT_A_START) from error
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
            else:
                return found

    # ── appending ─────────────────────────────────────────────────────────────────────────────────────────

    def _line(self, partition: TopicPartition) -> Line:
        line = self._lines.get(partition)
        if line is None:
            line = self._lines[partition] = Line(partition, self._keys.partition(partition))
        return line

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """See `portask.contracts.Storage.append`. A later `poll` calls ``done``."""
        data = batch.data
        size = len(data)
        if size > self._room or self._closed:
            done(-1, self._refusal(size))
            return
        line = self._lines.get(partition) or self._line(partition)
        place = line.place
        count = batch.count
        line.place = place + count
        producer = b""
        if batch.producer:
            first = batch.sequence
            last = sequences.last_of(first, count)
            check = batches.checksum(data)
            producer = b"%d %d %d %d %d" % (batch.producer, batch.epoch, first, last, check) if first else b""
        pending = line.pending
        if not pending:
            self._dirty.append(line)
        pending.append(
            (_stamp(place, now) + memoryview(data)[batches.STAMP_SIZE :], place, count, now, producer, done)
        )
        line.pending_bytes += size
        self._room -= size
        self._gathered += size
        if self._gathered > _GATHERED:
            self.commit()

    def _refusal(self, size: int) -> StorageError:
        if self._closed:
            return StorageError(f"the storage on {self._server} is closed")
        return StorageFull(
            f"{size:,} bytes more are too many while so much waits for {self._server}: publish later, "
            "or raise storage.options.buffer_bytes"
        )

    def commit(self) -> None:
        """See `portask.contracts.Gathering.commit`: hands over what was appended. Completes nothing."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            self._gathered = 0
            for line in dirty:
                pending, line.pending = line.pending, []
                size, line.pending_bytes = line.pending_bytes, 0
                line.waiting += len(pending)
                self._lanes.submit((line, pending, size))

    def poll(self) -> int:
        """See `portask.contracts.Deferred.poll`. Commits, too."""
        self.commit()
        return self._lanes.completions.take()

    @property
    def notify(self) -> Callable[[], None]:
        """See `portask.contracts.Deferred`."""
        return self._lanes.completions.notify

    @notify.setter
    def notify(self, notify: Callable[[], None]) -> None:
        self._lanes.completions.notify = notify

    def _settled(self, line: Line, appends: int, size: int) -> None:
        """So many appends of the line were called back."""
        self._room += size
        line.waiting -= appends
        line.settled += appends
        if line.next:
            self._stored[line.key] = None
        if self._flushes:
            waiting, self._flushes = self._flushes, []
            for marks, done in waiting:
                if all(each.settled >= mark for each, mark in marks.items()):
                    done(None)
                else:
                    self._flushes.append((marks, done))

    def _went_back(self, line: Line, offset: int) -> None:
        """The server forgot what it had acknowledged, from that offset on."""
        line.next = offset
        log.error(
            "the store lost records that it had acknowledged",
            partition=str(line.key),
            from_offset=offset,
            hint="appendfsync always keeps them over a crash, wait_replicas over a failover",
        )
        self.lost(line.key, offset)

    def flush(self, done: Saved) -> None:
        """See `portask.contracts.Storage.flush`. Appends that failed were told so themselves."""
        self.commit()
        marks = {line: line.settled + line.waiting for line in self._lines.values() if line.waiting}
        if marks:
            self._flushes.append((marks, done))
        else:
            done(None)

    # ── everything else ───────────────────────────────────────────────────────────────────────────────────

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`. Checks every batch again; a damaged one is an error."""
        self._ask(requests.read(self._line(partition), offset, limit, self._coalesce_bytes, done))

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`."""
        self._ask(requests.lookup(self._line(partition), when, done))

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """See `portask.contracts.Storage.trim`. Asks nothing of the server where there is nothing to forget."""
        line = self._line(partition)
        if before > line.first or (max_bytes is not None and line.size > max_bytes):
            self._ask(requests.trim(line, before, max_bytes, self._logged("not trimmed", line)))

    def topics(self) -> Mapping[str, int]:
        """See `portask.contracts.Shared`."""
        return self._topics

    def declare(self, topic: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        """See `portask.contracts.Shared`."""

        def declared(count: int) -> None:
            self._topics[topic] = count
            done(count, None)

        def finish(replies: list[Any]) -> Iterable[Call]:
            count = self._catalog.topics[topic] = int(replies[0])
            self._news.declared(topic, count)
            return [(declared, count)]

        command = ("EVAL", scripts.DECLARE, 1, self._keys.topics, topic, partitions, 1)
        self._ask(Ask(self._keys.topics, [command], finish, lambda error: [(done, -1, error)]))

    def _heard(self, note: Note) -> None:
        """Others appended, or made topics."""
        for group, name in note.groups:
            self._sharing.hear(group, key_of(name))
        topics = self._topics
        for topic, count in note.topics.items():
            topics[topic] = max(count, topics.get(topic, 0))
            self.grown(TopicPartition(topic, 0), 0)
        for name, (following, size) in note.partitions.items():
            key = key_of(name)
            topics[key.topic] = max(key.partition + 1, topics.get(key.topic, 0))
            line = self._line(key)
            line.size = size
            self._stored[key] = None
            if following > line.next:
                line.next = following
                self.grown(key, following)

    def resume(
        self, partition: TopicPartition, producer: int, epoch: int, sequence: int, done: Saved
    ) -> None:
        """See `portask.contracts.Sequenced`."""
        self._ask(requests.resume(self._line(partition), producer, epoch, sequence, done))

    def partitions(self) -> Iterable[TopicPartition]:
        """See `portask.contracts.Catalog`."""
        return list(self._stored)

    def size(self, partition: TopicPartition) -> int:
        """See `portask.contracts.Catalog`. Of batches, without what the server spends on them."""
        line = self._lines.get(partition)
        return line.size if line else 0

    def _ask(self, ask: Ask) -> None:
        if self._closed:
            self._lanes.completions.put(ask.fail(self._refusal(0)))
        else:
            self._lanes.submit(ask)

    def _logged(self, event: str, line: Line) -> Callable[[PortaskError], None]:
        return lambda error: log.warning(event, partition=str(line.key), reason=str(error))

    async def _leave(self) -> None:
        if hasattr(self, "_news"):
            await self._news.leave()

    @property
    def counters(self) -> dict[str, int]:
        """What happened between here and the server, for a metrics page."""
        lanes = self._lanes
        return {
            **self._link.counters.snapshot(),
            "retries": lanes.retries,
            "given_up": lanes.expired,
            "lost": lanes.lost,
        }

    def close(self) -> None:
        """Hands over what is left and waits for it for `_CLOSING` s; calls back; disconnects. Idempotent."""
        if self._closed:
            return
        self.commit()
        self._closed = True
        self._lanes.close(_CLOSING, self._leave())
        self._lanes.completions.take()
