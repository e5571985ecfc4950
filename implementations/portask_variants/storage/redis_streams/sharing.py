"""Groups whose members are spread over brokers: `portask.contracts.SharedGroups` by the scripts of `group_scripts`.

Lives on the broker's thread. Taking part in a group and partition is a `Part` with a name of its own, so that one who
left and comes again is somebody else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from portask.contracts import Grant, GroupPart
from portask.errors import NotPermitted, PortaskError
from portask.messages import TopicPartition
from portask_variants.storage.redis_streams import group_scripts as scripts
from portask_variants.storage.redis_streams.keys import Keys
from portask_variants.storage.redis_streams.lines import Line
from portask_variants.storage.redis_streams.outcomes import Ask, Call

log = structlog.get_logger("portask.storage")

Saved = Callable[[PortaskError | None], None]


class Part:
    """This broker's part in a group and partition.

    Attributes:
        name: For the server.
        number: Of its last call.
    """

    __slots__ = ("name", "number")

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.number = 0

    def next_number(self) -> int:
        """For a call that changes something."""
        self.number += 1
        return self.number


class Sharing:
    """Belongs to one storage.

    Args:
        keys: Of the store.
        line_of: The line of a partition.
        ask: Takes requests.
        released: Told on the loop's thread what we gave back.
        lease: ms for which a broker counts as being there after it was heard.

    Attributes:
        regranted: See `portask.contracts.SharedGroups`.
    """

    def __init__(
        self,
        keys: Keys,
        line_of: Callable[[TopicPartition], Line],
        ask: Callable[[Ask], None],
        released: Callable[[str, TopicPartition], None],
        lease: int,
    ) -> None:
        self.regranted: Callable[[str, TopicPartition, bool], None] = lambda *_: None
        self._keys = keys
        self._line_of = line_of
        self._ask = ask
        self._released = released
        self._lease = lease
        self._parts: dict[tuple[str, TopicPartition], Part] = {}

    @property
    def active(self) -> bool:
        """Whether this broker takes part in anything."""
        return bool(self._parts)

    def begin(
        self,
        group: str,
        partition: TopicPartition,
        settings: bytes,
        start: int,
        done: Callable[[bytes, PortaskError | None], None],
    ) -> None:
        """See `portask.contracts.SharedGroups.begin`."""
        keys = self._line_of(partition).keys
        part = self._parts.get((group, partition)) or Part()

        def agreed(found: bytes) -> None:
            words = (keys.group(group), keys.groups, group, part.name, self._lease, start)
            command = ("EVAL", scripts.BEGIN, 2, *words)
            self._ask(Ask(keys.log, [command], lambda _: [(begun, found)], failed))

        def begun(found: bytes) -> None:
            self._parts[group, partition] = part
            done(found, None)

        def failed(error: PortaskError) -> Iterable[Call]:
            return [(done, b"", error)]

        command = ("EVAL", scripts.AGREE, 1, self._keys.groups, group, settings)
        self._ask(Ask(self._keys.groups, [command], lambda replies: [(agreed, replies[0])], failed))

    def claim(
        self,
        group: str,
        partition: TopicPartition,
        count: int,
        done: Callable[[Grant | None, PortaskError | None], None],
    ) -> None:
        """See `portask.contracts.SharedGroups.claim`."""
        part = self._parts.get((group, partition))
        if part is None:
            done(None, None)  # it was lost, and that is about to be told
            return
        keys = self._line_of(partition).keys
        number = part.next_number()

        def finish(replies: list[Any]) -> Iterable[Call]:
            item: bytes = replies[0]
            if item == b"lost":
                return [(self._lost, group, partition, part), (done, None, None)]
            return [(done, _grant(number, item), None)]

        words = (keys.group(group), keys.meta, part.name, number, self._lease, count)
        self._ask(
            Ask(keys.log, [("EVAL", scripts.CLAIM, 2, *words)], finish, lambda error: [(done, None, error)])
        )

    def report(
        self,
        group: str,
        partition: TopicPartition,
        held: tuple[bytes | None, int],
        counts: Sequence[int],
        done: Saved | None,
    ) -> None:
        """See `portask.contracts.SharedGroups.report`."""
        part = self._parts.get((group, partition))
        if part is None:
            if done is not None:
                done(None)
            return
        if done is None:
            del self._parts[group, partition]
        keys = self._line_of(partition).keys
        state, claims = held

        def finish(replies: list[Any]) -> Iterable[Call]:
            if done is None:
                self._released(group, partition)
                return []
            if replies[0] == b"lost":
                return [(self._lost, group, partition, part), (done, None)]
            return [(done, None)]

        def fail(error: PortaskError) -> Iterable[Call]:
            if done is not None:
                return [(done, error)]
            return [(_say, group, partition, error)]

        words = (
            part.name,
            part.next_number(),
            self._lease,
            claims,
            state or b"",
            int(done is not None),
            *counts,
        )
        self._ask(Ask(keys.log, [("EVAL", scripts.REPORT, 1, keys.group(group), *words)], finish, fail))

    def renew(self) -> None:
        """Says for every part that this broker is there; hears what was lost and what may be claimed."""
        for (group, partition), part in list(self._parts.items()):
            keys = self._line_of(partition).keys
            words = (keys.group(group), keys.meta, part.name, self._lease)

            def finish(
                replies: list[Any],
                group: str = group,
                partition: TopicPartition = partition,
                part: Part = part,
            ) -> Iterable[Call]:
                if replies[0] == b"lost":
                    return [(self._lost, group, partition, part)]
                return [(self.hear, group, partition)] if replies[0] else []

            self._ask(Ask(keys.log, [("EVAL", scripts.RENEW, 2, *words)], finish, lambda _: []))

    def hear(self, group: str, partition: TopicPartition) -> None:
        """There may be something to claim."""
        if (group, partition) in self._parts:
            self.regranted(group, partition, False)

    def _lost(self, group: str, partition: TopicPartition, part: Part) -> None:
        if self._parts.get((group, partition)) is part:
            del self._parts[group, partition]
            log.warning("what a group had here went to other brokers", group=group, partition=str(partition))
            self.regranted(group, partition, True)

    def drop(
        self,
        group: str,
        partitions: Sequence[TopicPartition],
        done: Callable[[bool, PortaskError | None], None],
    ) -> None:
        """Forgets a group in these partitions and altogether, unless a broker takes part."""
        waiting = len(partitions)
        refusal: PortaskError | None = None

        def looked(error: PortaskError | None, then: Callable[[], None]) -> None:
            nonlocal waiting, refusal
            waiting -= 1
            refusal = refusal or error
            if waiting:
                return
            if refusal is not None:
                done(True, refusal)
            else:
                then()

        def each(execute: int, then: Callable[[], None]) -> None:
            for partition in partitions:
                keys = self._line_of(partition).keys
                command = ("EVAL", scripts.DROP, 2, keys.group(group), keys.groups, group, execute)

                def finish(replies: list[Any]) -> Iterable[Call]:
                    busy = NotPermitted(f"the group {group!r} has members at some broker: stop them first")
                    return [(looked, busy if replies[0] else None, then)]

                self._ask(Ask(keys.log, [command], finish, lambda error: [(looked, error, then)]))

        def dropping() -> None:
            nonlocal waiting
            waiting = len(partitions)
            each(1, forget)

        def forget() -> None:
            command = ("HDEL", self._keys.groups, group)
            self._ask(
                Ask(
                    self._keys.groups,
                    [command],
                    lambda replies: [(done, bool(replies[0]) or bool(partitions), None)],
                    lambda error: [(done, False, error)],
                )
            )

        if partitions:
            each(0, dropping)
        else:
            forget()


def _grant(number: int, item: bytes) -> Grant | None:
    """From an item of the server's."""
    if not item:
        return None
    if item[:1] == b"S":
        return Grant(number, 0, -1, item[1:])
    _, first, last = item.split()
    return Grant(number, int(first), int(last))


def part_of(group: str, partition: TopicPartition, settings: bytes, flat: Sequence[bytes]) -> GroupPart:
    """From HGETALL of the group's hash in a partition."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    held = [_grant(0, item) for name, item in fields.items() if name.startswith(b"i ")]
    counts = [int(count) for count in fields.get(b"counts", b"0 0 0 0").split()]
    return GroupPart(
        group, partition, settings, int(fields.get(b"next", 0)), [each for each in held if each], counts
    )


def _say(group: str, partition: TopicPartition, error: PortaskError) -> None:
    log.warning("a group's part was not given back", group=group, partition=str(partition), reason=str(error))
