"""What is received: parsed just far enough to time it and to prove it.

Per read: one reading of the clock. Per batch: its CRC32C, its place in the log (offsets are dense), its
sequence number. A broker may put neighbouring one-record batches into one; then each record is looked at. It
may compress what it put together; then that is unfolded first. Nothing else is copied but the frame that a
read cut in two.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from struct import Struct
from time import monotonic_ns

from crc32c import crc32c

from portask.errors import RemoteProtocolError
from portask.wire import control
from portask.wire.batches import BATCH_HEADER_SIZE
from portask.wire.compression import algorithm_of, decompress
from portask.wire.frames import HEADER_SIZE, Opcode, frame_header
from portask_lab.loadgen import links
from portask_lab.loadgen.messages import HEAD, overhead
from portask_lab.workloads import WrongResult

BUFFER = 1 << 20
CREDIT_MESSAGES = 1 << 20
CREDIT_BYTES = 64 << 20
"""Credit of the subscription; what was used is given back when half of it is gone."""

_BATCH = Struct("<QQIIBBHII")
_CHANNEL = 1
_DELTA = [1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0]  # bytes of a CBOR integer by its low 5 bits; 0 for none


class Consumer:
    """One subscription. What is done with a message is the subclass's: `TimedConsumer`, `CountingConsumer`.

    Args:
        port: Of the broker.
        topic: What to subscribe to: a topic or a filter.
        count: Messages that a batch has when it is published.
        size: Bytes a payload.
        bare: Leaves out the handshake, for a relay.

    Attributes:
        batches: Batches received (as published, not as delivered).
        messages: Messages received.
        deliveries: How many messages each delivered batch had → how often.
    """

    def __init__(self, port: int, topic: str, count: int, size: int, *, bare: bool = False) -> None:
        self.sock = links.dial(port)
        self.batches = 0
        self.messages = 0
        self.deliveries: Counter[int] = Counter()
        self._count = count
        self._size = size
        self._lead = overhead(size)
        self._buffer = bytearray(BUFFER)
        self._body = self._view = memoryview(self._buffer)
        """`_body` is where records are read: the buffer, or what a compressed batch unfolded to."""
        self._held = 0
        self._offsets: dict[int, int] = {}
        """What is due next, by the channel of the delivery: each stands for one partition."""
        self._used_messages = self._used_bytes = 0
        self._bare = bare
        if not bare:
            links.subscribe(self.sock, topic, _CHANNEL, CREDIT_MESSAGES, CREDIT_BYTES)
        self.sock.setblocking(False)

    def read(self) -> None:
        """Reads once and takes in what is whole.

        Raises:
            WrongResult: something was lost, repeated, reordered or altered.
            PortaskError: the broker complained or hung up.
        """
        held = self._held
        got = self.sock.recv_into(self._view[held:])
        now = monotonic_ns()
        if not got:
            raise RemoteProtocolError("the broker hung up on the consumer")
        view = self._view
        start, size = 0, held + got
        while size - start >= HEADER_SIZE:
            magic, _, opcode, _, length, _, channel = links.HEADER.unpack_from(view, start)
            if magic != b"PORT":
                raise WrongResult("the stream of deliveries is out of step: no frame where one should begin")
            end = start + HEADER_SIZE + length
            if end > size:
                break
            if opcode in {Opcode.DELIVER, Opcode.PUBLISH}:  # a relay gives back what was published
                self._deliver(channel, start + HEADER_SIZE, end, now)
            elif opcode == Opcode.ERROR:
                raise links.read_error(bytes(view[start + HEADER_SIZE : end]))
            else:
                self._other(opcode, start + HEADER_SIZE, end)
            start = end
        self._held = size - start
        if start and self._held:
            self._buffer[: self._held] = self._buffer[start:size]
        if end_needed(view, self._held) > len(self._buffer):
            self._grow(end_needed(view, self._held))
        if self._used_messages > CREDIT_MESSAGES // 2 or self._used_bytes > CREDIT_BYTES // 2:
            self._give_credit()

    def _deliver(self, channel: int, start: int, end: int, now: int) -> None:
        view = self._view
        offset = -1 if self._bare else self._offsets.get(channel, -1)
        while start < end:
            base, _, length, check, _, _, attributes, count, raw = _BATCH.unpack_from(view, start)
            stop = start + length
            if crc32c(view[start + 24 : stop]) != check:
                raise WrongResult("a delivered batch does not match its checksum")
            if offset < 0 or self._bare:
                offset = base
            skip = offset - base
            if not 0 <= skip < count:
                raise WrongResult(f"offset {offset} was due, {base} came: lost or reordered")
            self._offsets[channel] = offset = base + count
            self.deliveries[count] += 1
            at, last = start + BATCH_HEADER_SIZE, stop
            if algorithm_of(attributes):
                self._body = memoryview(decompress(attributes, view[at:stop], raw))
                at, last = 0, raw
            if self._count > 1:
                if count != self._count:
                    raise WrongResult(f"a batch of {self._count} messages arrived with {count}")
                self._take(at + self._lead, now)
            elif count == 1:
                self._take(last - self._size, now)
            else:
                self._gathered(at, last, count, skip, now)
            self._body = view
            self.messages += count - skip
            self._used_messages += count
            self._used_bytes += length
            start = stop

    def _other(self, opcode: int, start: int, end: int) -> None:
        """Another frame, whose body lies there in the buffer."""

    def _take(self, at: int, now: int) -> None:
        """A batch as it was published; ``at`` is where its first payload begins."""
        raise NotImplementedError

    def _gathered(self, at: int, stop: int, count: int, skip: int, now: int) -> None:
        """One-record batches that the broker put together, but for the first ``skip``: those came before."""
        step = self._lead - 1 + self._size
        view = self._body
        for number in range(count):
            at += _DELTA[view[at + 1] & 0x1F] + step
            if number >= skip:  # a stored batch may begin before the offset that was asked for
                self._take(at - self._size, now)

    def _grow(self, size: int) -> None:
        grown = bytearray(size)
        grown[: self._held] = self._buffer[: self._held]
        self._buffer = grown
        self._body = self._view = memoryview(grown)

    def _give_credit(self) -> None:
        body = control.encode(control.Credit(self._used_messages, self._used_bytes))
        self._used_messages = self._used_bytes = 0
        if not self._bare:
            self.sock.send(frame_header(Opcode.CREDIT, len(body), 0, _CHANNEL) + body)

    def close(self) -> None:
        """Hangs up."""
        self.sock.close()


def end_needed(view: memoryview, held: int) -> int:
    """Bytes of buffer that the frame at the front needs, as far as its header is there."""
    if held < HEADER_SIZE:
        return 0
    length: int = links.HEADER.unpack_from(view, 0)[4]
    return HEADER_SIZE + length


class TimedConsumer(Consumer):
    """Records when each batch came, of publishers that take turns.

    Args:
        expected: Batches that will come; room for their times is taken now.
        publishers: How many there are. Batch ``n`` of all is batch ``n // publishers`` of publisher ``n % publishers``.

    Attributes:
        latency: ns from the intended time to the arrival, by the batch's number.
        arrived: The moment of arrival, ``CLOCK_MONOTONIC`` ns.
    """

    def __init__(
        self,
        port: int,
        topic: str,
        count: int,
        size: int,
        expected: int,
        *,
        publishers: int = 1,
        bare: bool = False,
    ) -> None:
        super().__init__(port, topic, count, size, bare=bare)
        self.latency = array("q", bytes(8 * expected))
        self.arrived = array("q", bytes(8 * expected))
        self._taken = [0] * publishers

    def _take(self, at: int, now: int) -> None:
        intended, sequence, publisher = HEAD.unpack_from(self._body, at)
        taken = self._taken
        due = taken[publisher]
        if sequence != due:
            raise WrongResult(f"message {due} was due, {sequence} came: lost, repeated or reordered")
        taken[publisher] = due + 1
        self.batches += 1
        number = due * len(taken) + publisher
        self.latency[number] = now - intended
        self.arrived[number] = now


class CountingConsumer(Consumer):
    """Counts and proves, as cheaply as can be, what comes from the rings of several publishers.

    Args:
        rings: How many batches each publisher's ring has: its sequence numbers start again after so many.
    """

    def __init__(self, port: int, topic: str, count: int, size: int, rings: Sequence[int]) -> None:
        super().__init__(port, topic, count, size)
        self.taken = [0] * len(rings)
        """Batches by publisher."""
        self._rings = rings
        self._records = Struct(f"<{self._lead + 8}xII{size - HEAD.size}x")

    def _take(self, at: int, now: int) -> None:
        _, sequence, publisher = HEAD.unpack_from(self._body, at)
        due = self.taken[publisher]
        if sequence != due % self._rings[publisher]:
            raise WrongResult(
                f"batch {due} of publisher {publisher} was due, {sequence} came: lost, repeated or reordered"
            )
        self.taken[publisher] = due + 1
        self.batches += 1

    def _gathered(self, at: int, stop: int, count: int, skip: int, now: int) -> None:
        """Several publishers' records take turns in it: each is looked at, in C where they are of one size."""
        step = self._records.size
        if stop - at != count * step:
            super()._gathered(at, stop, count, skip, now)
            return
        taken, rings = self.taken, self._rings
        for sequence, publisher in self._records.iter_unpack(self._body[at + skip * step : stop]):
            due = taken[publisher]
            if sequence != due % rings[publisher]:
                raise WrongResult(
                    f"batch {due} of publisher {publisher} was due, {sequence} came: lost, repeated or reordered"
                )
            taken[publisher] = due + 1
        self.batches += count - skip
