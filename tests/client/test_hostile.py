"""Whatever a broker sends in well-formed frames, the client goes on, or gives the link up with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from hypothesis import example, given, settings
from hypothesis import strategies as st

from portask.client.codecs import Decoder, Encoder
from portask.client.connector import Connector
from portask.client.link import Link
from portask.client.options import Address, Options
from portask.client.publisher import Publisher
from portask.client.subscriber import Subscriber
from portask.client.subscription import Subscription
from portask.reference.codec import Cbor2Codec
from portask.reference.compression import Never
from portask.wire import batches, control
from portask.wire.connection import State
from portask.wire.frames import REPLY, VERSION, Opcode, frame_header

SUBSCRIPTION = (1 << 30) + 1
WELCOME = control.encode(control.Welcome(VERSION, 1 << 20, "hostile", "memory", [], 60))


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        assert not self.closed

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


NUMBER = st.one_of(
    st.integers(-3, 5), st.sampled_from([1 << 31, (1 << 31) + 1, 1 << 60, -(1 << 60), 65_535, 65_536])
)
PUBACKS = st.builds(control.PubAck, st.lists(NUMBER, max_size=3)).map(control.encode)
ASSIGNED = st.builds(control.Assigned, st.sampled_from(["", "t", "u"]), NUMBER, NUMBER, NUMBER).map(
    control.encode
)
OPENED = st.builds(control.Open, st.just("t"), NUMBER, NUMBER).map(control.encode)
ERRORS = st.builds(
    control.Error, st.sampled_from(["draining", "broker", "offset-out-of-range", "?"]), st.text(max_size=5)
).map(control.encode)
BATCHES = st.builds(
    batches.build, st.sampled_from([b"\x84\x00\xf6\xf6\x40", b"?"]), st.just(1), codec=st.integers(0, 3),
    base_timestamp=st.integers(0, 1 << 63), base_offset=st.integers(0, 1 << 63),
)  # fmt: skip
CORRELATION = st.integers(0, 9)
CHANNEL = st.sampled_from([0, 1, 2, SUBSCRIPTION, 1 << 31, (1 << 31) + 1])
FLAGS = st.sampled_from([0, REPLY])
ANSWERS = (
    Opcode.ERROR, Opcode.PING, Opcode.PONG, Opcode.DRAIN, Opcode.OPEN, Opcode.PUBACK, Opcode.SUBSCRIBE,
    Opcode.UNSUBSCRIBE, Opcode.DELIVER, Opcode.DESCRIBE,
)  # fmt: skip
ANYTHING = st.tuples(
    st.sampled_from([*map(int, ANSWERS), 99]),
    st.one_of(st.binary(max_size=30), PUBACKS, ASSIGNED, OPENED, ERRORS, BATCHES),
    CORRELATION,
    CHANNEL,
    FLAGS,
)


Frame = tuple[int, bytes, int, int, int]


def plausible(
    opcode: Opcode, body: st.SearchStrategy[bytes], channel: int, *, pushed: bool = False
) -> st.SearchStrategy[Frame]:
    """Frames that reach their handler, with contents that may be anything."""
    correlation = st.just(0) if pushed else CORRELATION
    return st.tuples(st.just(int(opcode)), body, correlation, st.just(channel), st.just(REPLY))


FRAMES = st.one_of(
    ANYTHING,
    plausible(Opcode.SUBSCRIBE, ASSIGNED, SUBSCRIPTION, pushed=True),
    plausible(Opcode.SUBSCRIBE, ASSIGNED, SUBSCRIPTION),
    plausible(Opcode.DELIVER, BATCHES, 1 << 31, pushed=True),
    plausible(Opcode.OPEN, OPENED, 1),
    plausible(Opcode.PUBACK, PUBACKS, 1),
    plausible(Opcode.ERROR, ERRORS, 1),
)
Sent = list[Frame]


async def face(sent: Sent) -> None:
    # Short: who delivers without having agreed to the subscription is waited for, as long as that.
    options = Options(request_timeout=0.05, reconnect=False)
    publisher, subscriber = Publisher(options), Subscriber(options)
    codec = Cbor2Codec()
    publisher.encoder, subscriber.decoder = Encoder(codec, Never()), Decoder(codec, {})
    address = Address("hostile", 1)
    connector = Connector([address], options, publisher, subscriber)
    link = Link(
        address, options, on_frame=connector._dispatch, on_lost=connector._lost, on_draining=lambda _: None
    )
    transport = Wire()
    link.connection_made(transport)
    link.data_received(frame_header(Opcode.WELCOME, len(WELCOME)) + WELCOME)
    subscription = Subscription(
        subscriber,
        SUBSCRIPTION,
        filter=">",
        start=(-1, None),
        partition=None,
        credit_messages=10,
        credit_bytes=999,
    )
    begun = asyncio.ensure_future(subscription.start())
    pending = publisher.producer("t", 0, 100, 0).publish_nowait(b"x")
    await asyncio.sleep(0)
    connector._adopt(link)
    for opcode, body, correlation, channel, flags in sent:
        if transport.closed:
            break
        link.data_received(frame_header(opcode, len(body), correlation, channel, flags) + body)
        await asyncio.sleep(0)
        if link.alive and subscription._positions:
            subscription.begin(link)  # as after a reconnection: what was assigned is asked for again
        if subscription._queue:
            consumed = await asyncio.gather(subscription.next_batch(), return_exceptions=True)
            assert not isinstance(consumed[0], (IndexError, TypeError, MemoryError, AttributeError))
    if link.connection.state is State.CLOSED:
        assert link.connection.fault is not None
        assert transport.closed
    link.connection_lost(None)
    for timer in (link._watch, link._cut):
        assert timer is None or timer.cancelled()
    connector._finish(None, cast("Exception", link.lost))  # type: ignore[arg-type]
    await asyncio.gather(begun, pending, return_exceptions=True)
    assert publisher.budget.used == 0


DELIVERED_UNASKED: Sent = [
    (Opcode.SUBSCRIBE, control.encode(control.Assigned("t", 0, 1 << 31, 0)), 0, SUBSCRIPTION, REPLY),
    (Opcode.DELIVER, batches.build(b"\x84\x00\xf6\xf6\x40", 1, codec=0, base_timestamp=0), 0, 1 << 31, REPLY),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=8))
@example(DELIVERED_UNASKED)
def test_any_frames_are_faced(sent: Sent) -> None:
    asyncio.run(asyncio.wait_for(face(sent), 10))
