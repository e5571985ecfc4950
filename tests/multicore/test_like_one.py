"""Several workers against one broker: the same scripts, the same answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portask.contracts import EARLIEST, LATEST
from portask.core.broker import Options
from portask.messages import Message
from portask.reference.storage import MemoryStorage
from portask.wire import batches, control, inboxes, windows
from portask.wire.frames import REPLY, WINDOW, Opcode
from tests.core.talking import CODEC, LOTS, Client, Desk
from tests.multicore.several import Several

CLIENTS = 3
TOPICS = ["a", "a.b", "c", "a..b"]
FILTERS = ["a", "a.*", ">", "c", "new.>", "_inbox.x", "_inbox.*", "a..b"]
GROUPS = ["g", "h"]
MOST = 3
"""Records of a batch."""


@dataclass(frozen=True)
class Step:
    """What one client says, all at once; then everybody comes to rest."""

    who: int
    asks: tuple[tuple[Any, ...], ...]


@dataclass
class Seen:
    """What one client was told, in a form that does not depend on who told it."""

    answers: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    acks: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    assigned: list[Any] = field(default_factory=list)
    records: dict[Any, list[Any]] = field(default_factory=lambda: defaultdict(list))
    fatal: list[str] = field(default_factory=list)
    channels: dict[int, Any] = field(default_factory=dict)
    delivered: Counter[int] = field(default_factory=Counter)
    granted: dict[int, int] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)


def encoded(payload: bytes, count: int) -> bytes:
    body = CODEC.encode([Message(payload + b"-%d" % number) for number in range(count)], 0)
    return batches.build(body, count, codec=CODEC.wire_id, base_timestamp=0)


class World:
    """One broker, or several workers, and what its clients saw."""

    def __init__(
        self, client: Callable[[int], Client], turn: Callable[[], None], settle: Callable[[], None]
    ) -> None:
        self.clients = [client(number) for number in range(CLIENTS)]
        self.turn, self.settle = turn, settle
        self.seen = [Seen() for _ in self.clients]
        self.members: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)  # groups, by request
        self.group_records: dict[str, list[Any]] = defaultdict(list)
        self.number = 100
        self.limited: set[tuple[int, int]] = set()
        self.loose: set[tuple[int, int]] = (
            set()
        )  # given up with too little credit: or at once: what came is a matter of luck

    def take(self, step: Step) -> None:
        client = self.clients[step.who]
        said = []
        if not client.hung_up:
            for ask in step.asks:
                self.number += 1
                said.append((self.number, ask))
                self._say(step.who, client, ask)
        self.turn()
        for _ in range(200):
            self.settle()
            if not self._look():
                self._account(step.who, self.seen[step.who], said)
                return
            self.turn()
        raise AssertionError("members get records without end")

    def _account(self, who: int, seen: Seen, said: list[tuple[int, tuple[Any, ...]]]) -> None:
        """How much credit each plain subscription has been granted."""
        given_up = {ask[1] for _, ask in said if ask[0] == "unsubscribe"}
        if len(said) > 1:
            self.loose |= {(who, channel) for channel in given_up}
        for number, (kind, *rest) in said:
            if kind == "subscribe":
                channel, messages = rest[1], rest[4]
                if any(each[0] == "SUBSCRIBE" for each in seen.answers[number]):
                    seen.granted[channel] = messages
                    if channel in given_up:
                        seen.unsure.add(channel)
            elif kind == "unsubscribe":
                seen.granted.pop(rest[0], None)
                seen.delivered.pop(rest[0], None)
            elif kind == "credit" and rest[0] in seen.granted:
                seen.granted[rest[0]] += rest[1]

    def forgive(self, who: int) -> None:
        """A fault ends a connection, and may be faster than answers to what came before it."""
        self.seen[who].answers.clear()
        self.seen[who].acks.clear()

    def _say(self, who: int, client: Client, ask: tuple[Any, ...]) -> None:
        kind, *rest = ask
        connection, number = client.connection, self.number
        match kind:
            case "open":
                topic, channel, partition, partitions = rest
                connection.send_control(
                    Opcode.OPEN, control.Open(topic, partition, partitions), number, channel
                )
            case "publish":
                channel, count = rest
                connection.send(Opcode.PUBLISH, encoded(b"%d" % number, count), number, channel)
            case "one-way publish":
                connection.send(Opcode.PUBLISH, encoded(b"%d" % number, 1), 0, rest[0])
            case "broken publish":
                connection.send(Opcode.PUBLISH, b"x" * 80, number, rest[0])
            case "subscribe":
                text, channel, start, partition, messages = rest
                body = control.Subscribe(text, start, None, partition, messages, LOTS)
                if messages < LOTS:
                    self.limited.add((who, channel))
                connection.send_control(Opcode.SUBSCRIBE, body, number, channel)
            case "join":
                text, channel, group, most = rest
                body = control.Subscribe(
                    text, EARLIEST, None, None, LOTS, LOTS, {}, group, max_in_flight=most, ack_wait=60_000
                )
                self.members[who, channel][number] = group
                connection.send_control(Opcode.SUBSCRIBE, body, number, channel)
            case "unsubscribe":
                self.loose |= self.limited & {(who, rest[0])}
                connection.send(Opcode.UNSUBSCRIBE, b"", number, rest[0])
            case "credit":
                channel, messages = rest
                connection.send_control(Opcode.CREDIT, control.Credit(messages, 0), 0, channel)
            case "fetch":
                topic, partition, start = rest
                connection.send_control(Opcode.FETCH, control.Fetch(topic, partition, start), number)
            case "send":
                connection.send(Opcode.SEND, inboxes.pack(rest[0], encoded(b"%d" % number, 1)), number)
            case "describe":
                connection.send_control(Opcode.DESCRIBE, control.Describe(rest[0], ">"), number)
            case "drop":
                connection.send_control(Opcode.DROP_GROUP, control.DropGroup(rest[0]), number)
            case "drain":
                connection.send(Opcode.DRAIN)
            case "leave":
                client.hang_up()
            case _:
                raise AssertionError(kind)

    def _look(self) -> bool:
        """Takes in what came; members acknowledge. Whether they did."""
        acknowledged = False
        for who, (client, seen) in enumerate(zip(self.clients, self.seen, strict=True)):
            arrived, client.arrived = client.arrived, []
            for frame in arrived:
                acknowledged |= self._frame(who, client, seen, frame)
        return acknowledged

    def _frame(self, who: int, client: Client, seen: Seen, frame: Any) -> bool:
        opcode, number = frame.opcode, frame.correlation
        if opcode == Opcode.PUBACK:
            seen.acks[frame.channel] += control.decode_puback(frame.body)
        elif opcode == Opcode.SUBSCRIBE and not number:
            body = control.decode(frame.body, control.Assigned)
            seen.channels[body.delivery] = (frame.channel, body.topic, body.partition)
            if not self.members.get((who, frame.channel)):
                seen.assigned.append((frame.channel, body.topic, body.partition, body.offset))
        elif opcode == Opcode.DELIVER and not frame.flags & REPLY:
            return self._delivered(who, client, seen, frame)
        elif opcode == Opcode.DELIVER:
            seen.answers[number].append(records(frame.body))
        elif opcode == Opcode.ERROR:
            error = control.decode(frame.body, control.Error)
            if number:
                seen.answers[number].append((error.code, error.message, error.first, error.next))
                self.members[who, frame.channel].pop(number, None)
            else:
                seen.fatal.append(error.code)
        elif opcode == Opcode.DESCRIBE:
            seen.answers[number].append(described(control.decode(frame.body, control.Described)))
        elif opcode != Opcode.DRAIN:
            seen.answers[number].append((Opcode(opcode).name, bytes(frame.body)))
        return False

    def _delivered(self, who: int, client: Client, seen: Seen, frame: Any) -> bool:
        channel, topic, partition = seen.channels[frame.channel]
        if not frame.flags & WINDOW:
            found = records(frame.body)
            seen.delivered[channel] += len(found)
            seen.records[channel, topic, partition] += found
            return False
        if client.hung_up:
            return (
                False  # whether it still came is a matter of luck: nobody acknowledges it, and it comes again
            )
        (first, last, _), rest = windows.split(memoryview(frame.body))
        found = [each for each in records(rest) if first <= each[0] <= last]
        group = next(iter(self.members[who, channel].values()))  # those that were refused are gone
        self.group_records[group] += [(topic, partition, *each) for each in found]
        client.connection.send_control(Opcode.ACK, control.Ack([(first, last)]), 0, frame.channel)
        return True

    def result(self) -> Any:
        """What is to be the same."""
        return (
            [(dict(each.answers), dict(each.acks), sorted(each.assigned)) for each in self.seen],
            [each.fatal for each in self.seen],
            [client.hung_up for client in self.clients],
            {name: sorted(found) for name, found in self.group_records.items()},
        )


def records(body: Any) -> list[tuple[int, bytes]]:
    found = []
    for batch in batches.split(body):
        for at, message in enumerate(CODEC.decode(batch.body, batch.count, batch.base_timestamp)):
            found.append((batch.base_offset + at, bytes(message.payload)))
    return found


def described(body: control.Described) -> Any:
    topics = {
        topic.topic: [(each.partition, each.first, each.next, each.subscribers) for each in topic.partitions]
        for topic in body.topics
    }
    groups = {
        group.group: (
            (group.ack_wait, group.max_deliveries),
            sorted((member.peer, member.in_flight) for member in group.members),
            sorted((each.topic, each.partition, each.committed, each.end) for each in group.partitions),
        )
        for group in body.groups
    }
    return topics, groups, body.connections, body.durability


channels = st.integers(1, 4)
partitions = st.integers(0, 3)
credit = st.sampled_from([LOTS, 1, 2, 3, 7])
asks = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(TOPICS), channels, partitions, st.just(4)),
    st.tuples(st.just("publish"), channels, st.integers(1, MOST)),
    st.tuples(st.just("publish"), channels, st.integers(1, MOST)),
    st.tuples(st.just("one-way publish"), channels),
    st.tuples(st.just("broken publish"), channels),
    st.tuples(
        st.just("subscribe"),
        st.sampled_from(FILTERS),
        channels,
        st.sampled_from([EARLIEST, LATEST, 0]),
        st.sampled_from([None, None, 0, 2, 9]),
        credit,
    ),
    st.tuples(
        st.just("join"),
        st.sampled_from(FILTERS),
        st.integers(5, 7),
        st.sampled_from(GROUPS),
        st.sampled_from([0, 1, 3]),
    ),
    st.tuples(st.just("unsubscribe"), channels),
    st.tuples(st.just("credit"), channels, st.sampled_from([0, 1, 1, 2, 2, 5, 5, -1])),
    st.tuples(
        st.just("fetch"),
        st.sampled_from([*TOPICS, "new"]),
        st.integers(-1, 4),
        st.sampled_from([EARLIEST, 0, 1]),
    ),
    st.tuples(st.just("send"), st.sampled_from(["_inbox.x", "_inbox.y"])),
    st.tuples(st.just("drop"), st.sampled_from(GROUPS)),
)
# what is in flight in the very moment is not the same everywhere
alone = st.sampled_from(
    [
        ("drain",),
        ("leave",),
        *(("describe", each) for each in (">", "a", "", "a..b")),
        *(("unsubscribe", each) for each in range(1, 8)),
    ]
)
steps = st.builds(
    Step,
    st.integers(0, CLIENTS - 1),
    st.one_of(
        st.lists(asks, min_size=1, max_size=5).map(tuple),
        st.lists(asks, min_size=1, max_size=5).map(tuple),
        st.lists(asks, min_size=1, max_size=5).map(tuple),
        st.tuples(alone),
    ),
)
BEGINNING = [
    Step(who, tuple(("open", topic, 1 + partition, partition, 4) for partition in range(4)))
    for who, topic in enumerate(["a", "a.b", "c"])
]
"""Or most that is published would be refused."""
OPTIONS = Options(max_channels=5, keepalive=0)


def single() -> World:
    desk = Desk(OPTIONS, MemoryStorage(coalesce_bytes=0))
    return World(lambda number: desk.client(peer=f"c:{number}"), desk.turn, desk.settle)


def several(places: int, capacity: int) -> World:
    workers = Several(places, OPTIONS, lambda _: MemoryStorage(coalesce_bytes=0), capacity=capacity)
    return World(
        lambda number: workers.client(number % places, peer=f"c:{number}"), workers.turn, workers.settle
    )


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    places=st.integers(2, 5),
    capacity=st.sampled_from([4096, 1 << 16, 1 << 20]),
    script=st.lists(steps, min_size=1, max_size=15),
)
def test_several_workers_answer_like_one(places: int, capacity: int, script: list[Step]) -> None:
    one, many = single(), several(places, capacity)
    for step in [*BEGINNING, *script]:
        one.take(step)
        many.take(step)
        if one.seen[step.who].fatal:
            one.forgive(step.who)
            many.forgive(step.who)
        assert many.result() == one.result(), step
        check_records(one, many, places, final=False)
    for who in range(CLIENTS):
        for channel in range(1, 8):
            for world in (one, many):
                world.take(Step(who, (("credit", channel, LOTS),)))
    assert many.result() == one.result()
    check_records(one, many, places, final=True)


def check_records(one: World, many: World, places: int, *, final: bool) -> None:
    for who, (expected, seen) in enumerate(zip(one.seen, many.seen, strict=True)):
        for channel, granted in seen.granted.items():
            if channel in seen.unsure | expected.unsure or one.clients[who].hung_up:
                continue
            got = seen.delivered[channel]
            assert got >= min(granted, expected.delivered[channel]), (
                "credit lies idle where nothing is to be read"
            )
            if granted < LOTS:
                assert got <= granted + places * (MOST - 1), "batches are never cut, but one a worker is all"
        for key in expected.records.keys() | seen.records.keys():
            had, came = expected.records[key], seen.records[key]
            shorter = min(len(had), len(came))
            assert had[:shorter] == came[:shorter], "records of a partition come in order, whoever sends them"
            if final and not one.clients[who].hung_up and (who, key[0]) not in one.loose:
                assert had == came, "with credit for everything, everything comes"
