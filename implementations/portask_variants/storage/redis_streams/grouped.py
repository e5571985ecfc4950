"""The half of a storage that groups use: `portask.contracts.SharedGroups`, handed on to `sharing`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from portask.contracts import Grant, GroupPart
from portask.errors import PortaskError
from portask.messages import TopicPartition
from portask_variants.storage.redis_streams.catalog import Catalog
from portask_variants.storage.redis_streams.lanes import Lanes
from portask_variants.storage.redis_streams.news import News
from portask_variants.storage.redis_streams.sharing import Sharing

Saved = Callable[[PortaskError | None], None]


class Grouped:
    """What `Streams` inherits; the attributes are its own."""

    _sharing: Sharing
    _lanes: Lanes
    _catalog: Catalog
    _news: News
    _closed: bool
    _lease: float
    _insisting: Callable[..., Coroutine[Any, Any, Any]]
    _refusal: Callable[[int], PortaskError]

    @property
    def regranted(self) -> Callable[[str, TopicPartition, bool], None]:
        """See `portask.contracts.SharedGroups`."""
        return self._sharing.regranted

    @regranted.setter
    def regranted(self, regranted: Callable[[str, TopicPartition, bool], None]) -> None:
        self._sharing.regranted = regranted

    def begin(
        self,
        group: str,
        partition: TopicPartition,
        settings: bytes,
        start: int,
        done: Callable[[bytes, PortaskError | None], None],
    ) -> None:
        """See `portask.contracts.SharedGroups`."""
        self._sharing.begin(group, partition, settings, start, done)

    def claim(
        self,
        group: str,
        partition: TopicPartition,
        count: int,
        done: Callable[[Grant | None, PortaskError | None], None],
    ) -> None:
        """See `portask.contracts.SharedGroups`."""
        self._sharing.claim(group, partition, count, done)

    def report(
        self,
        group: str,
        partition: TopicPartition,
        held: tuple[bytes | None, int],
        counts: Sequence[int],
        done: Saved | None,
    ) -> None:
        """See `portask.contracts.SharedGroups`."""
        self._sharing.report(group, partition, held, counts, done)

    def group_parts(self, done: Callable[[Sequence[GroupPart], PortaskError | None], None]) -> None:
        """See `portask.contracts.SharedGroups`. Costs a command a partition, and one a group in it."""

        async def look() -> None:
            try:
                found = await self._insisting(self._catalog.group_parts)
            except PortaskError as error:
                self._lanes.completions.put([(done, (), error)])
            else:
                self._lanes.completions.put([(done, found, None)])

        if self._closed:
            done((), self._refusal(0))
        else:
            self._lanes.start(look())

    def drop_group(self, group: str, done: Callable[[bool, PortaskError | None], None]) -> None:
        """See `portask.contracts.SharedGroups`."""

        def found(parts: Sequence[GroupPart], error: PortaskError | None) -> None:
            if error is not None:
                done(False, error)
            else:
                self._sharing.drop(group, [part.partition for part in parts if part.group == group], done)

        self.group_parts(found)

    def _released(self, group: str, key: TopicPartition) -> None:
        self._news.released(group, key)

    async def _keep_leases(self) -> None:
        while not self._closed:
            await asyncio.sleep(self._lease / 3)
            if self._sharing.active:
                self._lanes.completions.put([(self._sharing.renew,)])
