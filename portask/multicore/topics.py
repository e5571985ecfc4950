"""Topics of all workers: a new one is made at its home, which answers once all know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from portask.errors import PortaskError, from_code
from portask.multicore.links import Kind, Link, Message
from portask.multicore.owners import home_of

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker

Declared = Callable[[int, PortaskError | None], None]


class _News:
    """A topic that not all know yet."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.missing: set[int] = set()
        self.waiting: list[Declared] = []


class Topics:
    """Of one worker."""

    def __init__(self, broker: WorkerBroker) -> None:
        self._broker = broker
        self._asked: dict[int, tuple[str, int, Declared]] = {}  # of their homes
        self._last = 0
        self._news: dict[str, _News] = {}
        self._making: dict[str, list[Declared]] = {}

    # ── who wants a topic ─────────────────────────────────────────────────────────────────────────────────

    def declare(self, name: str, partitions: int, done: Declared) -> None:
        """Asks the topic's home for it. A home that is gone is asked when it is back."""
        broker = self._broker
        place = home_of(name, broker.places)
        if place == broker.place:
            self._make(name, partitions, done)
            return
        self._last = (self._last + 1) & 0xFFFFFFFF
        self._asked[self._last] = (name, partitions, done)
        link = broker.links.get(place)
        if link is not None:
            broker.tell(link, Kind.DECLARE, (name, partitions), 0, self._last)

    def answered(self, _link: Link, message: Message) -> None:
        """The home says what there is."""
        count, refused = msgspec.msgpack.decode(message.body, type=tuple[int, tuple[str, str] | None])
        _, _, done = self._asked.pop(message.correlation, ("", 0, None))
        if done is not None:
            done(count, None if refused is None else from_code(*refused))

    def told(self, link: Link, message: Message) -> None:
        """There is a topic."""
        name, count = msgspec.msgpack.decode(message.body, type=tuple[str, int])
        self._broker.extend(name, count)
        self._broker.tell(link, Kind.KNOWN, name)

    # ── its home ──────────────────────────────────────────────────────────────────────────────────────────

    def asked(self, link: Link, message: Message) -> None:
        """Somebody wants a topic of which this is the home."""
        name, partitions = msgspec.msgpack.decode(message.body, type=tuple[str, int])
        token = message.correlation

        def done(count: int, error: PortaskError | None) -> None:
            if self._broker.links.get(link.place) is link:
                refused = None if error is None else (error.code, str(error))
                self._broker.tell(link, Kind.DECLARED, (count, refused), 0, token)
                if not self._broker.in_turn:
                    self._broker.wake()

        self._make(name, partitions, done)

    def _make(self, name: str, partitions: int, done: Declared) -> None:
        broker = self._broker
        news = self._news.get(name)
        if news is not None:
            news.waiting.append(done)
            return
        known = broker.topics.get(name)
        if known is not None:
            done(len(known.partitions), None)
            return
        if name in self._making:
            self._making[name].append(done)
            return
        self._making[name] = [done]

        def made(count: int, error: PortaskError | None) -> None:
            waiting = self._making.pop(name)
            if error is not None:
                for each in waiting:
                    each(0, error)
                return
            topic = broker.extend(name, count)
            news = self._news[name] = _News(len(topic.partitions))
            news.waiting = waiting
            for link in broker.links.values():
                news.missing.add(link.place)
                broker.tell(link, Kind.TOPIC, (name, news.count))
            if not broker.in_turn:
                broker.wake()
            self._look(name)

        broker.declare_here(name, partitions, made)

    def known(self, link: Link, message: Message) -> None:
        """Another worker knows a topic now."""
        name = msgspec.msgpack.decode(message.body, type=str)
        if name in self._news:
            self._news[name].missing.discard(link.place)
            self._look(name)

    def _look(self, name: str) -> None:
        news = self._news[name]
        if not news.missing:
            del self._news[name]
            for done in news.waiting:
                done(news.count, None)

    # ── who comes and goes ────────────────────────────────────────────────────────────────────────────────

    def gone(self, place: int) -> None:
        """A worker is gone: nobody waits for what it would have to say."""
        for name in list(self._news):
            self._news[name].missing.discard(place)
            self._look(name)

    def back(self, place: int) -> None:
        """It is back: what was asked of it is asked again."""
        broker = self._broker
        for token, (name, partitions, _) in self._asked.items():
            if home_of(name, broker.places) == place:
                broker.tell(broker.links[place], Kind.DECLARE, (name, partitions), 0, token)
