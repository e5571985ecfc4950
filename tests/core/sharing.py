"""Groups without a server: members that talk to a broker turn by turn, and what they got."""

from __future__ import annotations

from typing import cast

from portask.contracts import EARLIEST, Storage
from portask.core.broker import Broker, Options
from portask.core.groups import Share
from portask.messages import Message
from portask.server.dead_letters import rewrite
from portask.wire import batches, control, windows
from portask.wire.frames import DEFAULT_LIMIT, WINDOW, Opcode
from tests.core.talking import LOTS, Client, Desk, batch_of, records

MS = 1000
"""µs."""


class Got:
    """One window as it came: its records by offset."""

    def __init__(self, delivery: int, window: windows.Window, messages: dict[int, Message]) -> None:
        self.delivery = delivery
        self.first, self.last, self.deliveries = window
        self.messages = messages
        assert list(messages) == list(range(self.first, self.last + 1)), "a window's records are all there"

    def __repr__(self) -> str:
        return f"Got({self.first}-{self.last} ×{self.deliveries})"


class Sharing(Desk):
    """A broker with a topic ``jobs``, someone who publishes to it, and members."""

    def __init__(
        self, options: Options | None = None, storage: Storage | None = None, *, partitions: int = 1
    ) -> None:
        super().__init__(options, storage)
        self.broker = Broker(self.storage, options, rewrite)
        self.broker.wake = self._wake
        self.publisher = self.client()
        self.publisher.open("jobs", 1, partitions=partitions)
        self.published = 0

    def settle(self, after: int = 1000) -> None:
        """Turns until the broker wants none and the storage has answered everything."""
        super().settle(after)
        while getattr(self.storage, "waiting", None):
            super().settle(0)

    def publish(self, count: int, size: int | None = None, *, ttl: int = 0) -> None:
        """``count`` jobs, payloads counting up, in batches of ``size`` (all in one by default)."""
        size = size or count
        for start in range(0, count, size):
            numbers = range(self.published, self.published + min(size, count - start))
            self.publisher.publish(batch_of(*(b"%d" % number for number in numbers), ttl=ttl))
            self.published += len(numbers)
        self.settle()
        self.publisher.take(Opcode.PUBACK)

    def member(self, group: str = "g", **options: object) -> Member:
        """A new connection that is a member."""
        return Member(self, group, options)

    def share(self, group: str = "g", topic: str = "jobs", partition: int = 0) -> Share:
        """What the group knows of a partition."""
        return self.broker.groups.groups[group].shares[self.broker.topics[topic].partitions[partition]]

    def info(self, group: str = "g") -> control.GroupInfo:
        """What DESCRIBE says of the group."""
        client = self.client()
        client.connection.send_control(Opcode.DESCRIBE, control.Describe("", group), client.correlation(), 0)
        self.settle()
        (frame,) = client.take(Opcode.DESCRIBE)
        (found,) = control.decode(frame.body, control.Described).groups
        client.hang_up()
        return found


class Member:
    """One member on a connection of its own.

    Attributes:
        error: Why it is no member, if SUBSCRIBE was refused.
        client: Its connection.
        channels: Its delivery channels by topic and partition.
    """

    def __init__(self, desk: Sharing, group: str, options: dict[str, object]) -> None:
        self.desk = desk
        self.client: Client = desk.client(max_frame=cast("int", options.pop("max_frame", DEFAULT_LIMIT)))
        self.channels: dict[tuple[str, int], int] = {}
        self.error: control.Error | None = None
        self.ack_wait = 0
        values: dict[str, object] = {
            "filter": "jobs",
            "start": EARLIEST,
            "messages": LOTS,
            "bytes": LOTS,
            "group": group,
        }
        body = control.Subscribe(**(values | options))  # type: ignore[arg-type]
        self.client.connection.send_control(Opcode.SUBSCRIBE, body, self.client.correlation(), 7)
        desk.settle()
        self.look()

    def look(self) -> None:
        """Reads what is no delivery."""
        for frame in self.client.take(Opcode.SUBSCRIBE):
            body = control.decode(frame.body, control.Assigned)
            if body.topic:
                self.channels[body.topic, body.partition] = body.delivery
            else:
                self.ack_wait = body.ack_wait
        for _, error in self.client.errors():
            self.error = error

    def take(self) -> list[Got]:
        """The windows that came since the last call."""
        self.look()
        found = []
        for frame in self.client.take(Opcode.DELIVER):
            assert frame.flags == WINDOW
            window, body = windows.split(memoryview(frame.body))
            inside = {
                offset: message
                for offset, message in records(batches.split(body))
                if window.first <= offset <= window.last
            }
            found.append(Got(frame.channel, window, inside))
        return found

    def offsets(self) -> list[int]:
        """The offsets in them."""
        return [offset for got in self.take() for offset in got.messages]

    def say(self, opcode: Opcode, body: control.Ack | control.Nack, channel: int | None = None) -> None:
        """One frame on the only delivery channel, or the given one; leaves with the next turn."""
        (only, *_) = self.channels.values()
        self.client.connection.send_control(opcode, body, 0, channel or only)

    def ack(self, *ranges: tuple[int, int], channel: int | None = None) -> None:
        """ACK, and a turn."""
        self.say(Opcode.ACK, control.Ack(list(ranges)), channel)
        self.desk.settle()

    def extend(self, *ranges: tuple[int, int]) -> None:
        """ACK that only extends, and a turn."""
        self.say(Opcode.ACK, control.Ack(list(ranges), extend=True))
        self.desk.settle()

    def nack(
        self, *ranges: tuple[int, int], delay: int = 0, returned: bool = False, reason: str = ""
    ) -> None:
        """NACK, and a turn."""
        self.say(Opcode.NACK, control.Nack(list(ranges), delay, returned, reason))
        self.desk.settle()

    def credit(self, messages: int, size: int = LOTS) -> None:
        """CREDIT, and a turn."""
        self.client.credit(messages, size, 7)
        self.desk.settle()

    def unsubscribe(self) -> None:
        """UNSUBSCRIBE, and a turn."""
        self.client.connection.send(Opcode.UNSUBSCRIBE, b"", self.client.correlation(), 7)
        self.desk.settle()

    def hang_up(self) -> None:
        """The connection is gone, and a turn."""
        self.client.hang_up()
        self.desk.settle()


def read_all(desk: Sharing, topic: str) -> list[Message]:
    """Every record of partition 0 of a topic."""
    reader = desk.client()
    reader.subscribe(topic)
    desk.settle()
    found = [message for _, message in reader.delivered()]
    reader.hang_up()
    return found
