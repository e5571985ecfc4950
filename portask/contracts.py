"""One small Protocol per family: what a variant must do, and not one method more.

What only some variants can do is a second Protocol (`StreamingCodec`, `BatchRing`, `Closeable`). Whether a
variant can is seen with ``isinstance``; the registry's ``capabilities`` say what cannot be seen from outside
("processes").

A variant is created by calling its registered target with the options of the config file as keyword
arguments: ``Entry.make(**options)``. All options have defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from portask.errors import PortaskError
from portask.messages import Buffer, Message, RecordBatch, TopicPartition

FAMILIES = ("codec", "ring", "pool", "compression", "workers", "storage", "server")
"""The seven families, in the order in which a message meets them."""


# ── codec ─────────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Codec(Protocol):
    """Messages ↔ the record area of a batch. Whole batches per call; holds no state between calls.

    Wire id 1 is a CBOR sequence (RFC 8742) of records ``[timestamp delta µs, key|null, headers|null,
    payload]``, and all
    variants with that id produce the same bytes: shortest-form integers and lengths, definite lengths,
    headers in the mapping's own order, an empty mapping as null (RFC 8949 §4.2.1 but for the key order).
    """

    wire_id: int

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> Buffer:
        """The records of ``messages``, one after the other. A message with timestamp 0 gets delta 0.

        Raises:
            CodecError: a field has a type the wire does not carry.
        """
        ...

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[Message]:
        """Exactly ``count`` messages that fill ``body`` to its last byte, with absolute timestamps.

        Accepts any well-formed CBOR of the record's shape: also longer-than-shortest lengths, and
        indefinite-length strings as streaming encoders write them. What comes back outlives ``body``: it stays
        as it is when the caller writes over its buffer. A codec may make each message only when it is looked at;
        it has checked all of ``body`` before it returns.

        Raises:
            CodecError: anything else; the text gives the byte position.
        """
        ...


@runtime_checkable
class StreamingCodec(Protocol):
    """A codec that also handles one message whose payload is larger than anybody wants in memory.

    On the wire the payload is an indefinite-length byte string (RFC 8949 §3.2.3) of definite chunks.
    """

    def encode_stream(
        self, message: Message, payload: Iterable[Buffer], base_timestamp: int
    ) -> Iterator[bytes]:
        """The record in pieces, one chunk held at a time. ``payload`` gives its bytes; ``message.payload`` is empty."""
        ...

    def stream_decoder(self, base_timestamp: int) -> StreamDecoder:
        """A decoder for one record, fed with pieces cut anywhere."""
        ...


class StreamDecoder(Protocol):
    """Incremental decoder of one record. Buffers the head and at most one chunk header, never the payload."""

    message: Message | None
    """Key, headers and timestamp (with an empty payload) as soon as they are known."""
    done: bool

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """The payload bytes that ``data`` brings, as pieces.

        Raises:
            CodecError: not a record, or bytes after its end.
        """
        ...


# ── ring ──────────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Ring(Protocol):
    """A bounded FIFO of byte records between one producer and one consumer. Never blocks.

    Made with ``capacity`` in bytes. A record occupies its length and `RECORD_OVERHEAD` (framing, alignment).
    A ring accepts at least half its capacity in records of any one size up to an eighth of it, and never
    holds more than its capacity.
    """

    capacity: int

    def put(self, record: Buffer) -> None:
        """Appends a copy of, or a reference to, ``record`` (which must not change afterwards).

        Raises:
            RingFull: no room now; carries the record.
            RingClosed: the ring was closed.
            ValueError: the record can never fit: larger than an eighth of the capacity.
        """
        ...

    def get(self) -> bytes:
        """The oldest record.

        Raises:
            RingEmpty: nothing now.
            RingClosed: nothing, and closed: nothing will come.
        """
        ...

    def __len__(self) -> int:
        """Bytes in use, overhead included. Exact for the caller's own side, a moment old for the other's."""
        ...

    def close(self) -> None:
        """No more puts; what is inside can still be taken. Idempotent. The last side to close frees what is shared."""
        ...


RECORD_OVERHEAD = 8
"""Bytes a record costs in a ring beside its own."""


@runtime_checkable
class BatchRing(Protocol):
    """A ring that moves many records per call."""

    def put_many(self, records: Sequence[Buffer]) -> int:
        """Puts as many as fit, in order; returns how many: ``records[n:]`` did not fit."""
        ...

    def get_many(self, limit: int) -> list[bytes]:
        """Up to ``limit`` records, oldest first; empty when there are none.

        Raises:
            RingClosed: nothing, and closed.
        """
        ...


@runtime_checkable
class SharedRing(Protocol):
    """A ring whose other end may be opened by name in another process."""

    name: str

    @classmethod
    def attach(cls, name: str) -> Ring:
        """The same ring, opened by another process."""
        ...


@runtime_checkable
class WaitingRing(Protocol):
    """A ring whose consumer waits outside of the interpreter: other threads run meanwhile, and nothing is polled."""

    def wait(self, timeout: float, spin: float = 0.0) -> bool:
        """Returns as soon as there is something to take, or to hear: whether that came within ``timeout`` seconds.

        Args:
            timeout: Seconds at most, ``math.inf`` for good. A signal's handler runs meanwhile, within 50 ms.
            spin: Of these, seconds spent looking all the time: burns one core, and saves the µs that waking a
                sleeper takes. Then it sleeps.

        It says ``True`` also when the ring is closed: the next `Ring.get` tells. Where several consume, another may
        have been faster.
        """
        ...


# ── pool ──────────────────────────────────────────────────────────────────────────────────────────────────


class PoolStats(NamedTuple):
    """Counts since the pool was made; ``held`` and ``lent`` are bytes now."""

    taken: int
    reused: int
    held: int
    lent: int


@runtime_checkable
class Pool(Protocol):
    """Hands out writable buffers by size class and takes them back. Single-threaded: one pool a loop."""

    def take(self, size: int) -> memoryview:
        """A writable view of at least ``size`` bytes. Contents are arbitrary.

        Raises:
            ValueError: ``size`` is not positive.
        """
        ...

    def give(self, buffer: memoryview) -> None:
        """Takes back exactly the view that `take` returned. The caller must hold no other view of it.

        Raises:
            PoolError: given twice, or not from this pool.
        """
        ...

    def stats(self) -> PoolStats:
        """Counts, for metrics and for tests of "no allocation in steady state"."""
        ...


# ── compression ───────────────────────────────────────────────────────────────────────────────────────────


class Packed(NamedTuple):
    """A compressed record area and what a reader needs to know of it (`portask.wire.compression` names the numbers)."""

    algorithm: int
    dictionary: int
    data: Buffer


@runtime_checkable
class Compression(Protocol):
    """Decides whether and how hard to compress a record area, and does it. One instance a stream; keeps statistics.

    The way back is not a strategy: `portask.wire.compression.decompress` reads the batch's attributes,
    bounded by the raw length that the batch declares.
    """

    coalesce: int
    """Raw bytes worth gathering before compressing; 0 takes batches as they come."""

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """The compressed form, or ``None`` to leave ``raw`` as it is (also when compressing did not make it smaller).

        Args:
            raw: The record area of one batch.
            load: How busy the caller is: 0.0 idle, 1.0 saturated (share of the last window it spent working).
        """
        ...


# ── workers ───────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Workers(Protocol):
    """Runs CPU-heavy or blocking steps off the loop, bounded. Results come back on the thread that calls `poll`.

    Made with ``limit`` (steps in flight) and ``notify`` (called from any thread when results wait; must be
    thread-safe and cheap; may be called more often than needed).
    """

    def submit(self, step: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs ``step()`` some time; then ``done(result, None)`` or ``done(None, error)`` inside a later `poll`.

        Raises:
            WorkersFull: ``limit`` steps are in flight. Nothing was queued.
        """
        ...

    def poll(self) -> int:
        """Calls ``done`` for every finished step, in the order of submission; returns how many. Never blocks."""
        ...

    def close(self) -> None:
        """Waits for the steps in flight. Their results can still be polled; new ones are refused. Idempotent."""
        ...


@runtime_checkable
class NativeSteps(Protocol):
    """Workers that run some steps without the interpreter, beside a loop that is busy with it.

    The steps are made here and submitted like any other. Called, they do the same at once, on any thread; so other
    workers run them too. ``data`` must not change until the step is done.
    """

    def zstd_compress(self, data: Buffer, level: int = 3) -> Callable[[], bytes]:
        """``data`` as one zstd frame (RFC 8878) that states its raw length. Errors: ValueError, no such level."""
        ...

    def zstd_decompress(self, data: Buffer, length: int) -> Callable[[], bytes]:
        """The raw bytes of one zstd frame, exactly ``length``; never writes more. Errors: ValueError, when it runs."""
        ...

    def crc32c(self, data: Buffer) -> Callable[[], int]:
        """The CRC32C of ``data``."""
        ...


# ── storage ───────────────────────────────────────────────────────────────────────────────────────────────


class Durability(Enum):
    """What a publish ack means."""

    MEMORY = "memory"
    """In RAM of the broker: lost when the process ends."""
    OS = "os"
    """Handed to the kernel: survives kill -9."""
    SYNCED = "synced"
    """Synced to the device: survives power loss."""
    SERVER = "server"
    """As the remote store says; read from it and reported, never assumed."""


EARLIEST = -2
"""`Storage.lookup`: the oldest offset that is still there."""
LATEST = -1
"""`Storage.lookup`: the offset that the next append gets."""

Appended = Callable[[int, PortaskError | None], None]
"""``done(base_offset, None)`` or ``done(-1, error)``."""
Read = Callable[[Sequence[Buffer], PortaskError | None], None]
"""``done(batches, None)``: whole stamped batches in offset order, or ``done((), error)``."""
Found = Callable[[int, PortaskError | None], None]
"""``done(offset, None)`` or ``done(-1, error)``."""


@runtime_checkable
class Storage(Protocol):
    """Appends record batches and gives them back by offset. Completes by callback; embedded ones before they return.

    Offsets of a partition are dense from 0 and never reused. A storage may store neighbouring small batches
    as one (`portask.wire.coalesce`), never reorders, and never changes a record.
    """

    durability: Durability

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        """Assigns the next ``batch.count`` offsets. ``batch.data`` is only valid during the call: keep a copy.

        Args:
            partition: Created by its first append.
            batch: Already checked; its stamp bytes are ignored.
            now: Append time, µs since the epoch; never goes back within a partition.
            done: Called with the base offset once the declared durability is reached, or with `StorageFull`
                or another error.
        """
        ...

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """Batches from the one that contains ``offset``: about ``limit`` bytes, but at least one if there is one.

        The first batch may begin before ``offset``: readers skip. An offset equal to the next one gives no
        batches. The buffers stay valid and unchanged for as long as the caller holds them.
        Errors: `UnknownPartition`, `OffsetOutOfRange`.
        """
        ...

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """The offset to read from: for `EARLIEST`, `LATEST`, or the first record appended at ``when`` µs or later.

        Coalescing blurs append times by at most `COALESCE_WINDOW_US`: a time lookup may answer that much
        early, never late. Lookups of one partition complete in the order in which they were asked.
        Errors: `UnknownPartition`.
        """
        ...

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """Forgets whole batches, oldest first: those that end at or before ``before``, and those above ``max_bytes``.

        Offsets stay as they are. The newest batch always stays, so that the next offset is never forgotten.
        """
        ...

    def flush(self, done: Callable[[PortaskError | None], None]) -> None:
        """``done`` once everything appended so far has the declared durability."""
        ...


COALESCE_WINDOW_US = 1_000_000
"""Append times that one coalesced batch may span."""


@runtime_checkable
class Catalog(Protocol):
    """A storage that can say what it holds, so that a broker finds its topics again."""

    def partitions(self) -> Iterable[TopicPartition]:
        """Every partition with an append behind it."""
        ...

    def size(self, partition: TopicPartition) -> int:
        """Bytes stored for it now. Errors: 0 for an unknown one."""
        ...


@runtime_checkable
class Deferred(Protocol):
    """A storage that may complete after it returned: it syncs on another thread, or asks a server.

    ``done`` callbacks are called from `poll`, on the thread that calls it, never from elsewhere.
    """

    notify: Callable[[], None]
    """Set by the owner: thread-safe and cheap; called from any thread when completions wait for `poll`."""

    def poll(self) -> int:
        """Calls ``done`` of what finished, in order of append within a partition; returns how many. Never blocks."""
        ...


@runtime_checkable
class Gathering(Protocol):
    """A storage that completes the appends of one turn together: one write, neighbouring small batches as one.

    Its `Storage.append` may return before ``done`` was called. Whoever appends calls `commit` soon after.
    """

    def commit(self) -> None:
        """Stores what was appended and saved since the last call; calls ``done`` of what is as durable as declared.

        Cheap when there is nothing. `Deferred.poll` of such a storage commits too.
        """
        ...


@runtime_checkable
class Producers(Protocol):
    """A storage that remembers where each producer stands, so that a retry is known as one after a restart."""

    def producers(self, partition: TopicPartition) -> Mapping[int, tuple[int, int, int]]:
        """Producer id → (epoch, last sequence number, offset of that record), of completed appends.

        The storage's own table: it changes with the next append. Those whose records were all trimmed may be
        missing. Empty for an unknown partition.
        """
        ...


@runtime_checkable
class Sequenced(Protocol):
    """A storage that checks the numbers of idempotent producers itself, because other brokers append to it as well.

    Its `Storage.append` of a numbered batch fails with `AlreadyStored` (a retry: nothing was appended), `OutOfSequence`
    or `Fenced`. It recognizes at least the last `portask.wire.sequences.KEPT_BATCHES` batches of a producer with their
    offsets, and forgets a producer whose records were all trimmed.
    """

    def resume(
        self,
        partition: TopicPartition,
        producer: int,
        epoch: int,
        sequence: int,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        """A producer says that ``sequence`` is its next number: what lies before was stored, or given up.

        0 says that it has not published here yet. ``done`` gets `Fenced` if somebody uses its id with a newer epoch,
        or did with this one where it says that it has not.
        """
        ...


@runtime_checkable
class Shared(Protocol):
    """A storage that other brokers use at the same time: topics come and partitions grow without the owner's doing."""

    grown: Callable[[TopicPartition, int], None]
    """Set by the owner, called from `Deferred.poll`: the next offset of a partition that others appended to.

    Both the partition and its topic may be new here. May be called for nothing; must be called in the end whatever
    happens to the other broker. 0 announces a topic."""

    def topics(self) -> Mapping[str, int]:
        """Topics, and how many partitions they have, as far as is known without asking. Changes with time."""
        ...

    def declare(self, topic: str, partitions: int, done: Callable[[int, PortaskError | None], None]) -> None:
        """Says that there is a topic. ``done(count, None)``: how many partitions it has, as the first broker said."""
        ...


@runtime_checkable
class Explained(Protocol):
    """A storage whose durability needs words: those of the server that keeps the records."""

    promise: str
    """What an acknowledged record survives, for people, in one line. May change while it is open."""


@runtime_checkable
class GroupState(Protocol):
    """A storage that keeps what a consumer group knows about a partition, as durable as it keeps records."""

    def save_group(
        self,
        group: str,
        partition: TopicPartition,
        state: bytes,
        done: Callable[[PortaskError | None], None],
    ) -> None:
        """Replaces the group's state of the partition. Of several saves before a `Gathering.commit` the last stays."""
        ...

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        """The newest state of every group and partition."""
        ...

    def drop_group(self, group: str) -> None:
        """Forgets the group. One that is not there is no error."""
        ...


class Grant(NamedTuple):
    """Records that a broker got for its members of a group: fresh ones, or those of a broker that is gone.

    Attributes:
        number: Of the claim; ascending.
        first: The first fresh record.
        last: The last one; before ``first`` if there is none.
        state: What the other broker reported of those that it had, or ``None``.
    """

    number: int
    first: int
    last: int
    state: bytes | None = None


class GroupPart(NamedTuple):
    """What a store knows of a group in one partition, all brokers together.

    Attributes:
        group: Its name.
        partition: Where.
        settings: What its members agreed on, as the first broker wrote it.
        next: The first offset that no broker got.
        held: What brokers hold: fresh records, and states that they reported.
        counts: Acknowledged, redelivered, dead-lettered, skipped: records.
    """

    group: str
    partition: TopicPartition
    settings: bytes
    next: int
    held: Sequence[Grant]
    counts: Sequence[int]


@runtime_checkable
class SharedGroups(Protocol):
    """A storage in which brokers share a group's records among them, in place of `GroupState`.

    Within a partition each broker with members claims records, delivers them, and reports what it still holds. That is
    its own as long as it is alive; when it is gone, others claim it before anything fresh. Nothing is ever forgotten:
    at worst two brokers deliver the same.
    """

    regranted: Callable[[str, TopicPartition, bool], None]
    """Set by the owner, called from `Deferred.poll`. Of a group that this broker takes part in: there may be something
    to claim; or, if true, all that it held went to others, because it was not heard of in time: it takes part no
    more."""

    def begin(
        self,
        group: str,
        partition: TopicPartition,
        settings: bytes,
        start: int,
        done: Callable[[bytes, PortaskError | None], None],
    ) -> None:
        """This broker takes part. A group that is new gets these settings, and begins at ``start`` if it is new here.

        ``done(settings, None)`` gets those that hold. What is published later belongs to the group then.
        """
        ...

    def claim(
        self,
        group: str,
        partition: TopicPartition,
        count: int,
        done: Callable[[Grant | None, PortaskError | None], None],
    ) -> None:
        """Asks for up to ``count`` fresh records, or what a broker held that is gone; ``None`` if there is nothing."""
        ...

    def report(
        self,
        group: str,
        partition: TopicPartition,
        held: tuple[bytes | None, int],
        counts: Sequence[int],
        done: Callable[[PortaskError | None], None] | None,
    ) -> None:
        """Says what this broker still holds: a state, or ``None`` for nothing; and the number of the last grant in it.

        ``counts`` are added to the group's. Without ``done`` the broker takes part no more, and what it says that it
        holds is anybody's.
        """
        ...

    def group_parts(self, done: Callable[[Sequence[GroupPart], PortaskError | None], None]) -> None:
        """Everything that is known of groups."""
        ...

    def drop_group(self, group: str, done: Callable[[bool, PortaskError | None], None]) -> None:
        """Forgets a group; whether there was one. `NotPermitted` if a broker takes part."""
        ...


@runtime_checkable
class Closeable(Protocol):
    """A variant that holds files, sockets, threads or shared memory."""

    def close(self) -> None:
        """Releases them. Idempotent."""
        ...


# ── server ────────────────────────────────────────────────────────────────────────────────────────────────


class Endpoint(Protocol):
    """What a server calls: one per connection. `portask.core.session.Session` is the one there is.

    The server reads bytes and calls ``receive``; after it has read every ready socket it calls
    ``Engine.turn`` once, then writes what ``take_output`` of each returned session gives in one vectored
    write.
    """

    closing: bool
    """Close the connection once its output is written."""
    paused: bool
    """Stop reading from the connection: it has too much under way. `turn` reports changes."""
    congested: bool
    """Set by the server while it holds more unsent bytes than its high-water mark: no deliveries meanwhile."""

    def receive(self, data: Buffer) -> None:
        """Parses and queues. Never raises for bad bytes: an ERROR becomes output and ``closing`` is set."""
        ...

    def take_output(self) -> list[Buffer]:
        """What to write now, in order. Views into receive buffers are valid until those are reused."""
        ...


class FramedEndpoint(Endpoint, Protocol):
    """What a server calls that cuts the stream into frames itself."""

    frame_limit: int
    """Largest body that may come now, bytes. Grows once, when the handshake is complete."""
    output: list[Any]
    """What to write now, each a `portask.wire.frames.Outgoing` whose header the server makes. Always the same list:
    taking out is clearing it."""

    def receive_frames(self, frames: list[Any], refused: Buffer = b"") -> None:
        """`Endpoint.receive` for frames that were cut and checked already.

        Args:
            frames: Each a `portask.wire.frames.Frame` within `frame_limit`, in order. The list is the endpoint's.
            refused: The 24 bytes behind them, if those are no header of a frame within the limit. The endpoint
                says why; the server reads and drops whatever comes after.
        """
        ...


class Engine(Protocol):
    """The broker as a server sees it. Synchronous, single-threaded, and it touches neither sockets nor clocks."""

    wake: Callable[[], None]
    """Set by the server: thread-safe, asks for a `turn` soon. Called when a storage or a worker finished something."""

    def connect(self, peer: str, now: int, certificate: tuple[str, ...] = ()) -> Endpoint:
        """A new connection from ``peer`` (host:port, for logs).

        Args:
            peer: Who it is.
            now: µs since the epoch.
            certificate: Names in the certificate that the client proved to have, as ``CN:…``, ``DNS:…``, ``URI:…``,
                ``EMAIL:…``; from servers with the capability "tls".
        """
        ...

    def disconnect(self, endpoint: Any) -> None:
        """The transport is gone. Idempotent."""
        ...

    def turn(self, now: int) -> Sequence[Endpoint]:
        """Handles everything received since the last turn.

        Returns the endpoints to look at: they may have output, be closing, or have changed `paused`.

        Args:
            now: µs since the epoch.
        """
        ...

    def uncongested(self, endpoint: Any) -> None:
        """The endpoint's unsent bytes fell below the server's low-water mark: deliveries go on with the next turn."""
        ...

    def deadline(self) -> int | None:
        """When the next `turn` is due even if nothing arrives (timers), µs since the epoch; ``None`` for never."""
        ...

    def drain(self, now: int) -> None:
        """Tells every client that the broker is going away; the next turns finish what is under way."""
        ...


@runtime_checkable
class Server(Protocol):
    """Accepts connections and moves bytes between sockets and the engine."""

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """Serves until `stop`; calls ``ready(host, port)`` once it listens (port 0 picks a free one). Blocks.

        On stop: no more accepts, `Engine.drain`, up to the ``grace`` option's seconds to write what is
        queued, then closes.

        Raises:
            OSError: the address is in use or not ours.
        """
        ...

    def stop(self) -> None:
        """Ends `run`. Safe from other threads and from signal handlers; idempotent."""
        ...
