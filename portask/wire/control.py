"""Control bodies: CBOR maps with text keys, checked into typed structs.

Unknown keys are ignored, so that a newer peer can say more; a missing or mistyped key is the peer's error.
Each struct below documents one opcode's body, request and reply.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, NoReturn, TypeVar

import cbor2
import msgspec

from portask.contracts import LATEST
from portask.errors import RemoteProtocolError
from portask.messages import Buffer
from portask.wire import cbor
from portask.wire.frames import DEFAULT_LIMIT

CONTROL_LIMIT = 64 * 1024
"""Largest control body that is decoded, bytes. Batches may be larger: they are not decoded."""


class Hello(msgspec.Struct, omit_defaults=True):
    """HELLO, client → broker: the first frame of a connection.

    Attributes:
        versions: Frame versions the client speaks.
        max_frame: Largest body it takes, bytes.
        client: Name and version, for logs.
        features: Optional abilities it asks for.
        token: Who it is, for a broker that asks; never shown.
    """

    versions: list[int]
    max_frame: int = DEFAULT_LIMIT
    client: str = ""
    features: list[str] = []
    token: str | None = None

    def __repr__(self) -> str:
        return f"Hello({self.versions!r}, client={self.client!r}, token={'…' if self.token else None})"


class Welcome(msgspec.Struct):
    """WELCOME, broker → client: the connection is open.

    Attributes:
        version: The highest version that both speak.
        max_frame: Largest body the broker takes, bytes.
        broker: Name and version.
        durability: What a publish ack means: memory, os, synced, server.
        features: Those asked for that are granted.
        keepalive: Seconds of silence after which the broker hangs up; 0 for never.
        codec: The codec that a client without a choice of its own should use; empty for the client's default.
        compression: Likewise.
        identity: The name by which the broker knows the client; empty if it does not ask.
        promise: ``durability`` in words, where the storage is a server that has its own: what it told of itself.
    """

    version: int
    max_frame: int
    broker: str
    durability: str
    features: list[str] = []
    keepalive: float = 0
    codec: str = ""
    compression: str = ""
    identity: str = ""
    promise: str = ""


class Error(msgspec.Struct, omit_defaults=True):
    """ERROR, both ways. With a correlation id it answers that request; with 0 it ends the connection.

    Attributes:
        code: `portask.errors` class by its code.
        message: For people: what is wrong and what to do.
        first: The oldest offset, for offset-out-of-range.
        next: The next offset, for offset-out-of-range.
    """

    code: str
    message: str
    first: int = 0
    next: int = 0


class Open(msgspec.Struct, omit_defaults=True):
    """OPEN: binds the frame's channel (chosen by the client) to one partition for publishing.

    Attributes:
        topic: A topic name.
        partition: From 0.
        partitions: In the request: how many to create if the topic is new, 0 for the broker's default. In
            the reply: how many there are.
        producer: An idempotent producer's id, when it has to say something about its numbers; 0 otherwise.
        epoch: Its epoch.
        sequence: The number of its next batch: those before it, as far as they are not stored, were given up.
            0 where it has not published here yet: then nobody may have with this epoch.
    """

    topic: str
    partition: int = 0
    partitions: int = 0
    producer: int = 0
    epoch: int = 0
    sequence: int = 0


class PubAck(msgspec.Struct):
    """PUBACK, cumulative: acknowledges the oldest unacknowledged publishes of the channel, up to the correlation id.

    Attributes:
        offsets: Base offset of each, oldest first; `UNKNOWN_OFFSET` for a retry of what is stored the broker no
            longer knows where.
    """

    offsets: list[int]


UNKNOWN_OFFSET = (1 << 64) - 1
"""In a PUBACK: it is stored, and nobody remembers where."""


class Subscribe(msgspec.Struct, omit_defaults=True):
    """SUBSCRIBE, request; the frame's channel (chosen by the client) names the subscription.

    Attributes:
        filter: A topic name or a filter: ``orders.*``, ``orders.>``.
        start: `EARLIEST` (-2), `LATEST` (-1), or an offset.
        time: µs since the epoch; if given, the first record appended then or later, and ``start`` is ignored.
        partition: One partition only; ``None`` for all.
        messages: Initial credit in messages.
        bytes: Initial credit in bytes.
        resume: Where a subscription that was cut off goes on: for each topic the next offset of its partitions
            0, 1, …, which takes the place of ``start`` and ``time``; -1 where those hold. An offset that is no
            longer there becomes the oldest one that is.
        group: The durable group to be a member of; empty for a subscription of its own. Where the group already
            knows a partition it goes on there; ``start``, ``time`` hold for the others, ``resume`` for none.
        ack_wait: Of the group: ms that a member may take to acknowledge a record. ``None``, in this and in the
            next two: as the group is; a new one gets the default.
        max_deliveries: Of the group: how often a record is delivered before it is a dead letter; 0 for no limit.
        dead_letter: Of the group: the topic for dead letters; empty for ``<topic>.dead``.
        max_in_flight: Most records that this member may have unacknowledged; 0 for as many as credit allows.
    """

    filter: str
    start: int = LATEST
    time: int | None = None
    partition: int | None = None
    messages: int = 0
    bytes: int = 0
    resume: dict[str, list[int]] = {}
    group: str = ""
    ack_wait: int | None = None
    max_deliveries: int | None = None
    dead_letter: str | None = None
    max_in_flight: int = 0


class Assigned(msgspec.Struct, omit_defaults=True):
    """SUBSCRIBE, reply, one for each partition that the filter matches, also for those created later.

    The reply to the request itself is an `Assigned` for every partition there is, then one with ``topic``
    empty: the end of the list, with the request's correlation id. The others have correlation id 0.

    Attributes:
        topic: The partition's topic, or empty.
        partition: Its number.
        delivery: The channel that its DELIVER frames carry; above `DELIVERY_CHANNELS`.
        offset: The first offset that will be delivered; for a group's member, the first that no member got yet.
        ack_wait: In the end of the list for a group's member: the group's, ms.
    """

    topic: str
    partition: int
    delivery: int
    offset: int
    ack_wait: int = 0


DELIVERY_CHANNELS = 1 << 31
"""Channels from here on are the broker's to assign; below are the client's."""


class Credit(msgspec.Struct):
    """CREDIT, client → broker: on a subscription's channel. Adds to what may be delivered.

    A batch is never cut: one is delivered while both are positive, and may take either below zero.
    """

    messages: int
    bytes: int


class Ack(msgspec.Struct, omit_defaults=True):
    """ACK, client → broker: on a delivery channel.

    Attributes:
        ranges: Offset ranges, ends included.
        extend: They were not processed yet and still are being: the group's ``ack_wait`` begins anew for those that
            this member holds.
    """

    ranges: list[tuple[int, int]]
    extend: bool = False


class Nack(msgspec.Struct, omit_defaults=True):
    """NACK, client → broker: on the delivery channel of a group's member. Gives records back, those that it holds.

    Attributes:
        ranges: Offset ranges, ends included.
        delay: ms until they may be delivered again.
        returned: The application never saw them: this does not count as a delivery.
        reason: For the headers of a dead letter.
    """

    ranges: list[tuple[int, int]]
    delay: int = 0
    returned: bool = False
    reason: str = ""


class Fetch(msgspec.Struct, omit_defaults=True):
    """FETCH: reads once, without a subscription. Answered by a DELIVER with the same correlation id.

    Attributes:
        topic: A topic name.
        partition: Its number.
        start: `EARLIEST`, `LATEST` or an offset.
        time: µs since the epoch; overrides ``start``.
        bytes: About how much.
    """

    topic: str
    partition: int = 0
    start: int = 0
    time: int | None = None
    bytes: int = 1 << 20


class Describe(msgspec.Struct, omit_defaults=True):
    """DESCRIBE, request: the topics and the groups whose names match these filters; empty for none."""

    filter: str = ">"
    groups: str = ""


class DropGroup(msgspec.Struct):
    """DROP_GROUP: forgets a group that has no members. Answered by an empty body."""

    group: str


class PartitionInfo(msgspec.Struct):
    """One partition in a DESCRIBE reply; ``bytes`` is -1 where the storage cannot tell."""

    partition: int
    first: int
    next: int
    bytes: int
    subscribers: int


class TopicInfo(msgspec.Struct):
    """One topic in a DESCRIBE reply."""

    topic: str
    partitions: list[PartitionInfo]


class MemberInfo(msgspec.Struct):
    """A member of a group: its address, the name it gave itself, and how many records it holds unacknowledged."""

    peer: str
    client: str
    in_flight: int


class GroupPartitionInfo(msgspec.Struct):
    """Where a group stands in one partition. Counts are in records.

    Attributes:
        topic: The partition's topic.
        partition: Its number.
        committed: All before this offset is acknowledged.
        next: The first offset that no member got yet.
        end: The offset that the next published record gets.
        lag: Not acknowledged yet, delivered or not.
        pending: Delivered, not acknowledged.
        redelivered: Delivered more than once, counted each time, since the group was made.
        dead_lettered: Given up and published to the dead-letter topic, likewise.
        skipped: Taken away by retention or their TTL before they were acknowledged, likewise.
    """

    topic: str
    partition: int
    committed: int
    next: int
    end: int
    lag: int
    pending: int
    redelivered: int
    dead_lettered: int
    skipped: int


class GroupInfo(msgspec.Struct):
    """One group in a DESCRIBE reply; ``ack_wait`` in ms, the others as `Subscribe` has them."""

    group: str
    ack_wait: int
    max_deliveries: int
    dead_letter: str
    members: list[MemberInfo]
    partitions: list[GroupPartitionInfo]

    @property
    def lag(self) -> int:
        """Records of all partitions that are not acknowledged yet."""
        return sum(partition.lag for partition in self.partitions)

    @property
    def pending(self) -> int:
        """Records of all partitions that are delivered and not acknowledged."""
        return sum(partition.pending for partition in self.partitions)


class Described(msgspec.Struct):
    """DESCRIBE, reply.

    Attributes:
        topics: Those that match.
        durability: What a publish ack means, as in `Welcome`.
        connections: How many there are.
        broker: Name and version.
        settings: The variants that it is made of, by family.
        groups: Those that match.
        duplicates: Records of retries that were not stored again, since the start.
        promise: As in `Welcome`.
    """

    topics: list[TopicInfo]
    durability: str
    connections: int = 0
    broker: str = ""
    settings: dict[str, str] = {}
    groups: list[GroupInfo] = []
    duplicates: int = 0
    promise: str = ""


Body = TypeVar("Body", bound=msgspec.Struct)


def _no_tag(_decoder: Any) -> NoReturn:
    raise ValueError("CBOR tags are not used here")


# Tags that cbor2 would turn into objects (dates, patterns, shared references): control bodies are plain data.
_TAGS = (*range(6), 25, 28, 29, 30, 35, 36, 37, 43000, 100, 256, 258, 260, 261, 1004)
_TAGS_REFUSED = dict.fromkeys(_TAGS, _no_tag)


def encode_puback(offsets: list[int]) -> bytes:
    """The body of a `PubAck`, without the detour over one: 0.15 µs for one publish, the rule, and 0.1 µs for each more.

    Every offset has eight bytes, which CBOR allows and saves looking (RFC 8949 §4.1).
    """
    if len(offsets) == 1:
        return _ONE_OFFSET + offsets[0].to_bytes(8, "big")
    each = [b"\x1b" + offset.to_bytes(8, "big") for offset in offsets]
    return b"".join([_OFFSETS, cbor.head(cbor.ARRAY, len(offsets)), *each])


_OFFSETS = b"\xa1\x67offsets"  # {"offsets": …}
_ONE_OFFSET = _OFFSETS + b"\x81\x1b"  # [one of eight bytes]


def encode(body: msgspec.Struct) -> bytes:
    """The CBOR map of a control body."""
    return cbor2.dumps(msgspec.to_builtins(body))


def decode_puback(data: Buffer) -> list[int]:
    """The offsets of a `PubAck`; for one publish at a tenth of the cost of `decode`.

    Raises:
        RemoteProtocolError: see `decode`.
    """
    if len(data) == len(_ONE_OFFSET) + 8 and data[: len(_ONE_OFFSET)] == _ONE_OFFSET:
        return [int.from_bytes(data[len(_ONE_OFFSET) :], "big")]
    return decode(data, PubAck).offsets


def decode(data: Buffer, kind: type[Body], limit: int = CONTROL_LIMIT) -> Body:
    """A control body, checked.

    Args:
        data: The frame's body.
        kind: What it must be.
        limit: Most bytes it may have.

    Raises:
        RemoteProtocolError: not one CBOR map with what ``kind`` asks for; the text names the key.
    """
    size = len(data)
    if size > limit:
        raise RemoteProtocolError(f"a {kind.__name__} body of {size:,} bytes: {limit:,} is the most")
    source = BytesIO(data)
    try:
        plain = cbor2.CBORDecoder(
            source,
            max_depth=8,
            semantic_decoders=_TAGS_REFUSED,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            allow_indefinite=False,
            read_size=size + 1,
        ).decode()
        if not isinstance(plain, dict):
            raise RemoteProtocolError(f"a {kind.__name__} body is a CBOR {type(plain).__name__}, not a map")
        if source.tell() != size:
            raise RemoteProtocolError(
                f"{size - source.tell()} bytes follow the map of a {kind.__name__} body"
            )
        return msgspec.convert(plain, kind)
    except (
        cbor2.CBORError,
        msgspec.ValidationError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise RemoteProtocolError(f"a {kind.__name__} body is not understood: {error}") from error
