"""What brokers that share a server tell each other: through one small stream that each of them reads, blocking.

A broker that appended says where each partition ends now, once the server has acknowledged it; what it has to say while
a note is under way goes with the next one. So it costs one small command a round trip at most, and nothing at all while
a broker is alone: every two seconds each says that it is alive, and hears who else is.

A note may get lost: its broker dies before it is sent, the stream is trimmed before it is read, a failover forgets it.
So whenever brokers come or go, a read failed, or more was waiting than one read takes, everything is looked at
(`Catalog.extents`). There is no other polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from portask.messages import TopicPartition
from portask_variants.storage.redis_streams import scripts
from portask_variants.storage.redis_streams.catalog import Catalog, Extent
from portask_variants.storage.redis_streams.keys import Keys
from portask_variants.storage.redis_streams.link import BLOCK_MS, Command, Link

log = structlog.get_logger("portask.storage")

LIFE_MS = 4 * BLOCK_MS
"""How long a broker counts as alive after it said so."""
_KEPT = 10_000
_COUNT = 1000
_PAUSE = 0.5
"""Seconds between attempts while the server does not answer."""


class Note(msgspec.Struct, omit_defaults=True):
    """One entry of the stream, as JSON.

    Attributes:
        broker: Who says it.
        partitions: ``topic:number`` → next offset, bytes stored.
        topics: Those that are new → partitions.
        groups: ``[group, topic:number]``: there may be something to claim.
    """

    broker: str
    partitions: dict[str, tuple[int, int]] = {}
    topics: dict[str, int] = {}
    groups: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self.partitions or self.topics or self.groups)


def name_of(key: TopicPartition) -> str:
    """As notes write it."""
    return f"{key.topic}:{key.partition}"


def key_of(name: str) -> TopicPartition:
    """What `name_of` was given."""
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))


class News:
    """Belongs to one storage; lives on the loop's thread.

    Attributes:
        others: Whether other brokers are there.
        heard: Called with every note of others, and with one of our own making after everything was looked at.
    """

    def __init__(self, link: Link, keys: Keys, catalog: Catalog, me: str, timeout: float) -> None:
        self.others = False
        self.heard: Callable[[Note], None] = lambda _: None
        self._link = link
        self._keys = keys
        self._catalog = catalog
        self._me = me
        self._timeout = timeout
        self._note = Note(me)
        self._telling = False
        self._alive: frozenset[str] = frozenset()
        self._last = "0-0"
        self._spawn: Callable[[Any], Any]

    async def begin(self, spawn: Callable[[Any], Any]) -> None:
        """Finds the end of the stream and says that we are here. To be called before what there is is looked at."""
        self._spawn = spawn
        found = await self._ask("XREVRANGE", self._keys.news, "+", "-", "COUNT", 1)
        if found:
            self._last = found[0][0].decode()
        await self._beat()
        await self._ask(*self._command(Note(self._me)))

    async def listen(self) -> None:
        """Hears others, until it is cancelled."""
        loop = asyncio.get_running_loop()
        beaten, trouble = loop.time(), True  # who did not know us yet did not tell us: look once more
        while True:
            try:
                if (loop.time() - beaten) * 1000 >= BLOCK_MS:
                    beaten = loop.time()
                    trouble |= await self._beat()
                    if trouble and self.others:
                        await self._look()
                    trouble = False
                trouble |= await self._read()
            except Exception as error:  # noqa: BLE001 - the watch says what is wrong with the server
                log.debug("no news", reason=str(error))
                trouble = True
                await asyncio.sleep(_PAUSE)

    async def _read(self) -> bool:
        """One blocking read; whether there was so much that some may have been trimmed."""
        command = ("XREAD", "COUNT", _COUNT, "BLOCK", BLOCK_MS, "STREAMS", self._keys.news, self._last)
        reply = await self._link.block(command)
        entries = reply[0][1] if reply else ()
        for name, fields in entries:
            self._last = name.decode()
            note = msgspec.json.decode(fields[1], type=Note)
            if note.broker != self._me:
                self.others = True
                if note:
                    self._learn(note)
        return len(entries) >= _COUNT

    def _learn(self, note: Note) -> None:
        topics = self._catalog.topics
        for topic, count in note.topics.items():
            topics[topic] = max(count, topics.get(topic, 0))
        for name in note.partitions:
            key = key_of(name)
            topics[key.topic] = max(key.partition + 1, topics.get(key.topic, 0))
        self.heard(note)

    async def _beat(self) -> bool:
        """Says that we are alive; whether others came or went."""
        reply = await self._ask("EVAL", scripts.BEAT, 1, self._keys.brokers, self._me, LIFE_MS)
        alive = frozenset(reply.decode().split())
        changed = alive != self._alive
        self._alive = alive
        self.others = len(alive) > 1
        return changed

    async def _look(self) -> None:
        """Looks at everything, and says what there is."""
        known = dict(self._catalog.topics)
        there = await self._catalog.refresh()
        found: dict[TopicPartition, Extent] = await self._catalog.extents(there)
        note = Note(self._me)
        note.partitions = {name_of(key): (each.next, each.size) for key, each in found.items()}
        note.topics = {
            name: count for name, count in self._catalog.topics.items() if known.get(name) != count
        }
        if note:
            self.heard(note)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────

    def stored(self, key: TopicPartition, following: int, size: int) -> None:
        """We appended."""
        if self.others:
            self._note.partitions[name_of(key)] = (following, size)
            self._tell()

    def declared(self, topic: str, count: int) -> None:
        """We made a topic."""
        if self.others:
            self._note.topics[topic] = count
            self._tell()

    def released(self, group: str, key: TopicPartition) -> None:
        """We gave back what we held for a group."""
        if self.others:
            self._note.groups.append((group, name_of(key)))
            self._tell()

    def _tell(self) -> None:
        if not self._telling:
            self._telling = True
            self._spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._note:
                note, self._note = self._note, Note(self._me)
                await self._insist(note)
        finally:
            self._telling = False

    async def _insist(self, note: Note) -> None:
        while True:
            try:
                await self._ask(*self._command(note))
            except Exception as error:  # noqa: BLE001 - the watch says what is wrong with the server
                log.debug("others are not told", reason=str(error))
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _command(self, note: Note) -> Command:
        return ("XADD", self._keys.news, "MAXLEN", "~", _KEPT, "*", "n", msgspec.json.encode(note))

    async def leave(self) -> None:
        """Says farewell."""
        await self._ask("EVAL", scripts.BEAT, 1, self._keys.brokers, self._me, 0)

    async def _ask(self, *command: Any) -> Any:
        key = self._keys.brokers
        (reply,) = await self._link.run(self._link.lane(key), [command], self._timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply
