"""The way from one worker to another and back: two rings, one for each direction.

What is sent in a turn is joined and put into the ring at its end, in records of `RECORD` bytes at most; so the ring is
a stream of bytes, in which messages lie back to back, each behind a head::

    off size field           little-endian, "<BBHIIII"
      0    1 kind            `Kind`
      1    1 opcode          of a frame (`portask.wire.frames`), or one of `Aside`
      2    2 flags           of a frame
      4    4 session         the client's number at its home
      8    4 body length     bytes that follow the head
     12    4 correlation id  of a frame
     16    4 channel         of a frame

**Waking.** Whoever put something rings the other's bell, once a turn: an eventfd, on which its server waits. There is
no look whether the other sleeps: that takes a fence between "I put" and "does it sleep?", which Python does not have,
and saves 0.3 µs.

**Bounds.** What does not fit into the ring waits here, in `queued`. Above `FULL` a link takes no more of what can wait:
frames of clients wait in their sessions, which are not read meanwhile, and proxies count as congested. Whoever takes
more than half a ring at once rings the other's bell, for it may wait for room. Both sides take whatever else they do,
so two full rings cannot wait for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from portask.contracts import RECORD_OVERHEAD, BatchRing, Ring
from portask.errors import RingClosed
from portask.messages import Buffer

if TYPE_CHECKING:
    from portask.multicore.sessions import Proxy

_HEAD = Struct("<BBHIIII")
HEAD_SIZE = _HEAD.size
FULL = 1 << 20
"""Bytes that may wait for room in a ring before a link takes no more of what can wait."""
_MANY = 256


class Kind(IntEnum):
    """What a message is."""

    FRAME = 1
    """Of a client, for its proxy."""
    BACK = 2
    """Of a proxy, for its client."""
    ATTACH = 3
    """A proxy is needed. Body: `Attached`."""
    DETACH = 4
    """The client is gone, and its proxy with it."""
    CONGESTED = 5
    """The client does not read what is written to it; flag 1: it does again."""
    GREETING = 6
    """First on a new link: what this worker knows. Body: `Greeting`."""
    DECLARE = 7
    """A topic is wanted, of its home. Body: name, partitions. The correlation id comes back."""
    DECLARED = 8
    """Body: partitions, or an error."""
    TOPIC = 9
    """There is a topic. Body: name, partitions. Answered by KNOWN, with the correlation id."""
    KNOWN = 10
    GROUP = 11
    """This worker has something of a group, or nothing any more. Body: name, settings or nil."""
    APPEND = 12
    """A batch that no client published (a dead letter). Body: the partition, as many bytes as the number of the session
    says, and the batch. The correlation id comes back."""
    APPENDED = 13
    """Body: an offset, or an error."""
    ACCOUNT = 14
    """How many connections and subscriptions an identity has at this worker. Body: name, these two."""
    FAILED = 15
    """Somebody was not let in here. Body: the address."""
    AGREED = 16
    """What members of a group at all brokers over one store agreed on, as the store says. Body: name, settings."""


class Aside(IntEnum):
    """Opcodes of frames between a home and a proxy that no client can send or sees."""

    GRANT = 240
    """Home → proxy, on a subscription's channel: more credit. Body: messages, bytes, records in flight."""
    RECALL = 241
    """Home → proxy, on a subscription's channel: whatever of it is not used is to be given back."""
    RETURN = 242
    """Proxy → home: here it is. Flag 1: and there is something to deliver for which it was not enough."""
    PAUSE = 243
    """Proxy → home: it has too much under way; flag 1: not any more."""


class Message(NamedTuple):
    """One message that arrived. ``body`` is a view of bytes that stay as they are."""

    kind: int
    opcode: int
    flags: int
    session: int
    correlation: int
    channel: int
    body: memoryview


class LinkRing(Ring, BatchRing, Protocol):
    """What a link needs of a ring."""


class Link:
    """One end.

    Attributes:
        place: The worker at the other end.
        queued: Bytes that are not in the ring yet.
        greeted: What the other knows has arrived.
        proxies: Of the other's clients, by number.
        stuffed: Those count as congested until there is room again.
    """

    def __init__(
        self, place: int, outgoing: LinkRing, incoming: LinkRing, ring_bell: Callable[[], None]
    ) -> None:
        """``ring_bell`` wakes the other worker."""
        self.place = place
        self.queued = 0
        self.greeted = self.stuffed = False
        self.proxies: dict[int, Proxy] = {}
        self._outgoing = outgoing
        self._incoming = incoming
        self._ring_bell = ring_bell
        self._record = min(64 * 1024, outgoing.capacity // 8)
        self._out: list[Buffer] = []
        self._waiting: deque[Buffer] = deque()
        self._cut: bytearray | None = None  # a message whose end has not come yet
        self._length = 0  # of that message; 0 while its head is incomplete

    @property
    def full(self) -> bool:
        """Whether what can wait should."""
        return self.queued > FULL

    def send(  # noqa: PLR0917 - a head's fields, in their order
        self,
        kind: int,
        session: int = 0,
        body: Sequence[Buffer] = (),
        length: int = 0,
        opcode: int = 0,
        flags: int = 0,
        correlation: int = 0,
        channel: int = 0,
    ) -> None:
        """Sends a message with the next `flush`; the parts of ``body``, ``length`` bytes, must not change before."""
        self._out.append(_HEAD.pack(kind, opcode, flags, session, length, correlation, channel))
        self._out += body
        self.queued += HEAD_SIZE + length

    def flush(self) -> None:
        """Puts what was sent into the ring, as far as it has room, and wakes the other."""
        waiting = self._waiting
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            size = self._record
            if len(data) <= size:
                waiting.append(data)
            else:
                view = memoryview(data)
                waiting.extend(view[at : at + size] for at in range(0, len(data), size))
        if not waiting:
            return
        try:
            done = self._outgoing.put_many(list(waiting))
        except RingClosed:
            done = 0  # the other is gone, which the supervisor says
        for _ in range(done):
            self.queued -= len(waiting.popleft())
        if done:
            self._ring_bell()

    def take(self) -> list[Message]:
        """What arrived, a ring's worth at most."""
        messages: list[Message] = []
        taken = 0
        try:
            while taken < self._incoming.capacity:
                records = self._incoming.get_many(_MANY)
                if not records:
                    break
                for record in records:
                    taken += len(record) + RECORD_OVERHEAD
                    self._parse(record, messages)
        except RingClosed:
            pass
        if taken * 2 > self._incoming.capacity:
            self._ring_bell()
        return messages

    @property
    def arrived(self) -> bool:
        """Whether there is more to take."""
        return len(self._incoming) > 0

    def _parse(self, record: bytes, messages: list[Message]) -> None:
        view = memoryview(record)
        at = self._complete(view, messages) if self._cut is not None else 0
        size = len(view)
        while size - at >= HEAD_SIZE:
            kind, opcode, flags, session, length, correlation, channel = _HEAD.unpack_from(view, at)
            end = at + HEAD_SIZE + length
            if end > size:
                self._length = HEAD_SIZE + length
                break
            body = view[at + HEAD_SIZE : end]
            messages.append(Message(kind, opcode, flags, session, correlation, channel, body))
            at = end
        if at < size:
            self._cut = bytearray(view[at:])

    def _complete(self, view: memoryview, messages: list[Message]) -> int:
        """Adds to the message that was cut; returns how much of ``view`` it took."""
        cut = self._cut
        assert cut is not None  # noqa: S101 - for the type checker: the caller looked
        taken = 0
        if not self._length:
            taken = min(HEAD_SIZE - len(cut), len(view))
            cut += view[:taken]
            if len(cut) < HEAD_SIZE:
                return taken
            self._length = HEAD_SIZE + _HEAD.unpack_from(cut)[4]
        part = view[taken : taken + self._length - len(cut)]
        cut += part
        if len(cut) == self._length:
            kind, opcode, flags, session, _, correlation, channel = _HEAD.unpack_from(cut)
            body = memoryview(bytes(cut))[HEAD_SIZE:]
            messages.append(Message(kind, opcode, flags, session, correlation, channel, body))
            self._cut = None
            self._length = 0
        return taken + len(part)
