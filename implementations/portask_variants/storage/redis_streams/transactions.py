"""Large writes to a single server: in a transaction, because its scripts copy every byte twice.

What the append script (`scripts.APPEND`) reads and decides before it appends is here read by ``WATCH`` and ``HMGET``
and decided by us; ``MULTI … EXEC`` appends only if nobody wrote to any of the partitions since. So the outcome is the
same, and a write that was sent this way may be repeated by the script, which finds its number where the transaction
left it.

Between two brokers that write to one partition at a time one loses and repeats its write by the script; it stays with
the script for a while then (`SLOW`). The values for the next transaction are watched and read with the last one: as
long as the same partitions are written, a write costs one round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import exceptions

from portask_variants.storage.redis_streams.lines import REMEMBER_MS, Line, Write
from portask_variants.storage.redis_streams.link import Command, ServerLink, Wire

LARGE = 32 << 10
"""Bytes from which a transaction costs less than a script."""
SLOW = 64
"""Writes of a partition that go by the script after a conflict."""


class State(NamedTuple):
    """What a partition's meta hash says."""

    next: int
    time: int
    bytes: int
    trimmed: int


def _state(reply: Sequence[bytes | None]) -> State:
    return State(*(int(value or 0) for value in reply))


class Transactions:
    """Belongs to one link; used by one lane at a time."""

    def __init__(self, link: ServerLink) -> None:
        self._link = link
        self._wire: Wire | None = None
        self._watched: dict[Line, State] = {}

    @staticmethod
    def fits(write: Write) -> bool:
        """Whether the write should go this way."""
        line = write.line
        if line.slow:
            line.slow -= 1
            return False
        return write.size >= LARGE and not write.attempts and not write.numbered

    def touched(self, lines: Sequence[Line]) -> None:
        """They are written by the script: what was read of them holds no longer."""
        if any(line in self._watched for line in lines):
            self._watched = {}

    async def run(self, writes: Sequence[Write], within: float) -> list[Any]:
        """For each write what the script would have answered, or ``None``: somebody else wrote there meanwhile.

        Raises:
            Exception: redis-py's; nothing is known of any of the writes.
        """
        try:
            return await self._run(writes, within)
        except BaseException:
            wire, self._wire, self._watched = self._wire, None, {}
            if wire is not None:
                await wire.close()
            raise

    async def _run(self, writes: Sequence[Write], within: float) -> list[Any]:
        wire = self._wire
        if wire is None:
            wire = self._wire = await self._link.wire()
        lines = [write.line for write in writes]
        if list(self._watched) != lines:
            look = _look(lines)
            self._watched = _seen(lines, (await wire.run([("UNWATCH",), *look], within))[-len(lines) :])
        commands: list[Command] = [("MULTI",)]
        answers: list[list[bytes]] = []
        for write in writes:
            more, answer = _entries(write, self._watched[write.line])
            commands += more
            answers.append(answer)
        replies = await wire.run([*commands, ("EXEC",), *_look(lines)], within)
        done = replies[len(commands)]
        self._watched = _seen(lines, replies[-len(lines) :])
        if isinstance(done, Exception):
            refused = next(
                (reply for reply in replies[: len(commands)] if isinstance(reply, Exception)), done
            )
            return [refused] * len(writes)
        if done is None:
            for line in lines:
                line.slow = SLOW
            return [None] * len(writes)
        failed = next((reply for reply in done if isinstance(reply, Exception)), None)
        return answers if failed is None else [failed] * len(writes)

    async def close(self) -> None:
        """Disconnects. Idempotent."""
        if self._wire is not None:
            await self._wire.close()


def _look(lines: Sequence[Line]) -> list[Command]:
    """Watches and reads what a transaction goes by."""
    watches = [("WATCH", line.keys.meta) for line in lines]
    return [*watches, *(("HMGET", line.keys.meta, "next", "time", "bytes", "trimmed") for line in lines)]


def _seen(lines: Sequence[Line], replies: Sequence[Any]) -> dict[Line, State]:
    for reply in replies:
        if isinstance(reply, exceptions.ResponseError):
            raise reply
    return {line: _state(reply) for line, reply in zip(lines, replies, strict=True)}


def _entries(write: Write, state: State) -> tuple[list[Command], list[bytes]]:
    """The commands that append, and what the script would have answered."""
    keys = write.line.keys
    following, time, size, trimmed = state
    commands: list[Command] = []
    outcomes: list[str] = []
    for count, begun, newest, _, data in write.parts:
        stop = following + count - 1
        if begun < time:  # another broker's clock is ahead
            data = data[:8] + time.to_bytes(8, "little") + data[16:]
            begun, newest = time, max(newest, time)
        size += len(data)
        late = ("t", newest) if newest > begun else ()
        commands.append(("XADD", keys.log, f"{stop}-{count}", "b", data, "s", size, *late))
        outcomes.append(str(following))
        following, time = stop + 1, newest
    told = " ".join(outcomes)
    commands.append(("HSET", keys.meta, "next", following, "time", time, "bytes", size))
    commands.append(("SET", keys.writer, f"{write.number} {told}", "PX", REMEMBER_MS))
    answer = [told, str(following), str(size - trimmed), str(write.number)]
    return commands, [word.encode() for word in answer]
